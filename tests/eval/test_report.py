"""The report: one file, complete, with nothing from outside; pictures that decode."""

import io
import json
import re
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from eval import charts, pictures, report_parts, report_text, results
from eval import text as text_evaluation
from eval.__main__ import evaluate
from eval.report import write_report
from eval.report_data import Evaluation
from vfm.errors import UserError


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    from configs.eval import common

    c = common.get_config()
    c.tasks, c.probes, c.seeds = ("kind",), ("linear", "knn"), 2
    c.linear.min_steps = 10
    workdir = tmp_path_factory.mktemp("eval")
    evaluate(c, [f"pretrained={run}", f"random=random:{run}"], workdir)
    out = write_report(run, workdir / "results.jsonl", workdir / "report.html")
    return out.read_text()


def test_report_is_self_contained(page):
    outside = [u for u in re.findall(r'(?:src|href)="([^"]+)"', page) if not u.startswith("data:")]
    assert not outside
    assert "http" not in re.sub(r'src="data:[^"]+"', "", page)
    assert "<script" not in page and "url(" not in page and "@import" not in page


def test_report_shows_every_part(page):
    for text in (
        "What it imagines",
        "What simple probes find",
        "Class by class",
        "Training loss",
        "To repeat it",
    ):
        assert text in page, text
    for text in ("pretrained", "random", "dark", "bright", "model.encoder.patch", "broken.mp4", "steps"):
        assert text in page, text
    assert page.count("image/png;base64") == 6 * 4
    assert "14 samples (6 of 20 left out: 6 cannot be read), planned 1 or 2 times each" in page
    assert (
        "19 of 21 clips were shown as planned; another sample stood in for" in page and "late <1>" not in page
    )
    assert "<video> stream" not in page and "&lt;video&gt; stream" in page
    assert "tiny <run>" not in page


def small(encoder, accuracy, **more):
    keys = dict(encoder=encoder, probe="knn", task="hands", labels="all", split="leave one signer out", n=20)
    return (
        keys | dict(accuracy=accuracy, std=0.0, seeds=1, protocol="leave_one_group_out", majority=0.5) | more
    )


def test_groups_are_described_and_not_scored():
    found = Evaluation(
        [
            small("fresh", 0.5),
            small("mine", 0.75),
            small("mine", 0.9, task="signer", split="leave one clip out", protocol=results.DIAGNOSTIC),
        ],
        {},
        {},
        {"encoders": {"fresh": {"spec": "fresh=random:RUN"}, "mine": {"spec": "mine=RUN"}}},
    )
    assert found.encoders == ["mine", "fresh"] and found.tasks() == ["hands"]
    table = report_parts.probe_table(found)
    assert "+25.0" in table and "Nearest clip of the same group" in table and "validation" not in table
    assert "signer</h3>" not in report_parts.headline(found, SimpleNamespace(step=3))
    found.about = {"encoders": {"fresh": {"spec": "OTHER"}, "mine": {"spec": "RUN"}}}
    assert "before training" not in report_parts.headline(found, SimpleNamespace(step=3))


def said(encoder, metric, value, control="none", **more):
    keys = dict(encoder=encoder, stage="contrast", metric=metric, task="digit", value=value, chance=0.1)
    return keys | dict(control=control, n=40, se=0.02, protocol="zero_shot", split="test") | more


def test_evaluations_with_text_have_their_sections(run, tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    rows = [
        said("stage2", "top-1", 0.75),
        said("stage2", "top-1", 0.25, "reversed"),
        said("stage2", "R@1", 0.5, task="text_to_video", protocol="retrieval"),
        said("stage2", "R@1 (dual softmax, 100)", 0.625, task="text_to_video", protocol="retrieval"),
        said("stage3", "CIDEr-D", 3.25, task="caption", chance=None, protocol="captions"),
        said("stage2", "choice accuracy", 0.875, task="captions", protocol="choice"),
    ]
    clip = dict(id=3, path="3.mp4", references=["a <nine> grows"])
    clip["generated"] = {"none": "a <nine> grows", "blind": ""}
    text_folder, probe_folder = tmp_path / "text", tmp_path / "probes"
    text_evaluation.save(text_folder, {"stage3": {"shown": [clip], "frames": {3: video}}})
    results.save(text_folder, rows, {}, {})
    probes = [small("stage1", 0.5, stage="masked"), small("stage2", 0.75, stage="contrast", chance=0.5)]
    results.save(probe_folder, probes, {}, {})
    out = write_report(run, [probe_folder, text_folder], tmp_path / "report.html", clips="gone")
    page = out.read_text()
    for shown in (
        "What each stage gave", "What it recognises by name alone", "Finding clips by text", "Questions with answers",
        "What it says", "How good its captions are", "dual softmax", "reversed", "75.0", "25.0", "3.25", "87.5",
        "a &lt;nine&gt; grows", "<i>nothing</i>", "frames of the clip",
    ):  # fmt: skip
        assert shown in page, shown
    assert "<nine>" not in page and "http" not in page
    # Text alone: no probes, and no empty sections of them.
    page = write_report(run, text_folder, tmp_path / "report.html", clips="gone").read_text()
    assert "What it says" in page and "simple probes find" not in page and "What each stage gave" not in page


def test_stages_are_compared_in_one_table():
    rows = [small("a", 0.5, stage="untrained"), small("b", 0.75, stage="masked")]
    assert report_text.stages(Evaluation(rows, {}, {})) == ""
    rows.append(small("c", 0.9, stage="contrast"))
    table = report_text.stages(Evaluation(rows, {}, {}))
    assert table.index("masked") < table.index("contrast") < table.index("untrained")
    assert "<b>90.0" in table and "<b>75.0" not in table


def test_table_is_ahead_of_the_baseline_whatever_comes_first():
    console = Console(record=True, file=io.StringIO())
    results.print_table([small("random", 0.5), small("mine", 0.75)], console)
    assert "+25.0" in console.export_text()


def test_report_comes_without_pictures_where_there_are_no_clips(run, tmp_path):
    (tmp_path / "results.jsonl").write_text(json.dumps(small("mine", 0.75)) + "\n")
    page = write_report(run, tmp_path, tmp_path / "report.html", clips=str(tmp_path / "gone.csv")).read_text()
    assert "No pictures of clips" in page and "gone.csv" in page and "What simple probes find" in page


def test_training_clips_are_not_called_unseen(run, videos, tmp_path):
    (tmp_path / "results.jsonl").write_text(json.dumps(small("mine", 0.75)) + "\n")
    page = write_report(run, tmp_path, tmp_path / "report.html", clips=str(videos / "train.csv")).read_text()
    assert "What it imagines" in page and "never trained on" not in page


def test_report_without_results_says_so(run, tmp_path):
    with pytest.raises(UserError, match="do not exist"):
        write_report(run, tmp_path / "results.jsonl", tmp_path / "report.html")
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="line 1 lacks"):
        write_report(run, tmp_path / "results.jsonl", tmp_path / "report.html")


def test_pictures_decode_to_their_pixels():
    video = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3)).astype(np.uint8)
    for data, frame in ((pictures.png(video[1]), video[1]), (pictures.animated_png(video, 8), video[0])):
        decoded = matplotlib.image.imread(io.BytesIO(data))[..., :3]
        np.testing.assert_array_equal((decoded * 255).round().astype(np.uint8), frame)


def test_animation_holds_every_frame():
    image = pytest.importorskip("PIL.Image")
    video = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3)).astype(np.uint8)
    opened = image.open(io.BytesIO(pictures.animated_png(video, 8)))
    assert opened.n_frames == 3
    for i in range(3):
        opened.seek(i)
        np.testing.assert_array_equal(np.asarray(opened.convert("RGB")), video[i])


def test_strip_and_shrink_keep_sizes():
    video = np.zeros((10, 224, 160, 3), np.uint8)
    small = pictures.shrink(video, 112)
    assert small.shape == (10, 112, 80, 3)
    assert pictures.strip([small, small], frames=4, gap=1).shape == (2 * 113 - 1, 4 * 81 - 1, 3)


def test_charts_take_what_runs_write():
    assert charts.line_chart("loss", [("loss", [], [])]) == ""
    svg = charts.line_chart("loss", [("loss", list(range(5000)), [float("nan"), *[1.0] * 4999])])
    assert "nan" not in svg and svg.count(",") < 1500
    assert [charts.number(v) for v in (0, 12000, 0.25, 2e-5, 3e6)] == ["0", "12k", "0.25", "2e-05", "3M"]
    values = charts.ticks(0.0, 0.97)
    assert values[0] == 0 and 3 <= len(values) <= 6

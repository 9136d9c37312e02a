"""Preparing a set: the same samples, whatever happens on the way."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import open_source, train_batches, write_mp4
from input_pipeline.encode import Encoding
from input_pipeline.plan import Plan
from input_pipeline.prepare import begin, make_shard, prepare, unfinished
from tests.input_pipeline.conftest import COUNT, FRAMES, pixels
from tests.input_pipeline.odd import decoded, hidden, make, remux
from vfm.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = Encoding(short_side=16, gop=4)


def run(module: str, *words, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder and a hash of what it holds."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def mixed(video_set, tmp_path_factory) -> Path:
    """A list with repeated and bad videos, parts of videos and several captions; the set beside it."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(COUNT):
        shutil.copy(video_set / f"{i}.mp4", folder)
    (folder / "noise.mp4").write_bytes(b"no video" * 100)
    cut = (video_set / "5.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(cut[: len(cut) // 3])
    rows = [("path", "label", "caption", "start_time", "end_time")]
    rows += [(f"{i}.mp4", "ab"[i % 2], f"number {i}", "", "") for i in range(COUNT)]
    rows.insert(3, ("noise.mp4", "a", "noise", "", ""))
    rows.insert(7, ("missing.mp4", "b", "nothing", "", ""))
    rows += [("2.mp4", "b", "2 again, \u2028 in other words", "", ""), ("4.mp4", "a", "part", "0.5", "0.9")]
    with open(folder / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    classes = {"label": ["a", "b", "never"]}
    (folder / "classes.json").write_text(json.dumps(classes))
    return folder / "list.csv"


@pytest.fixture(scope="module")
def whole(mixed, tmp_path_factory) -> Path:
    """The list, prepared in one go by one process."""
    out = tmp_path_factory.mktemp("out") / "whole"
    prepare(Plan.of(open_source(mixed), SMALL, 4), out, workers=1)
    return out


def test_samples_keep_their_ids_labels_and_captions(mixed, whole):
    original, prepared = open_source(mixed), open_source(whole)
    assert len(prepared) == len(original) == COUNT + 4
    np.testing.assert_array_equal(prepared.labels["label"], original.labels["label"])
    assert prepared.label_names == {"label": ["a", "b", "never"]}
    assert [tuple(c) for c in prepared.captions] == [tuple(c) for c in original.captions]
    assert prepared.words == original.words and prepared.lines == original.lines
    assert prepared.paths[:2] == ["0.mp4", "1.mp4"]
    for i in set(range(len(original))) - {2, 6}:
        with original.open(i) as file, prepared.open(i) as record:
            assert record.num_frames == file.num_frames
            places = range(file.num_frames)
            np.testing.assert_allclose(
                record.read(places).mean((1, 2, 3)), file.read(places).mean((1, 2, 3)), atol=3
            )


def test_parts_of_files_are_cut_out(mixed, whole):
    prepared = open_source(whole)
    assert prepared.spans is None and prepared.paths[-1] == "4.mp4#t=0.5,0.9"
    with prepared.open(COUNT + 3) as video:
        assert video.num_frames == 4  # at 8 a second: 0.5, 0.625, 0.75 and 0.875 s
        level = video.read([0]).mean() - pixels(4)[4].mean()
        assert abs(level) < 2.5  # frames are 5 apart


def test_bad_videos_are_counted_and_listed_and_can_be_left_out(mixed, whole):
    found = manifest(whole)
    assert (found["samples"], found["videos"], found["bad"]) == (COUNT + 4, COUNT + 1, 2)
    rows = list(csv.DictReader((whole / "bad.csv").open()))
    assert [Path(row["path"]).name for row in rows] == ["noise.mp4", "missing.mp4"]
    assert all(row["reason"] for row in rows) and "no such file" in rows[1]["reason"]
    assert set(open_source(mixed, skip=whole / "bad.csv").skipped) == {2, 6}
    assert set(open_source(whole).store.missing(range(COUNT + 4))) == {2, 6}


def test_samples_of_one_video_share_a_record(mixed, whole):
    lines = [json.loads(line) for line in (whole / "index.jsonl").read_text().split("\n") if line]
    place = {(s.get("shard"), s.get("record")) for s in lines if s["name"] == "2.mp4"}
    assert len([s for s in lines if s["name"] == "2.mp4"]) == 2 and len(place) == 1


def test_any_number_of_processes_gives_the_same_files(mixed, whole, tmp_path):
    run(
        "scripts.prepare_data", mixed, "--out", tmp_path / "o", "--short_side", 16, "--keyint", 4, "--shard_size", 4,
        "--workers", 3,
    )  # fmt: skip
    assert digests(tmp_path / "o") == digests(whole)


def test_a_run_that_was_killed_goes_on_and_gives_the_same_files(mixed, whole, tmp_path):
    out = tmp_path / "out"
    words = [mixed, "--out", out, "--short_side", 16, "--gop", 4, "--shard_size", 4, "--workers", 1]
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.prepare_data", *map(str, words)],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        began = time.monotonic()
        while not list(out.glob("videos-*.json")):
            assert process.poll() is None and time.monotonic() - began < 120, "no shard was made"
            time.sleep(0.001)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "manifest.json").exists(), "it was done before it could be killed"
    (out / ".videos-00003-of-00004.array_record.0123abcd.partial").write_bytes(b"half")
    kept = {
        p: p.stat().st_mtime_ns for p in out.glob("videos-*.array_record") if p.with_suffix(".json").exists()
    }
    assert kept
    with pytest.raises(UserError, match="finished"):
        open_source(out)
    run("scripts.prepare_data", *words)
    assert digests(out) == digests(whole)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept, "finished shards were made again"
    # A third time there is nothing to do.
    assert "13 videos" in run("scripts.prepare_data", *words).stdout
    assert digests(out) == digests(whole)


def test_training_on_a_prepared_set_is_training_on_the_original(mixed, whole, data):
    rows = []
    for spec in (mixed, whole):
        data.train, data.size, data.flip, data.crop, data.max_bad_fraction = (
            str(spec),
            16,
            False,
            "resize",
            0.3,
        )
        with train_batches(data, batch_size=4, seed=1) as batches:
            rows.append([next(batches) for _ in range(4)])
    for original, prepared in zip(*rows, strict=True):
        np.testing.assert_array_equal(original["id"], prepared["id"])
        np.testing.assert_array_equal(original["label"], prepared["label"])
        assert np.abs(original["video"].astype(int) - prepared["video"]).mean() < 4


def test_files_can_be_packed_as_they_are(mixed, tmp_path):
    original = open_source(mixed)
    prepare(Plan.of(original, None, 100), tmp_path / "o", workers=1)
    packed = open_source(tmp_path / "o")
    found = manifest(tmp_path / "o")
    assert (
        found["recipe"] == {"as_is": True} and found["videos"] == COUNT
    )  # the part has no record of its own
    for i in (0, 5, COUNT + 2, COUNT + 3):
        with original.open(i) as file, packed.open(i) as record:
            assert record.num_frames == file.num_frames
            np.testing.assert_array_equal(record.read([0, 2]), file.read([0, 2]))
    assert packed.clip_name(COUNT + 3) == "4.mp4#t=0.5,0.9"


def test_rates_are_reduced_by_leaving_frames_out(video_set, tmp_path):
    prepare(Plan.of(open_source(video_set / "3.mp4"), Encoding(fps=4), 1), tmp_path / "o", workers=1)
    with open_source(tmp_path / "o").open(0) as video:
        assert video.num_frames == FRAMES // 2 and video.fps == pytest.approx(4, rel=1e-3)
        np.testing.assert_allclose(
            video.read(range(5)).mean((1, 2, 3)), pixels(3)[::2].mean((1, 2, 3)), atol=2
        )


def test_damaged_videos_are_used_as_far_as_they_go_and_listed(tmp_path):
    write_mp4(tmp_path / "long.mp4", np.concatenate([pixels(i, 30) for i in range(4)]), 25)
    data = bytearray((tmp_path / "long.mp4").read_bytes())
    (tmp_path / "long.mp4").write_bytes(data[: len(data) * 2 // 3])
    prepare(Plan.of(open_source(tmp_path / "long.mp4"), SMALL, 1), tmp_path / "o", workers=1)
    found = manifest(tmp_path / "o")
    with open_source(tmp_path / "o").open(0) as video:
        assert 20 < video.num_frames < 120 and video.damage
    assert (found["bad"], found["damaged"]) == (0, 1)
    assert video.damage in (tmp_path / "o" / "damaged.csv").read_text()


def test_names_that_are_no_utf_8_and_hidden_frames_are_prepared(tmp_path):
    """Names of old discs are in Latin-1; frames that are never shown shift those after them."""
    whole = make(tmp_path / "whole.webm", "libvpx", options={"g": "9"})
    folder = tmp_path / "set"
    folder.mkdir()
    path = remux(whole, folder / "a.mkv", hidden)
    every, times = decoded(path)
    path.rename(folder / os.fsdecode(b"caf\xe9.mkv"))
    (folder / os.fsdecode(b"bad\xe9.mkv")).write_bytes(b"no video")
    for encoding in (Encoding(short_side=0, crf=1), None):
        out = tmp_path / str(encoding and "encoded")
        prepare(Plan.of(open_source(folder), encoding, 4), out, workers=1)
        prepared = open_source(out)
        assert [os.fsencode(name) for name in prepared.paths] == [b"bad\xe9.mkv", b"caf\xe9.mkv"]
        assert manifest(out)["bad"] == 1 and b"bad" in (out / "bad.csv").read_bytes()
        with prepared.open(1) as video:
            if encoding:
                np.testing.assert_allclose(video.times, np.array(times) - times[0], atol=1e-3)
                assert np.abs(video.read(range(58)).astype(int) - every).mean() < 3
                assert "only 58 of 60 frames decode" in video.damage


@pytest.mark.parametrize("kind", ["other files", "another recipe", "a file", "at work"])
def test_a_folder_with_something_else_is_left_alone(kind, mixed, whole, tmp_path):
    out, words = tmp_path / "o", ["--short_side", 16, "--gop", 4, "--shard_size", 4]
    if kind == "other files":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        expected = "is not empty ('notes.txt')"
    elif kind == "another recipe":
        shutil.copytree(whole, out)
        words = ["--short_side", 20]
        expected = "holds a prepared set that is not this one (short_side is 16 there and 20 here)"
    elif kind == "a file":
        out.write_text("mine")
        expected = "is a file"
    else:
        import fcntl

        out.mkdir()
        lock = open(out / ".lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        expected = "another run is at work"
    before = None if kind == "a file" else digests(out)
    done = run("scripts.prepare_data", mixed, "--out", out, *words, check=False)
    assert done.returncode == 1 and expected in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert before is None or digests(out) == before


def test_a_missing_or_changed_shard_is_made_again(mixed, whole, tmp_path):
    plan = Plan.of(open_source(mixed), SMALL, 4)
    assert plan.shards == 4 and unfinished(plan, tmp_path) == [0, 1, 2, 3]
    make_shard(plan, tmp_path, 1, [{"note": {"bad": "x"}} for _ in plan.members(1)])
    assert unfinished(plan, tmp_path) == [0, 2, 3]
    (tmp_path / "videos-00001-of-00004.array_record").write_bytes(b"")
    assert unfinished(plan, tmp_path) == [0, 1, 2, 3]


def test_a_full_disk_is_one_line(mixed, tmp_path):
    code = "import resource, signal, errno; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)); "
    code += "from vfm.train import cli; cli.FULL[errno.EFBIG] = 'no space'; "  # as near as a test can come
    code += "from scripts.prepare_data import main; cli.run(main)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(mixed), "--out", str(tmp_path / "o"), "--workers", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no space: cannot write"), done.stderr
    assert not list((tmp_path / "o").glob("*.array_record"))


def test_the_beam_graph_makes_the_same_files(mixed, whole, tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam has an environment of its own, see docs/data.md")
    run(
        "scripts.prepare_data", mixed, "--out", tmp_path / "o", "--short_side", 16, "--gop", 4, "--shard_size", 4,
        "--runner", "direct",
    )  # fmt: skip
    assert digests(tmp_path / "o") == digests(whole)


def test_without_beam_the_runner_says_what_to_install(mixed, tmp_path, monkeypatch):
    from input_pipeline.beam import run_beam

    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"constraints-beam\.txt"):
        run_beam(Plan.of(open_source(mixed), SMALL, 4), tmp_path / "o", "direct")


def test_a_set_that_is_complete_is_said_to_be(mixed, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "o")
    plan = Plan.of(open_source(mixed), SMALL, 4)
    assert prepare(plan, tmp_path / "o", workers=1) is False
    words = [mixed, "--out", tmp_path / "o", "--short_side", 16, "--gop", 4, "--shard_size", 4]
    assert "already complete" in run("scripts.prepare_data", *words).stdout
    assert digests(tmp_path / "o") == digests(whole)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (lambda mixed: Plan.of(open_source(mixed), None, 4), "as_is is not given there and True here"),
        (lambda mixed: Plan.of(open_source(mixed), SMALL, 5), "shard_size is 4 there and 5 here"),
        (
            lambda mixed: Plan.of(open_source(mixed.parent / "0.mp4"), SMALL, 4),
            f"samples is {COUNT + 4} there and 1 here",
        ),
        (
            lambda mixed: Plan.of(open_source(mixed, column="path"), SMALL, 4),
            "videos, labels or captions are others",
        ),
    ],
)
def test_what_differs_from_the_set_that_is_there_is_named(mixed, whole, tmp_path, other, expected):
    begin(Plan.of(open_source(mixed), SMALL, 4), tmp_path)  # one that has only begun
    for out in (whole, tmp_path):
        with pytest.raises(UserError, match=expected):
            prepare(other(mixed), out)


def test_nothing_prepared_is_a_failure(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    done = run("scripts.prepare_data", tmp_path, "--out", tmp_path / "o", "--workers", 1, check=False)
    assert done.returncode == 1 and not done.stderr.startswith("Traceback")
    assert "nothing could be prepared" in done.stdout and "cannot be opened as a video" in done.stdout

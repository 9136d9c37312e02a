"""Validating a set: bad videos are found, named and left out afterwards."""

import csv
import shutil

import pytest

from input_pipeline import open_source
from tests.input_pipeline.conftest import COUNT
from tests.input_pipeline.test_prepare import run


@pytest.fixture(scope="module")
def damaged(video_set, tmp_path_factory):
    """The set with a file of noise, a missing one and one that ends early."""
    folder = tmp_path_factory.mktemp("damaged")
    for i in range(COUNT):
        shutil.copy(video_set / f"{i}.mp4", folder)
    data = (folder / "5.mp4").read_bytes()
    (folder / "5.mp4").write_bytes(b"noise" * 100)
    (folder / "7.mp4").write_bytes(data[: len(data) // 4])
    paths = [*(f"{i}.mp4" for i in range(COUNT)), "gone.mp4", "3.mp4"]
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{path},0\n" for path in paths))
    return folder


def listed(file) -> dict[str, str]:
    with open(file, newline="") as text:
        reader = csv.DictReader(text)
        assert reader.fieldnames == ["path", "reason"]
        return {row["path"]: row["reason"] for row in reader}


@pytest.mark.parametrize("level", ["first", "all"])
def test_bad_videos_are_listed_with_reasons_and_left_out_by_the_list(damaged, tmp_path, level):
    out = tmp_path / "bad.csv"
    done = run("scripts.validate_data", damaged / "list.csv", "--out", out, "--workers", 2, "--level", level)
    found = listed(out)
    assert set(found) == {str(damaged / name) for name in ("5.mp4", "7.mp4", "gone.mp4")}
    assert all(found.values()) and "no such file" in found[str(damaged / "gone.mp4")]
    assert f"{COUNT + 1} videos" in done.stdout and "3 bad" in done.stdout
    assert "data.skip" in done.stdout
    assert ("--level all looks at every frame" in done.stdout) == (level == "first")
    assert set(open_source(damaged / "list.csv", skip=out).skipped) == {5, 7, COUNT}


def test_a_script_can_ask_for_failure(damaged, video_set, tmp_path):
    for source, expected in ((damaged / "list.csv", 1), (video_set / "train.csv", 0)):
        words = [source, "--out", tmp_path / "b.csv", "--workers", 1, "--fail"]
        assert run("scripts.validate_data", *words, check=False).returncode == expected
        assert bool(listed(tmp_path / "b.csv")) == bool(expected)


def test_some_samples_spread_over_the_set(damaged, tmp_path):
    done = run("scripts.validate_data", damaged / "list.csv", "--out", tmp_path / "b.csv", "--samples", 2)
    assert set(listed(tmp_path / "b.csv")) == {str(damaged / "gone.mp4")}  # the first and the last
    assert "2 videos" in done.stdout


def test_a_good_set_gives_an_empty_list(video_set, tmp_path):
    done = run("scripts.validate_data", video_set / "train.csv", "--out", tmp_path / "b.csv", "--workers", 1)
    assert listed(tmp_path / "b.csv") == {}
    assert f"{COUNT} good, 0 damaged but of use, 0 bad" in done.stdout


def test_a_prepared_set_can_be_validated(damaged, tmp_path):
    run(
        "scripts.prepare_data",
        damaged / "list.csv",
        "--out",
        tmp_path / "o",
        "--short_side",
        16,
        "--workers",
        1,
    )
    run(
        "scripts.validate_data", tmp_path / "o", "--out", tmp_path / "b.csv", "--level", "all", "--workers", 1
    )
    assert set(listed(tmp_path / "b.csv")) == {"5.mp4", "7.mp4", "gone.mp4"}
    assert set(open_source(tmp_path / "o", skip=tmp_path / "b.csv").skipped) == {5, 7, COUNT}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--out", "nowhere/b.csv"], "there is no folder 'nowhere'"),
        (["--out", "."], "is a folder"),
        (["--out", "b.csv", "--timeout", "0"], "--timeout 0: expected more than 0"),
    ],
)
def test_mistakes_are_one_line(video_set, words, expected):
    done = run("scripts.validate_data", video_set / "train.csv", *words, check=False)
    assert done.returncode == 1 and expected in done.stderr and done.stderr.count("\n") == 1

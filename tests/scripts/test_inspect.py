"""`python -m scripts.inspect_data` says what is there, what is wrong with it, and draws it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import open_source, write_mp4
from scripts.inspect_data import CELL, GAP, TITLE, contents, findings, open_some, strip

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder of four short videos (one of them broken, one missing) with a list."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(3):
        frames = np.full((4 + i, 24, 32, 3), 60 * i, np.uint8)
        frames[-1] = 250
        write_mp4(folder / f"{i}.mp4", frames, 8, 12)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    (folder / "list.csv").write_text(
        "path,label,caption\n0.mp4,cat,a cat sits\n1.mp4,dog,\n"
        "2.mp4,dog,a dog runs far\nbroken.mp4,cat,x\ngone.mp4,cat,y\n"
    )
    return folder


def inspect(*words, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.inspect_data", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def test_what_is_there_is_said_and_drawn(clips, tmp_path):
    out = tmp_path / "sheet.png"
    done = inspect(clips / "list.csv", "--out", out, "--frames", 3)
    assert done.returncode == 0, done.stderr
    for line in (
        "samples: 5",
        "label 'label': 2 classes: cat (3), dog (2)",
        "captions: 4 (1 a sample), 4 different, 1 ... 3 ... 4 words; 1 samples have none, such as 'a cat sits'",
        "opened: 5 of 5 samples, 3 can be read",
        "frames: 4 ... 5 ... 6 frames",
        "size: 32x24 (3)",
        "codec: h264 (3)",
        "problems: 2 of 5",
        f"{clips}/gone.mp4: no such file",
        f"{clips}/broken.mp4: cannot be opened as a video",
        f"picture: {out} (3 samples)",
    ):
        assert line in done.stdout
    from matplotlib.image import imread

    pixels = imread(out)[..., :3]
    high = CELL[0] + TITLE
    assert pixels.shape[:2] == (3 * high + GAP, 3 * (CELL[1] + GAP) + GAP)
    rows = [pixels[i * high + TITLE + CELL[0] // 2] for i in range(3)]  # the middle of each strip
    for i, row in enumerate(rows):
        assert abs(row[GAP + CELL[1] // 2].mean() * 255 - 60 * i) < 12  # first frame
        assert row[-GAP - CELL[1] // 2].mean() * 255 > 235  # last frame
        between = range(CELL[1] + GAP, CELL[1] + 2 * GAP)  # white, however dark the frames
        assert row[[0, GAP - 1, *between, -1]].min() > 0.95


def test_mixtures_and_options_are_followed(clips, tmp_path):
    (tmp_path / "mix.py").write_text(
        "def get_config():\n"
        f"    path = {str(clips / 'list.csv')!r}\n"
        "    cats = dict(path=path, weight=2.0, stride=2)\n"
        "    return dict(sources=dict(cats=cats, one=dict(path=path, label='caption')))\n"
    )
    done = inspect(tmp_path / "mix.py", "--out", "", "--samples", 1)
    assert done.returncode == 0, done.stderr
    assert f"cats: {clips}/list.csv" in done.stdout and f"one: {clips}/list.csv" in done.stdout
    assert done.stdout.count("opened: 1 of 5 samples, 1 can be read") == 2


def test_nothing_readable_and_mistakes_end_with_exit_code_1(clips, tmp_path):
    (tmp_path / "list.csv").write_text("a.mp4 1\nb.mp4 0\n")
    done = inspect(tmp_path / "list.csv", "--out", "")
    assert done.returncode == 1 and "nothing of" in done.stdout and "no such file" in done.stdout
    done = inspect(clips / "list.csv", "--set", "split", "--out", "")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: --set split: expected KEY=VALUE, such as split=test"


def test_published_lists_are_described_without_their_videos(shared):
    source = open_source(shared / "data" / "annotations" / "ucf101" / "trainlist01.txt")
    said = "\n".join(contents(source))
    assert "samples: 9,537" in said and "label 'label': 101 classes:" in said
    found = open_some(source, 3, "first", 1)
    assert found.tried == [0, 4768, 9536] and not found.readable
    assert "problems: 3 of 3" in "\n".join(findings(source, found))


def test_parts_and_several_labels_are_described(tmp_path):
    (tmp_path / "a.txt").write_text("a.mp4 0 2\nb.mp4 2\n")
    lines = contents(open_source(tmp_path / "a.txt"))
    assert (
        "label 'label': several a sample (1 ... 2 ... 2), 3 classes; 1 never occur: 2 (2), 0 (1)" in lines[3]
    )
    (tmp_path / "b.csv").write_text("path,start_time,end_time\na.mp4,0,2\na.mp4,2,7.5\n")
    said = contents(open_source(tmp_path / "b.csv"))
    assert said[0] == "samples: 2 of 1 videos" and "parts of videos: 2 samples, 2 ... 5.5 ... 5.5 s" in said


def test_strips_keep_the_shape_of_tall_videos(tmp_path):
    write_mp4(tmp_path / "tall.mp4", np.full((3, 64, 16, 3), 200, np.uint8), 8, 12)
    picture = strip(open_source(tmp_path / "tall.mp4"), 0, 2)
    assert picture.shape == (CELL[0], 2 * CELL[1] + GAP, 3)
    middle = picture[CELL[0] // 2, :, 0]
    shown = (middle < 215).sum()  # the frames are darker than what is beside them
    assert abs(shown - 2 * CELL[0] / 4) <= 4 and middle.max() == 255

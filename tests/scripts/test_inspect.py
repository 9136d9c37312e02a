"""`python -m scripts.inspect_data` says what is there, what is wrong with it, and draws it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import open_source, write_mp4
from scripts.inspect_data import (
    CELL,
    GAP,
    TITLE,
    Opened,
    contact_sheet,
    contents,
    findings,
    missing_all,
    open_some,
    strip,
)
from vfm.errors import UserError

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
        "  format: csv\n  samples: 5\n",
        "label 'label': 2 classes: cat (3), dog (2)",
        "captions: 4 (1 a sample), 4 different, 1 ... 3 ... 4 words; 1 sample without, such as 'a cat sits'",
        "opened: 5 of 5 samples, 3 can be read",
        "frames: 4 ... 5 ... 6\n",
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
        "label 'label': several a sample (1 ... 2 ... 2), 3 classes; 1 never occur: 2 (2), 0 (1)" in lines[4]
    )
    (tmp_path / "b.csv").write_text("path,start_time,end_time\na.mp4,0,2\na.mp4,2,7.5\n")
    said = contents(open_source(tmp_path / "b.csv"))
    assert said[:2] == ["format: csv", "samples: 2, of 1 video"]
    assert "parts of videos: 2 samples, 2 ... 5.5 ... 5.5 s" in said


def test_strips_keep_the_shape_of_tall_videos(tmp_path):
    write_mp4(tmp_path / "tall.mp4", np.full((3, 64, 16, 3), 200, np.uint8), 8, 12)
    picture = strip(open_source(tmp_path / "tall.mp4"), 0, 2)
    assert picture.shape == (CELL[0], 2 * CELL[1] + GAP, 3)
    middle = picture[CELL[0] // 2, :, 0]
    shown = (middle < 215).sum()  # the frames are darker than what is beside them
    assert abs(shown - 2 * CELL[0] / 4) <= 4 and middle.max() == 255


def test_texts_that_could_be_captions_are_pointed_out(tmp_path):
    (tmp_path / "a.csv").write_text("path,title,label\na.mp4,a cat sits,cat\nb.mp4,a dog runs,dog\n")
    line = "text 'title': 2 different, such as 'a cat sits', 'a dog runs'"
    assert f"{line} (--column title makes captions of it)" in contents(open_source(tmp_path / "a.csv"))
    assert line in contents(open_source(tmp_path / "a.csv", column="label"))  # there are captions


def test_of_images_and_frame_folders_only_what_means_something_is_said(tmp_path):
    import matplotlib.image

    for name in ("one/0.png", "one/1.png", "two/0.png"):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True, parents=True)
        matplotlib.image.imsave(tmp_path / "set" / name, np.full((24, 32, 3), 90, np.uint8))
    images = open_source(tmp_path / "set", medium="image")
    found = open_some(images, 0, "first", 1)
    said = findings(images, found)
    assert found.stills and "frames: 1" in said and "size: 32x24 (3)" in said
    assert not [line for line in said if line.startswith(("duration", "fps", "in all"))]
    sheet = tmp_path / "sheet.png"
    assert contact_sheet(images, found.readable, sheet, 1, columns=2) == 3
    pixels = matplotlib.image.imread(sheet)
    assert pixels.shape[:2] == (2 * (CELL[0] + TITLE) + GAP, 2 * (CELL[1] + GAP) + GAP)
    frames = open_source({"path": tmp_path / "set", "format": "frames"})
    assert "size: 32x24 (2)" in findings(frames, open_some(frames, 0, "first", 1))
    with pytest.raises(
        UserError, match="holds no videos, but 3 images: --medium image .*--set format=frames"
    ):
        open_source(tmp_path / "set", key="SPEC")


def test_lists_none_of_whose_files_are_there_say_what_to_give(shared, clips):
    source = open_source(shared / "data" / "annotations" / "ucf101" / "trainlist01.txt")
    assert "--root FOLDER" in missing_all(source, open_some(source, 3, "first", 1))
    (clips / "kinetics.csv").write_text(
        "label,youtube_id,time_start,time_end,split\na,x,0,1,val\nb,y,0,1,val\n"
    )
    source = open_source(clips / "kinetics.csv")
    assert "--set template=" in missing_all(source, open_some(source, 3, "first", 1))
    source = open_source(clips / "list.csv")
    assert not missing_all(source, open_some(source, 0, "first", 1))


def test_a_rate_far_from_the_others_is_named(clips):
    source = open_source(clips / "list.csv")
    found = Opened(
        tried=[0, 1, 2], facts={"frames": {0: 4, 1: 4, 2: 4}, "fps": {0: 25.0, 1: 1000.0, 2: 25.0}}
    )
    assert f"fps: 25 ... 25 ... 1000 frames a second (the most: {clips}/1.mp4)" in findings(source, found)
    found.facts["fps"][1] = 30.0
    assert "fps: 25 ... 25 ... 30 frames a second" in findings(source, found)

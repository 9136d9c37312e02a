"""The embedded data set: reproducible, split by handwriting, and stills do not tell a motion from its reverse."""

import csv
import json

import numpy as np
import pytest

from input_pipeline import embedded
from vfm.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return embedded.make(
        tmp_path_factory.mktemp("embedded") / "digits", {"train": 24, "validation": 4, "test": 4}, workers=1
    )


def test_files_and_rows(folder):
    classes = json.loads((folder / "classes.json").read_text())
    assert len(classes["digit"]) == 10 and len(classes["motion"]) == 12
    with open(folder / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["motion"]) for r in rows] == [i % 12 for i in range(24)]
    for row in rows:
        assert (folder / row["path"]).stat().st_size > 500
        words = row["caption"].split(" while ")[0]
        assert words.endswith(classes["motion"][int(row["motion"])])
        assert classes["digit"][int(row["digit"])] in words


def test_the_same_call_leaves_a_complete_set_alone(folder):
    before = (folder / "train" / "00000.mp4").stat().st_mtime_ns
    embedded.make(folder, {"train": 24, "validation": 4, "test": 4})
    assert (folder / "train" / "00000.mp4").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"dear")
    with pytest.raises(UserError, match="holds something else"):
        embedded.make(tmp_path, {"train": 1, "validation": 1, "test": 1})
    assert (tmp_path / "holiday.mp4").read_bytes() == b"dear"


def test_files_hold_what_was_drawn(folder):
    from input_pipeline.decode import read_frames

    frames, row = embedded.draw("train", 3)
    decoded = read_frames(folder / "train" / "00003.mp4", range(embedded.FRAMES))
    assert row["caption"].split()[2:4] == ["moves", "down"]
    assert np.abs(decoded.astype(int) - frames).mean() < 4  # chroma is stored at half the resolution


def test_clips_are_a_function_of_seed_split_and_index():
    one, _ = embedded.draw("test", 7)
    assert (embedded.draw("test", 7)[0] == one).all()
    assert not (embedded.draw("test", 7, seed=1)[0] == one).all()
    assert not (embedded.draw("validation", 7)[0] == one).all()


def test_no_scan_is_in_two_splits():
    scans = embedded._scans()
    seen = [{image.tobytes() for image in images} for images, _ in scans.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert all(set(digits) == set(range(10)) for _, digits in scans.values())


def test_only_the_order_of_frames_tells_a_motion_from_its_reverse():
    """Left from right, clockwise from counter-clockwise ...: chance from the set of stills, not from their order."""
    from sklearn.neighbors import KNeighborsClassifier

    motions = list(embedded.MOTIONS)
    pairs = [("moves left", "moves right"), ("moves up", "moves down")]
    stills, order = [], []
    for pair in pairs:
        kinds = [motions.index(motion) for motion in pair]
        indices = [i for i in range(12 * 90) if i % 12 in kinds]
        clips = [embedded.draw("train", i) for i in indices]
        labels = np.array([row["motion"] for _, row in clips])
        small = np.stack([frames[:, ::8, ::8].mean(-1) for frames, _ in clips])
        halves = small[:, :8].mean(1), small[:, 8:].mean(1)
        for scores, features in ((stills, halves[0] + halves[1]), (order, halves[0] - halves[1])):
            x, middle = features.reshape(len(features), -1), len(features) * 2 // 3
            scores.append(
                KNeighborsClassifier(7).fit(x[:middle], labels[:middle]).score(x[middle:], labels[middle:])
            )
    assert max(stills) < 0.7 and min(order) > 0.8, (stills, order)


def test_mistakes_on_the_command_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for words, says in (
        ((tmp_path / "new", "--train", "0"), "--train=0: expected at least 1 clip"),
        ((tmp_path / "new", "--test=-3"), "--test=-3: expected at least 1 clip"),
        ((tmp_path / "new", "--seed=-1"), "seed=-1"),
        ((tmp_path / "file",), "file' is a file; name a folder"),
        ((tmp_path / "file" / "x",), "error: cannot write"),
    ):
        with pytest.raises(SystemExit, match=says):
            embedded.main([str(word) for word in words])
    assert not (tmp_path / "new").exists()


def test_the_command_line_says_where_the_set_is(folder, capsys):
    embedded.main([str(folder), "--train=24", "--validation=4", "--test=4"])
    assert capsys.readouterr().out == f"{folder}: 24 train, 4 validation, 4 test clips\n"

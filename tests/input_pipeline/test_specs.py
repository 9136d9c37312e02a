"""A source may be given as a path, a Python file or a mapping, everywhere; skip lists name what to leave out."""

import json

import pytest
from ml_collections import ConfigDict

from configs.common import get_config
from eval.sources import data_config, sibling
from input_pipeline import open_source, train_batches
from input_pipeline.spec import describe, resolve
from vfm.errors import UserError

from .conftest import COUNT


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "train.csv").write_text("path,digit,split\na.mp4,1,x\nb.mp4,2,y\nc.mp4,3,x\n")
    return tmp_path


def test_mappings_configs_and_files_name_the_same_source(listed):
    path, root = str(listed / "train.csv"), str(listed)
    mapping = {"path": path, "root": "/videos", "split": "x"}
    (listed / "set.py").write_text(
        "def get_config(split='x'):\n"
        "    from ml_collections import ConfigDict\n"
        f"    return ConfigDict(dict(path={path!r}, root='/videos', split=split))\n"
    )
    (listed / "run.py").write_text(
        "from configs.common import get_config as common\n"
        "def get_config():\n"
        f"    c = common(); c.data.train = dict(path={path!r}, split='x'); c.data.root = '/videos'\n"
        "    return c\n"
    )
    specs = [
        mapping,
        ConfigDict(mapping),
        f"{root}/set.py",
        f"{root}/set.py:x",
        {"path": f"{root}/set.py:y", "split": "x"},
        f"{root}/run.py",
    ]
    for spec in specs:
        source = open_source(spec, root="/elsewhere")
        assert list(source.paths) == ["/videos/a.mp4", "/videos/c.mp4"]
        assert source.labels["digit"].tolist() == [1, 3] and source.lines == [2, 4]
    assert list(open_source(f"{root}/set.py:y").paths) == ["/videos/b.mp4"]


def test_mixtures_are_told_apart(listed):
    mixture = {"sources": {"a": {"path": "a.csv"}, "b": ConfigDict({"path": "b.csv"})}}
    assert resolve(mixture)["sources"] == {"a": {"path": "a.csv"}, "b": {"path": "b.csv"}}
    assert describe(mixture) == "mixture of a, b"
    with pytest.raises(
        UserError, match="data.test is a mixture of a .a.csv., b .b.csv.; expected one source here: give each"
    ):
        open_source(mixture, key="data.test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(): return 7", "returned 7; expected a path or a mapping"),
        ("x = 1", "has no get_config"),
        ("import nowhere_at_all", "does not run .ModuleNotFoundError"),
        ("def get_config(): return 'clips.csv'", "its get_config.. takes no argument"),
    ],
)
def test_config_files_that_cannot_be_used_are_named(tmp_path, text, message):
    (tmp_path / "set.py").write_text(text)
    argument = ":arg" if "argument" in message else ""
    with pytest.raises(UserError, match=message):
        open_source(f"{tmp_path}/set.py{argument}")


def test_impossible_specs_are_refused(listed):
    path = str(listed / "train.csv")
    with pytest.raises(UserError, match="mapping with format; expected 'path'"):
        open_source({"format": "csv"})
    with pytest.raises(UserError, match="data.train=7: expected a path or a mapping"):
        open_source(7)
    with pytest.raises(UserError, match="'colum' is no option of format 'csv' .did you mean 'column'"):
        open_source({"path": path, "colum": "x"})
    with pytest.raises(UserError, match="format='kinetic' .did you mean 'kinetics'"):
        open_source({"path": path, "format": "kinetic"})
    with pytest.raises(UserError, match="no row has split='z'; it has: x, y"):
        open_source({"path": path, "split": "z"})
    with pytest.raises(UserError, match=r"nowhere\.py.*no such file"):
        open_source("nowhere.py:arg")
    with pytest.raises(UserError, match="'template' is an option of annotation files"):
        open_source({"path": str(listed), "template": "{id}"})


def test_training_takes_a_mapping_in_its_config(data, video_set):
    data.train = {"path": str(video_set / "train.csv"), "root": str(video_set)}
    data.root = "/nowhere"
    with train_batches(data, batch_size=4, seed=0) as batches:
        assert next(batches)["video"].shape == (4, 4, 16, 16, 3)


def test_evaluation_takes_paths_and_mappings_in_place_of_each_other(listed):
    run = get_config()
    run.data.train = str(listed / "train.csv")
    run.data.root = "/videos"
    stored = ConfigDict(json.loads(json.dumps(run.to_dict()))).lock()  # as a run keeps it
    mapping = {"path": str(listed / "test.csv"), "split": "x"}
    assert data_config(stored, mapping).train.to_dict() == mapping
    assert data_config(stored, mapping).root == "/videos"  # beside the training list
    (listed / "test.csv").write_text("path\na.mp4\n")
    options = {"path": str(listed / "train.csv"), "root": "/else"}
    assert sibling(options, "test") == {"path": str(listed / "test.csv"), "root": "/else"}
    assert sibling(str(listed / "train.csv"), "test") == str(listed / "test.csv")
    with pytest.raises(UserError, match=r"config\.data\.validation is not set"):
        sibling(options, "validation")


# Skip lists


def test_skip_lists_match_names_however_they_are_written(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.csv").write_text(
        "path,start_time,end_time\na.mp4,0,2\na.mp4,2,4\nb.mp4,,\nc.mp4,,\nd.mp4,,\ne.mp4,,\n"
    )
    skip = tmp_path / "bad.csv"
    skip.write_text(
        f"path,reason\n{tmp_path}/videos/a.mp4#t=2,4,does not decode\n".replace("2,4,", '2,4",').replace(
            f"{tmp_path}", f'"{tmp_path}'
        )
        + "b.mp4,relative to data.root\n"
        "videos/c.mp4,relative to the skip list\n"
        f"{tmp_path}/lists/../videos/d.mp4,\n"
        "other/e.mp4,of another folder\n"
    )
    source = open_source(tmp_path / "lists" / "train.csv", root=tmp_path / "videos", skip=skip)
    assert source.skipped == {
        1: "does not decode",
        2: "relative to data.root",
        3: "relative to the skip list",
        4: "left out by data.skip",
    }
    assert len(source) == 6  # ids stay
    mapped = open_source(
        {"path": str(tmp_path / "lists" / "train.csv"), "root": str(tmp_path / "videos"), "skip": str(skip)}
    )
    assert mapped.skipped == source.skipped


def test_skipped_samples_are_never_trained_on(data, video_set, tmp_path):
    (tmp_path / "bad.csv").write_text("path,reason\n" + "".join(f"{video_set}/{i}.mp4,x\n" for i in range(9)))
    data.skip = str(tmp_path / "bad.csv")
    with train_batches(data, batch_size=6, seed=0) as batches:
        seen = [int(i) for _ in range(4) for i in next(batches)["id"]]
    assert sorted(set(seen)) == [9, 10, 11] and all(seen.count(i) == 8 for i in (9, 10, 11))
    assert COUNT == 12


def test_skip_lists_that_cannot_be_used_are_refused(listed):
    path = listed / "train.csv"
    with pytest.raises(UserError, match="data.skip='.*': no such file"):
        open_source(path, skip="nowhere.csv")
    (listed / "bad.csv").write_text("file,why\na.mp4,x\n")
    with pytest.raises(UserError, match="its columns are file, why; expected path,reason"):
        open_source(path, skip=listed / "bad.csv")
    (listed / "bad.csv").write_text("path,reason\na.mp4,x\nb.mp4,x\nc.mp4,x\n")
    with pytest.raises(UserError, match="leaves out all of its 3 samples"):
        open_source(path, skip=listed / "bad.csv")
    (listed / "bad.csv").write_text("path,reason\n")
    assert open_source(path, skip=listed / "bad.csv").skipped == {}

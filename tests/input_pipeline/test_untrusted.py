"""Files from anywhere: whatever is in them ends in samples or in a sentence, quickly, and runs nothing."""

import json
import os
import tarfile

import numpy as np
import pytest

from input_pipeline import open_source
from input_pipeline.labels import read_classes
from input_pipeline.stores.examples import is_example, parse_example
from vfm.errors import UserError

from .annotated import names, write
from .stored import add_member

DEEP = "[" * 100_000


def test_json_that_nests_too_deeply_is_refused(tmp_path):
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(UserError, match="is no JSON"):
            open_source(write(tmp_path, name, DEEP))
    (tmp_path / "labels.json").write_text(DEEP)
    with pytest.raises(UserError, match="expected JSON with a list of names"):
        read_classes(tmp_path / "labels.json")
    (tmp_path / "classes.json").write_text(DEEP)
    with pytest.raises(UserError, match="expected JSON such as"):
        open_source(write(tmp_path, "list.csv", "path,label\na.mp4,1\n"))


@pytest.mark.parametrize(
    "content", [b"\x80\x02]}b.", b"\x80\x02]r\xff\xff\xff\x7f.", b"\x80\x02Q.", b"", b"x"]
)
def test_damaged_pickles_are_refused(tmp_path, content):
    (tmp_path / "raw-captions.pkl").write_bytes(content)
    with pytest.raises(UserError, match="is no pickle of"):
        open_source(tmp_path / "raw-captions.pkl")


def test_numbers_and_templates_that_are_none_are_refused(tmp_path):
    file = write(tmp_path, "charades.csv", "id,subject,scene,script,actions\na,x,y,z,c001 1.2.3 4\n")
    with pytest.raises(UserError, match="line 2: the action 'c001 1.2.3 4'"):
        open_source(file)
    file = write(tmp_path, "list.csv", "path,label\na.mp4,1\n")
    for template in ("{path", "{path:q}", "{0}", "{path.x}"):
        with pytest.raises(UserError, match="template="):
            open_source({"path": file, "template": template})
    with pytest.raises(UserError, match="'tag_verb'|expected a list of class numbers"):
        open_source(
            write(
                tmp_path,
                "e.tsv",
                f"video_uid\tclip_start\tclip_end\tclip_text\ttag_verb\nu\t1\t2\tx\t{DEEP}\n",
            )
        )


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("fold", "x", "a whole number"), ("paragraphs", "False", "True or False"), ("seconds", "x", "a number")],
)
def test_options_are_of_the_kind_of_their_defaults(tmp_path, option, value, expected):
    rows = [{"video": "a.mp4", "description": "x", "times": [[0, 0]]}]
    path, spec = write(tmp_path, "didemo.json", rows), {}
    if option == "fold":
        path, spec = str(tmp_path), {"split": "train"}
        write(tmp_path, "a_test_split1.txt", "a.avi 1\n")
    with pytest.raises(UserError, match=rf"{option}='{value}': expected {expected}"):
        open_source({"path": path, option: value} | spec)
    if option == "seconds":
        assert open_source({"path": path, option: 20.5}).spans.tolist() == [[0, 20.5]]


def test_lists_without_samples_say_so(tmp_path):
    file = write(tmp_path, "c.csv", "id,subject,scene,script,actions,egocentric\na,x,y,z,,No\n")
    with pytest.raises(UserError, match=r"c\.csv': has no samples"):
        open_source({"path": file, "view": "first"})


def _example(values: bytes) -> bytes:
    """A tf.train.Example whose feature `k` has a list of floats of these bytes."""

    def part(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    return part(1, part(1, part(1, b"k") + part(2, part(2, part(1, values)))))


def test_examples_with_pieces_of_floats_are_none():
    whole = np.array([1.5, -2], "<f4").tobytes()
    assert parse_example(_example(whole)) == {"k": [1.5, -2]}
    assert not is_example(_example(whole[:-1]))


def test_tar_headers_of_negative_size_end_the_shard(tmp_path, video_set):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add_member(tar, "0.mp4", (video_set / "0.mp4").read_bytes())
        at = tar.offset
    header = tarfile.TarInfo("1.mp4")
    header.size = -512
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[at : at + 512] = header.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(data)
    source = open_source(tmp_path / "a.tar")
    assert names(source, tmp_path) == ["a.tar::0.mp4", "a.tar"]
    assert "damaged" in source.store.missing([1])[1]


def test_members_that_differ_after_the_first_dot_are_not_dropped(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("clip.001.mp4", "clip.002.mp4", "other.mp4", "other.thumb.jpg"):
            add_member(tar, name, b"x")
    with pytest.raises(UserError, match=r"a\.tar::clip: has 001\.mp4, 002\.mp4; .*member="):
        open_source(tmp_path / "a.tar")
    source = open_source({"path": str(tmp_path / "a.tar"), "member": "002.mp4"})
    assert names(source, tmp_path) == ["a.tar::clip.002.mp4"]
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for name in ("one.mp4", "one.small.mp4", "two.mp4"):
            add_member(tar, name, b"x")
    assert names(open_source(tmp_path / "b.tar"), tmp_path) == ["b.tar::one.mp4", "b.tar::two.mp4"]


def test_archives_among_videos_do_not_make_a_folder_one_of_shards(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with tarfile.open(tmp_path / "backup.tar", "w") as tar:
        add_member(tar, "z.mp4", b"x")
    assert names(open_source(tmp_path), tmp_path) == ["a.mp4"]


def test_folders_of_splits_are_not_taken_for_classes(tmp_path):
    for name in ("train/kick/1.mp4", "train/save/2.mp4", "val/kick/3.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="the subfolders train, val are splits .* e.g. .*/train"):
        open_source(tmp_path)
    assert open_source(tmp_path / "train").label_names == {"label": ["kick", "save"]}


def test_links_that_lead_back_are_followed_once(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.mp4").write_bytes(b"")
    (tmp_path / "set" / "kick").mkdir()
    (tmp_path / "set" / "kick" / "1.mp4").write_bytes(b"")
    os.symlink("..", tmp_path / "set" / "kick" / "up")
    os.symlink("../elsewhere", tmp_path / "set" / "save")
    source = open_source(tmp_path / "set")
    assert names(source, tmp_path) == ["set/kick/1.mp4", "set/save/2.mp4"]


def test_json_lines_in_a_json_file_are_pointed_out(tmp_path):
    lines = "\n".join(json.dumps({"video": f"{i}.mp4", "caption": "x"}) for i in range(2))
    with pytest.raises(UserError, match=r"one object a line.*call it \.jsonl"):
        open_source(write(tmp_path, "a.json", lines))


def test_numbers_of_thousands_of_digits_are_refused(tmp_path):
    many = "9" * 5000
    for name, text in (
        ("a.txt", f"a.mp4 {many}\n"),
        ("b.txt", f"a.mp4 0 {many}\n"),
        ("c.csv", f"path,label\na.mp4,{many}\n"),
    ):
        with pytest.raises(UserError, match="line"):
            open_source(write(tmp_path, name, text))
    for name, text in (("d.txt", f"{many} x\n1 y\n"), ("e.csv", f"id,name\n{many},x\n")):
        (tmp_path / name).write_text(text)
        if name == "e.csv":
            with pytest.raises(UserError, match="is no number"):
                read_classes(tmp_path / name)
        else:
            assert len(read_classes(tmp_path / name).names) == 2


def test_null_labels_of_a_hidden_test_set_are_no_labels(tmp_path):
    import pyarrow
    import pyarrow.parquet

    for labels, found in (([None, None], []), ([-1, None], []), ([0, 1], ["label"])):
        table = pyarrow.table({"video": [b"x", b"y"], "label": pyarrow.array(labels, pyarrow.int64())})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1)
        assert list(open_source(tmp_path / "a.parquet").labels) == found

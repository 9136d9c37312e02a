"""Several lists of one format, named by a pattern, are one source."""

import json

import numpy as np
import pytest

from input_pipeline import open_source
from vfm.errors import UserError

from .annotated import names, write


def test_lists_of_a_pattern_are_one_source_in_their_order(tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
    write(tmp_path / "a", "list.csv", "path,label,caption\n1.mp4,0,one\n2.mp4,3,two\n")
    write(tmp_path / "b", "list.csv", "path,label,start_time,end_time\n3.mp4,1,2,7.5\n")
    for pattern in (f"{tmp_path}/{{a,b}}/list.csv", f"{tmp_path}/*/list.csv"):
        source = open_source(pattern)
        assert names(source, tmp_path) == ["a/1.mp4", "a/2.mp4", "b/3.mp4"]
        assert source.labels["label"].tolist() == [0, 3, 1] and source.labels["label"].dtype == np.int32
        assert [source[i].caption for i in range(3)] == ["one", "two", ""]
        assert source.where(1) == f"{tmp_path}/a/list.csv line 3"
        assert source.where(2) == f"{tmp_path}/b/list.csv line 2"
        assert source.clip_name(0).endswith("1.mp4") and source.clip_name(2).endswith("3.mp4#t=2,7.5")
    assert open_source(pattern, root="/v").paths == ["/v/1.mp4", "/v/2.mp4", "/v/3.mp4"]
    skip = write(tmp_path, "bad.csv", f"path,reason\n{tmp_path}/b/3.mp4,dull\n")
    assert dict(open_source(pattern, skip=skip).skipped) == {2: "dull"}


def test_every_format_may_be_joined(annotations, tmp_path):
    ucf = open_source(f"{annotations}/ucf101/testlist{{01,02}}.txt", root="/u")
    one, two = (open_source(annotations / "ucf101" / f"testlist{i}.txt", root="/u") for i in ("01", "02"))
    assert ucf.paths == one.paths + two.paths and ucf.label_names == one.label_names
    assert ucf.labels["label"].tolist() == [*one.labels["label"], *two.labels["label"]]
    assert ucf.words["group"] == one.words["group"] + two.words["group"]
    for i in range(2):
        rows = [
            {
                "video": f"{i}.mp4",
                "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}],
            }
        ]
        (tmp_path / f"{i}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        write(tmp_path, f"several_{i}.txt", f"{i}.mp4 {i} {i + 2}\n")
        write(tmp_path, f"frames_{i}.txt", f"folder{i} {i + 5} 7\n")
    assert open_source(f"{tmp_path}/*.jsonl").turns == [(("?", "!"),)] * 2
    several = open_source(f"{tmp_path}/several_*.txt").labels["label"]
    assert several[[0, 1]].tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]
    frames = open_source(
        {"path": f"{tmp_path}/frames_*.txt", "format": "mmaction2", "filename_tmpl": "{:05}.jpg"}
    )
    assert names(frames, tmp_path) == ["folder0", "folder1"] and frames.labels["label"].tolist() == [7, 7]


def test_lists_that_do_not_fit_together_are_refused(tmp_path):
    write(tmp_path, "a.csv", "path,label\n1.mp4,cat\n2.mp4,dog\n")
    write(tmp_path, "b.csv", "path,label\n3.mp4,dog\n4.mp4,eel\n")
    with pytest.raises(
        UserError, match=r"b\.csv: its classes of 'label' are not those of .*a\.csv .*'cat'.*labels=FILE"
    ):
        open_source(f"{tmp_path}/{{a,b}}.csv")
    write(tmp_path, "names.txt", "cat\ndog\neel\n")
    named = open_source({"path": f"{tmp_path}/{{a,b}}.csv", "labels": "names.txt"})
    assert named.labels["label"].tolist() == [0, 1, 1, 2]
    write(tmp_path, "c.csv", "path,digit\n3.mp4,1\n")
    with pytest.raises(UserError, match=r"c\.csv: its label columns are digit, those of .*a\.csv are label"):
        open_source(f"{tmp_path}/{{a,c}}.csv")
    write(tmp_path, "d.csv", "3.mp4 1\n")
    with pytest.raises(UserError, match=r"a\.csv is of the format csv and .*d\.csv of list; .* format=NAME"):
        open_source(f"{tmp_path}/{{a,d}}.csv")
    with pytest.raises(UserError, match=r"1 of 2 lists are not there, e\.g\. .*e\.csv"):
        open_source(f"{tmp_path}/{{a,e}}.csv")
    (tmp_path / "f.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="stands for 2 files, of which .*a.csv' is no video; expected videos"):
        open_source(f"{tmp_path}/{{a.csv,f.mp4}}")


def test_what_is_kept_about_a_pattern_lies_in_the_folder_above_it(tmp_path):
    from input_pipeline.cache import folders

    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        write(tmp_path / part, "list.csv", "path\n1.mp4\n")
    assert next(folders(open_source(f"{tmp_path}/{{a,b}}/list.csv"))) == tmp_path / ".vfm_cache"

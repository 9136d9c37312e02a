"""What holds for every format of annotation files."""

from pathlib import Path

import numpy as np
import pytest

from input_pipeline import open_source
from input_pipeline.formats import FORMATS, detect
from input_pipeline.formats.base import Document
from vfm.errors import UserError

from . import damaged
from .annotated import names, write

# Formats in general


def test_columns_of_any_table_make_paths_and_spans(tmp_path):
    file = write(
        tmp_path,
        "list.csv",
        [("vid", "start_time", "end_time", "label"), ("a", "1", "2.5", "dog"), ("b", "", "", "cat")],
    )
    source = open_source({"path": file, "template": "clips/{vid}.mp4"})
    assert names(source, tmp_path) == ["clips/a.mp4", "clips/b.mp4"]
    assert source.clip_name(0).endswith("a.mp4#t=1,2.5") and source.clip_name(1).endswith("b.mp4")
    assert source.labels["label"].tolist() == [1, 0] and list(source.labels) == ["label"]


def test_label_columns_may_be_named(tmp_path):
    rows = [
        ("path", "width", "signer", "sign"),
        ("a.mp4", "640", "p2", "3"),
        ("b.mp4", "-", "p1", "0"),
        ("c.mp4", "9", "p2", "1"),
    ]
    file = write(tmp_path, "list.csv", rows)
    with pytest.raises(UserError, match="line 3: width is '-'"):
        open_source(file)
    source = open_source({"path": file, "label": "signer, sign"})
    assert {name: column.tolist() for name, column in source.labels.items()} == {
        "signer": [1, 0, 1],
        "sign": [3, 0, 1],
    }
    assert source.label_names == {"signer": ["p1", "p2"]}
    with pytest.raises(UserError, match="label='sing': no such column; it has: path, width"):
        open_source({"path": file, "label": "sing"})


def test_what_may_be_several_formats_is_asked_about(tmp_path, monkeypatch):
    document = Document(tmp_path / "list.txt")
    document.path.write_text("a.mp4 1 2\n")
    assert detect(document, {}) == "mmaction2"
    monkeypatch.setattr(FORMATS["webvid"], "detect", lambda document: True)
    with pytest.raises(
        UserError, match="may be of the formats mmaction2, webvid; say which with format=NAME"
    ):
        detect(document, {})
    assert len(open_source({"path": str(document.path), "format": "mmaction2"})) == 1


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "msvd"])
def test_a_file_of_another_format_is_refused_and_not_misread(tmp_path, name):
    """Whatever `format` says, a file that is not of it ends in a sentence."""
    for file, text in (
        ("x.json", '[{"a": 1}]'),
        ("y.json", '{"a": {"b": 2}}'),
        ("z.csv", "one,two\nx y z,?\n"),
    ):
        with pytest.raises(UserError):
            open_source({"path": write(tmp_path, file, text), "format": name})


@pytest.mark.parametrize("name", [*damaged.JSON, *damaged.TEXT])
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path, name):
    """Never another exception, and never a source whose samples cannot be asked for."""
    write(tmp_path, "labels.json", {"Holding something": "0", "Closing something": "1"})
    whole = damaged.JSON.get(name, damaged.TEXT.get(name))
    file = write(tmp_path, name if name in damaged.TEXT else f"{name}.json", whole)
    assert len(open_source(file)) >= 1
    change = damaged.damaged_text if isinstance(whole, str) else damaged.damaged_json
    rng, refused = np.random.default_rng(0), 0
    for _ in range(30):
        write(tmp_path, Path(file).name, change(whole, rng))
        try:
            source = open_source(file)
        except UserError:
            refused += 1
        else:
            assert len([source[i] for i in range(len(source))]) == len(source) > 0
    assert refused


def test_impossible_class_numbers_are_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="line 1: .*expected 'Class/v_Class"):
        open_source({"path": write(tmp_path, "ucf.txt", f"A/v_A_g1_c1.avi {10**15}\n"), "format": "ucf101"})
    with pytest.raises(UserError, match="line 1: label has 1000000000000000; expected"):
        open_source(write(tmp_path, "list.txt", f"a.mp4 0 {10**15}\n"))


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('a.mp4,"opened\nb.mp4,two\nc.mp4,three', 2),
        ('a.mp4,one\nb.mp4,"opened\nc.mp4,"three"', 3),
        ('a.mp4,one\nb.mp4,"opened\nc.mp4,three"', 3),
        ('a.mp4,one\nb.mp4,two\nc.mp4,"opened', 4),
        (f'a.mp4,one\nb.mp4,"{"long " * 40_000}\n', 3),
    ],
)
def test_a_quote_that_is_never_closed_is_an_error_of_its_line(tmp_path, rows, line):
    (tmp_path / "list.csv").write_text("path,caption\n" + rows)
    with pytest.raises(UserError, match=rf"list.csv line {line}: a quote is opened and never closed"):
        open_source(str(tmp_path / "list.csv"))


def test_captions_may_have_quotes_and_several_lines(tmp_path):
    rows = 'a.mp4,"a dog, brown\nand old, runs"\nb.mp4,6" tall\nc.mp4,"says ""yes"", twice"\n'
    (tmp_path / "list.csv").write_text("path,caption\n" + rows)
    captions = [list(found) for found in open_source(str(tmp_path / "list.csv")).captions]
    assert captions == [["a dog, brown\nand old, runs"], ['6" tall'], ['says "yes", twice']]


def test_a_column_of_captions_that_is_not_there_is_named(tmp_path):
    texts = {
        "a.csv": "path,titel\na.mp4,a cat\nb.mp4,a dog\n",
        "a.jsonl": '{"path": "a.mp4", "titel": "a cat"}\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert not open_source(tmp_path / name).captions  # nobody has asked for any
        assert open_source(tmp_path / name, column="titel").captions[0] == ("a cat",)
        with pytest.raises(
            UserError, match=f"{name}: has no column 'title' of captions .did you mean 'titel'?"
        ):
            open_source(tmp_path / name, column="title")
    said = '{"path": "a.mp4", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}\n'
    (tmp_path / "said.jsonl").write_text(said)
    assert open_source(tmp_path / "said.jsonl", column="title").captions == [
        ("!",)
    ]  # answers are the captions

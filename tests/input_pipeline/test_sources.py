"""Lists and folders people have are understood; those that cannot be are refused in a sentence."""

import json

import pytest

from input_pipeline import open_source, write_mp4
from vfm.errors import UserError

from .conftest import pixels


def write(folder, text: str, name: str = "list.csv"):
    file = folder / name
    file.write_bytes(text.encode())
    return file


def test_csv_with_header(tmp_path):
    source = open_source(
        write(tmp_path, 'path,digit,seconds,caption\na b.mp4,3,1.5,"one, two"\nc.mp4,0,2.0,three\n')
    )
    assert len(source) == 2
    assert list(source.labels) == ["digit"]  # seconds are no integers
    first = source[0]
    assert first.path == str(tmp_path / "a b.mp4")
    assert (first.labels, first.caption, first.id) == ({"digit": 3}, "one, two", 0)


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_byte_order_marks_and_line_ends_do_not_matter(tmp_path, mark, end):
    source = open_source(write(tmp_path, mark + end.join(["path,label", "a.mp4,1", "", "b.mp4,2", ""])))
    assert [source[i].labels["label"] for i in range(2)] == [1, 2]
    assert source[1].path == str(tmp_path / "b.mp4")


def test_quoted_captions_may_hold_commas_quotes_and_line_ends(tmp_path):
    source = open_source(write(tmp_path, 'path,caption\na.mp4,"says ""no"",\nthen leaves"\nb.mp4,x\u2028y\n'))
    assert source[0].caption == 'says "no",\nthen leaves'
    assert len(source) == 2


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
def test_lists_without_header_split_at_the_last_separator(tmp_path, separator):
    source = open_source(write(tmp_path, f"my clips/a b.mp4{separator}7\nc,d.mp4{separator}0\n", "train.txt"))
    assert source[0].path == str(tmp_path / "my clips/a b.mp4")
    assert source[1].path == str(tmp_path / "c,d.mp4")
    assert source.labels["label"].tolist() == [7, 0]


def test_lists_of_paths_alone_have_no_labels(tmp_path):
    source = open_source(write(tmp_path, "a 1.mp4\nb.mp4\n"))
    assert source.labels == {}
    assert source[0].path == str(tmp_path / "a 1.mp4")


def test_root_and_absolute_paths(tmp_path):
    source = open_source(write(tmp_path, "path,label\na.mp4,1\n/there/b.mp4,2\n"), root="/videos")
    assert list(source.paths) == ["/videos/a.mp4", "/there/b.mp4"]


def test_classes_json_names_and_bounds_the_classes(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps({"label": ["cat", "dog"], "other": ["x"]}))
    source = open_source(write(tmp_path, "path,label\na.mp4,dog\nb.mp4,0\n"))
    assert source.labels["label"].tolist() == [1, 0]
    assert source.label_names == {"label": ["cat", "dog"]}
    with pytest.raises(UserError, match=r"bad\.csv line 3: label is '2'; expected an integer 0 \.\.\. 1"):
        open_source(write(tmp_path, "path,label\na.mp4,1\nb.mp4,2\n", "bad.csv"))


def test_words_of_a_label_column_are_classes_in_sorted_order(tmp_path):
    source = open_source(
        write(tmp_path, "path,label,signer\na.mp4,asl:no,p2\nb.mp4,asl:again,p1\nc.mp4,asl:no,p2\n")
    )
    assert source.labels["label"].tolist() == [1, 0, 1] and list(source.labels) == ["label"]
    assert source.label_names == {"label": ["asl:again", "asl:no"]}
    assert source.words == {"label": ["asl:no", "asl:again", "asl:no"], "signer": ["p2", "p1", "p2"]}


def test_words_keep_to_the_rows_of_their_videos(tmp_path):
    source = open_source(write(tmp_path, "\ufeffpath\t signer \n\na.mp4\tp1\n\t\nb.mp4\tp2\n", "list.tsv"))
    assert len(source) == 2 and source.words == {"signer": ["p1", "p2"]}


@pytest.mark.parametrize("cell", ["", "-1", "x"])
def test_one_wrong_cell_does_not_take_a_label_column_away(tmp_path, cell):
    with pytest.raises(UserError, match=f"list.csv line 4: digit is '{cell}'; expected an integer 0 or more"):
        open_source(write(tmp_path, f"path,digit\na.mp4,1\nb.mp4,2\nc.mp4,{cell}\n"))


def test_folder_of_classes_plain_folder_and_single_file(tmp_path):
    for name in ("b/2.mp4", "a/sub/1.mp4", "a/notes.txt", ".hidden/3.mp4"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"")
    source = open_source(tmp_path / "set")
    assert [p.removeprefix(str(tmp_path)) for p in source.paths] == ["/set/a/sub/1.mp4", "/set/b/2.mp4"]
    assert source.labels["label"].tolist() == [0, 1]
    assert source.label_names == {"label": ["a", "b"]}
    plain = open_source(tmp_path / "set" / "b")
    assert len(plain) == 1 and plain.labels == {}
    write_mp4(tmp_path / "one.mp4", pixels(0))
    assert list(open_source(tmp_path / "one.mp4").paths) == [str(tmp_path / "one.mp4")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.csv: is empty"),
        ("\n  \n", "list.csv: is empty"),
        ("path,label\n", "list.csv: has a header but no rows"),
        ("video,label\na.mp4,1\n", "the columns video, label but no 'path'"),
        ("path,label\na.mp4,1\nb.mp4,x\n", "list.csv line 3: label is 'x'; expected an integer 0 or more"),
        ("path,label\na.mp4,-1\n", "list.csv line 2: label is '-1'; expected an integer 0 or more"),
        ("a.mp4 1\nb.mp4 1.5\n", "list.csv line 2: label is '1.5'"),
        ("a.mp4 1\nb.mp4\n", "list.csv line 2: 'b.mp4' has no label"),
        ("path,caption\na.mp4,one, two\n", "list.csv line 2: has 3 fields, the header has 2; put fields"),
        ("path,label\n,1\n", "list.csv line 2: 'path' is empty"),
        ("path,label,label\na.mp4,1,2\n", "'label' is there twice"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_by_line_and_value(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        open_source(write(tmp_path, text))
    assert message in str(error.value)


def test_other_specs_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match=r"data\.train='.*nowhere\.csv': no such file or folder"):
        open_source(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match="holds no videos"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="is no kind of source"):
        open_source(write(tmp_path, "{}", "list.xlsx"))
    with pytest.raises(UserError, match=r"data\.train is not set"):
        open_source("")
    write(tmp_path, "{1}", "classes.json")
    with pytest.raises(UserError, match=r"classes\.json: expected JSON such as"):
        open_source(write(tmp_path, "path,label\na.mp4,1\n"))
    (tmp_path / "latin.csv").write_bytes("path\nm\xfcde.mp4\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8"):
        open_source(tmp_path / "latin.csv")
    (tmp_path / "mixed" / "a").mkdir(parents=True)
    for name in ("a/1.mp4", "2.mp4"):
        (tmp_path / "mixed" / name).write_bytes(b"")
    with pytest.raises(UserError, match="both video files"):
        open_source(tmp_path / "mixed")


def test_a_path_that_leads_nowhere_names_the_nearest_and_where_it_was_looked_for(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    with pytest.raises(
        UserError, match=r"lst.txt': no such file or folder \(did you mean '.*/list.txt'\?\); expected"
    ):
        open_source(tmp_path / "lst.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=f"no such file or folder below {tmp_path}, which relative paths"
    ) as found:
        open_source("other.csv")
    assert "did you mean" not in str(found.value)

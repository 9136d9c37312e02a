"""The command line that trains a tokenizer on captions."""

import sys

import pytest

from input_pipeline import open_tokenizer
from scripts import train_tokenizer
from vfm.errors import UserError

COLOURS, ANIMALS, DEEDS = ("red", "blue", "green"), ("dog", "cat"), ("runs", "sleeps")
ROWS = [f"{a}{b}{c}.mp4,{a} {b} {c}" for a in COLOURS for b in ANIMALS for c in DEEDS]


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_text("\n".join(["path,said", *ROWS]) + "\n")

    def run(*options, out="tok.model"):
        arguments = [str(tmp_path / "train.csv"), "--out", str(tmp_path / out), "--column", "said", *options]
        monkeypatch.setattr(sys, "argv", ["train_tokenizer", *arguments])
        train_tokenizer._main()
        return tmp_path / out

    return run


@pytest.mark.parametrize("kind", train_tokenizer.KINDS)
def test_the_file_is_a_tokenizer_of_that_size(call, capsys, kind):
    file = call("--vocab_size", "23", "--kind", kind)
    assert open_tokenizer(str(file)).vocab_size == 23
    assert "23 pieces from 12 texts (12 different)" in capsys.readouterr().out
    assert sorted(path.name for path in file.parent.iterdir()) == ["tok.model", "train.csv"]


def test_mistakes(call, capsys, tmp_path):
    for options, message in {
        (
            "--vocab_size",
            "900",
        ): r"12 captions give at most \d+ pieces of kind unigram; set --vocab_size=\d+ or less",
        ("--vocab_size", "9"): "different letters, which with 5 special tokens need more than",
        ("--column", "caption"): "no captions in a column 'caption'; set --column",
    }.items():
        with pytest.raises(UserError, match=message):
            call(*options)
    with pytest.raises(UserError, match="expected a name that ends in .model"):
        call(out="tok.bin")
    with pytest.raises(UserError, match="there is no folder"):
        call(out="nowhere/tok.model")
    (tmp_path / "old.model").write_text("another's")
    with pytest.raises(UserError, match="old.model' exists; give another name, or --force"):
        call(out="old.model")
    call("--vocab_size", "23", "--force", out="old.model")
    with pytest.raises(UserError, match="is a folder"):
        (tmp_path / "folder.model").mkdir()
        call(out="folder.model")
    with pytest.raises(SystemExit):
        call("--help")
    assert "--vocab_size" in capsys.readouterr().out

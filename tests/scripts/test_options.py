"""Options that several commands share are checked alike, before anything is done."""

import sys

import pytest

from scripts import fuzz_decode, inspect_data, options, prepare_data, validate_data
from vfm.errors import UserError

COMMANDS = {
    "prepare_data": (prepare_data.main, ["none.csv", "--out", "o"]),
    "validate_data": (validate_data.main, ["none.csv", "--out", "bad.csv"]),
    "inspect_data": (inspect_data._main, ["none.csv"]),
    "fuzz_decode": (fuzz_decode.main, ["none"]),
}


@pytest.mark.parametrize(
    ("command", "option", "value", "expected"),
    [
        *((command, "workers", "-1", "0 or more") for command in COMMANDS),
        ("prepare_data", "timeout", "-1", "0 or more"),
        ("prepare_data", "shard_size", "0", "1 or more"),
        ("validate_data", "timeout", "0", "more than 0"),
        ("validate_data", "timeout", "nan", "more than 0"),
        ("validate_data", "samples", "-2", "0 or more"),
        ("inspect_data", "rows", "0", "1 or more"),
        ("fuzz_decode", "count", "0", "1 or more"),
        ("fuzz_decode", "memory", "0", "more than 0"),
        ("fuzz_decode", "seed", "-1", "0 or more"),
        ("prepare_data", "gop", "0", "1 or more"),
        ("prepare_data", "short_side", "-1", "0 or more"),
        ("prepare_data", "fps", "nan", "0 or more"),
        ("prepare_data", "crf", "52", "0 ... 51"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path, monkeypatch, command, option, value, expected):
    monkeypatch.chdir(tmp_path)
    main, words = COMMANDS[command]
    monkeypatch.setattr(sys, "argv", [command, *words, f"--{option}", value])
    with pytest.raises(UserError, match=f"^--{option} {value}: expected {expected}$"):
        main()
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_is_found_out_first(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    for command in ("fuzz_decode", "validate_data"):
        words = [command, str(tmp_path), "--out", str(tmp_path / "none" / "o.csv")]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(UserError, match="there is no folder"):
            COMMANDS[command][0]()


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        *(
            (command, ["--worker", "2"], r"unknown option --worker .did you mean '--workers'\?")
            for command in COMMANDS
        ),
        ("inspect_data", ["--smaples=3"], r"unknown option --smaples .did you mean '--samples'\?"),
        (
            "prepare_data",
            ["--shortside", "9"],
            r"did you mean '--short_side'\?\) \(options of Beam need --runner\)",
        ),
        (
            "prepare_data",
            ["--preset", "verfast"],
            r"^--preset 'verfast' .did you mean 'veryfast'\?\): expected one of",
        ),
        (
            "inspect_data",
            ["--set", "a=1", "b=2"],
            "'b=2' is one argument too many; --set takes one KEY=VALUE",
        ),
        ("validate_data", ["--set", "split"], "--set split: expected KEY=VALUE"),
        ("inspect_data", ["--samples", "few"], "argument --samples: invalid int value: 'few'; see .* --help"),
    ],
)
def test_mistyped_options_are_one_line_with_the_nearest(tmp_path, monkeypatch, command, words, expected):
    monkeypatch.chdir(tmp_path)
    main, usual = COMMANDS[command]
    monkeypatch.setattr(sys, "argv", [command, *usual, *words])
    with pytest.raises(UserError, match=expected) as found:
        main()
    assert "\n" not in str(found.value) and not list(tmp_path.iterdir())


def test_set_takes_one_pair_and_leaves_what_follows(tmp_path, monkeypatch):
    (tmp_path / "list.csv").write_text("path,split\na.mp4,train\nb.mp4,test\n")
    parser = options.Parser("any", "text")
    options.add_source(parser)
    monkeypatch.setattr(
        sys, "argv", ["any", "--set", "split=test", str(tmp_path / "list.csv"), "--set", "fps=2"]
    )
    found = options.spec_of(parser.parse_all())
    assert found == {"path": str(tmp_path / "list.csv"), "split": "test", "fps": 2}


def test_only_an_option_that_says_so_lets_others_pass(monkeypatch):
    parser = options.Parser("any", "text")
    parser.add_argument("--runner", default="")
    monkeypatch.setattr(sys, "argv", ["any", "--runner", "flink", "--parallelism=64"])
    assert parser.parse_some("runner", "Beam")[1] == ["--parallelism=64"]
    with pytest.raises(UserError, match="unknown option --parallelism"):
        parser.parse_all()

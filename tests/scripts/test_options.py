"""Options that several commands share are checked alike, before anything is done."""

import sys

import pytest

from scripts import fuzz_decode, inspect_data, prepare_data, validate_data
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

"""What is written appears whole or not at all, and nothing else is left."""

import os
import time

import pytest

from input_pipeline.atomic import appearing, is_partial, partial_of, remove_stale
from input_pipeline.encode import write_mp4

from .odd import moving


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_appears_when_it_is_complete(tmp_path, durable):
    (tmp_path / "a.txt").write_text("old")
    with appearing(tmp_path / "a.txt", durable) as partial:
        partial.write_text("ne")
        assert (tmp_path / "a.txt").read_text() == "old"
        assert is_partial(partial.name) and partial.parent == tmp_path
        partial.write_text("new")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "new"


def test_what_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")
    for kind in (lambda place: place.write_text("ne"), lambda place: place.mkdir(), lambda place: None):
        with pytest.raises(KeyboardInterrupt):
            with appearing(tmp_path / "a") as partial:
                kind(partial)
                raise KeyboardInterrupt
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_folder_appears_but_not_in_place_of_another(tmp_path):
    with appearing(tmp_path / "a") as partial:
        partial.mkdir()
        (partial / "inside").write_text("x")
    with pytest.raises(OSError):
        with appearing(tmp_path / "a") as partial:
            partial.mkdir()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["inside"]


def test_writers_never_share_a_place(tmp_path):
    assert len({partial_of(tmp_path / "a.mp4") for _ in range(100)}) == 100
    assert not any(map(is_partial, ("a.partial", ".a.partial", ".a.0123abcd", "a.0123abcd.partial")))


def test_only_what_was_left_behind_long_ago_is_removed(tmp_path):
    old, new, other, mine = (partial_of(tmp_path / name) for name in ("set-1", "set-2", "other", "set-3"))
    old.mkdir()
    (old / "frames.bin").write_bytes(b"half")
    for place in (new, other, mine):
        place.write_bytes(b"half")
    (tmp_path / ".set-4.partial").write_text("mine")
    for place in (old, other, tmp_path / ".set-4.partial"):
        os.utime(place, (time.time() - 10**6,) * 2)
    remove_stale(tmp_path, "set-")
    assert names(tmp_path) == sorted([new.name, other.name, mine.name, ".set-4.partial"])


def test_a_video_that_cannot_be_finished_leaves_nothing(tmp_path, monkeypatch):
    write_mp4(tmp_path / "a: b.mp4", moving(2))
    before = (tmp_path / "a: b.mp4").read_bytes()
    monkeypatch.setattr("input_pipeline.encode.np.ascontiguousarray", lambda pixels: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_mp4(tmp_path / "a: b.mp4", moving(2))
    assert names(tmp_path) == ["a: b.mp4"] and (tmp_path / "a: b.mp4").read_bytes() == before

"""Damaged videos end in frames or a reason; what ends its process is named, and the others go on."""

import os
import signal
import sys
import time

import numpy as np
import pytest

from input_pipeline import write_mp4
from scripts.fuzz_decode import main, table
from scripts.mutants import FAILURES, MUTATIONS, Mutants, mutate, results
from vfm.errors import UserError


class Deadly(Mutants):
    """Mutants the second of which crashes and the third hangs."""

    def __getitem__(self, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        if index == 2:
            time.sleep(1000)
        return super().__getitem__(index)


def test_forty_mutants_of_real_files(shared):
    names = ("decord/video_90.mov", "androidx_media/sample_av1.mp4", "androidx_media/sample.flv")
    names += ("androidx_media/bear-vp9.webm", "torchcodec/h265_video.mp4", "androidx_media/sample_h264.ts")
    mutants = Mutants([str(shared / "data" / name) for name in names], 3, 30, 1024)
    found = [mutants[i] for i in range(40)]
    assert not [result for result in found if result.outcome in FAILURES]
    outcomes = {result.outcome for result in found}
    assert outcomes == {"frames", "damaged", "bad"}  # each of them, and no other
    assert all(bool(result.reason) == (result.outcome != "frames") for result in found)
    assert {result.mutation for result in found} == set(MUTATIONS)
    assert max(result.mebibytes for result in found) < 256
    again = [mutants[i] for i in (0, 17, 39)]
    assert [r[:4] for r in again] == [found[i][:4] for i in (0, 17, 39)]  # by its number alone


def test_every_mutation_changes_the_file_and_nothing_else():
    data = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8).tobytes()
    for mutation in MUTATIONS:
        one = mutate(data, mutation, np.random.default_rng(1))
        assert one != data and one == mutate(data, mutation, np.random.default_rng(1))
        assert len(one) <= len(data) and (mutation in ("truncated", "removed")) == (len(one) < len(data))


def test_crash_and_hang_are_named_and_the_run_goes_on(tmp_path):
    write_mp4(tmp_path / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8))
    mutants = Deadly([str(tmp_path / "a.mp4")], 0, 30, 1024)
    found = list(results(mutants, 5, 1, 10.0))
    assert [result.outcome for result in found[1:3]] == ["crash", "hang"]
    assert "SIGSEGV" in found[1].reason and "no answer within 10 s" in found[2].reason
    assert not {found[i].outcome for i in (0, 3, 4)} & set(FAILURES)
    text = table(found)
    assert "x crash: the process that read it died: signal SIGSEGV (e.g. a.mp4, header)" in text


def test_the_command_counts_and_lists(tmp_path, monkeypatch, capsys):
    write_mp4(tmp_path / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fuzz_decode", *map(str, arguments), "--workers", "1"])
        main()
        return capsys.readouterr().out

    shown = call(tmp_path, "--count", 5, "--out", tmp_path / "all.csv")
    assert "5 mutants: 0 crashes, hangs, excesses of memory or unknown errors" in shown
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 6
    with pytest.raises(SystemExit, match="1"):
        call(tmp_path, "--count", 1, "--memory", 0.001)
    assert "x memory: takes" in capsys.readouterr().out
    with pytest.raises(UserError, match="no such file or folder"):
        call(tmp_path / "none")
    (tmp_path / "poem.txt").write_text("no video")
    with pytest.raises(
        UserError, match="none of 1 file can be read before any damage, e.g. .*poem.txt: cannot be"
    ):
        call(tmp_path / "poem.txt")

"""How far something is: lines where there is no terminal, a bar where there is one, nothing where nobody listens."""

import sys

from input_pipeline import progress
from input_pipeline.progress import Progress, lasting


def test_lines_say_what_is_done_what_is_bad_and_what_is_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", -1.0)
    now = iter(range(0, 1000, 60))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    with Progress(3, "checking", "videos") as bar:
        bar.add()
        bar.add(bad=True)
        bar.add()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("checking: 1 of 3 videos, about ") and said[0].endswith(" a second")
    assert said[1].startswith("checking: 2 of 3 videos, 1 bad, about ")
    assert said[-1].startswith("checking: 3 of 3 videos, 1 bad, ") and "left" not in said[-1]


def test_shares_of_a_step_and_a_summary(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", -1.0)
    bar = Progress(2, "probes", "probes")
    bar.to(0.5, "linear")
    bar.to(2.0)
    bar.close("2 probes")
    shown = capsys.readouterr()
    assert [line.split(",")[0] for line in shown.err.splitlines()] == [
        "linear: 0 of 2 probes",
        "linear: 2 of 2 probes",
    ]
    assert shown.out.startswith("2 probes (") and shown.out.endswith(" s)\n")


def test_a_terminal_gets_a_bar_and_no_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(2, "checking") as bar:
        bar.add()
        bar.add(bad=True)
    said = capsys.readouterr().err
    assert "checking   0%|" in said and "0/2 videos" in said and "a second" not in said


def test_quiet_is_quiet(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", -1.0)
    bar = Progress(2, "probes", quiet=True)
    bar.to(1)
    bar.close("done")
    shown = capsys.readouterr()
    assert not shown.out and not shown.err


def test_durations_have_a_unit_that_suits_them():
    assert [lasting(s) for s in (0.04, 44.3, 99, 720, 12600, 4e6)] == [
        "0.04 s", "44 s", "99 s", "12 min", "3.5 hours", "1,111 hours"
    ]  # fmt: skip

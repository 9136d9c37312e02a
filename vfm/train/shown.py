"""What a run plans to show (plan.json), and what it showed (input.json)."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vfm.train.config import write_json
from vfm.train.processes import from_first

log = logging.getLogger(__name__)
_KEPT = 5  # steps whose account stays, so that a run can go on from any checkpoint it has
_NAMED = 5  # files in one message


class Plan:
    """Decides which samples of the run's sources are left out: once, when it begins, for all its processes.

    plan.json holds that decision. A run that goes on keeps to it, as its order depends on how many samples there are:
    what has broken since is replaced in its place, what was mended stays out.

    Args:
      workdir: the run's folder.
      goes_on: whether the run has checkpoints.
    """

    def __init__(self, workdir: str | Path, goes_on: bool):
        self.file = Path(workdir) / "plan.json"
        self._known = json.loads(self.file.read_text()) if goes_on and self.file.exists() else {}
        self._asked: Counter[str] = Counter()

    def __call__(self, compute: Callable[[], np.ndarray], names: Sequence[str]) -> np.ndarray:
        """The bool [n] of the samples to leave out, which `compute` finds for a source that is new to the run."""

        def find() -> np.ndarray:
            digest = hashlib.sha256()
            for name in names:  # without folders: a set may move
                digest.update(os.path.basename(name).encode("utf-8", "surrogateescape") + b"\0")
            key = digest.hexdigest()[:16]
            self._asked[key] += 1
            if (again := self._asked[key]) > 1:  # another folder of files with the same names
                key = f"{key}-{again}"
            if key not in self._known:
                self._known[key] = np.flatnonzero(compute()).tolist()
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.file, self._known)
            left_out = np.zeros(len(names), bool)
            left_out[self._known[key]] = True
            return left_out

        return from_first(find, len(names))


class Shown:
    """Keeps the account of a source of batches beside the run; does nothing where the source has none.

    Each process notes what it showed itself: the first in input.json, the others in files with their number.
    input.json maps steps to accounts (`input_pipeline.telemetry.Account`), the last of which is that of the run.

    Args:
      workdir: the run's folder.
      source: of batches.
      start: the step from which the run goes on.
    """

    def __init__(self, workdir: str | Path, source: Any, start: int):
        index = jax.process_index()
        self.file = Path(workdir) / (f"input.{index}.json" if index else "input.json")
        self._account = getattr(source, "account", None)
        if self._account is None:
            return
        kept = json.loads(self.file.read_text()) if self.file.exists() else {}
        self._kept = {int(step): account for step, account in kept.items() if int(step) <= start}
        if start in self._kept:
            self._account.resume(self._kept[start])
        for found in self._account.until(start)["sources"]:
            if found["left_out"]:
                log.warning(f"{_who(found)}: {_left_out(found)}")

    def save(self, step: int) -> None:
        """Writes down what was planned and shown up to `step`."""
        if self._account is None:
            return
        self._kept[step] = self._account.until(step)
        self._kept = dict(sorted(self._kept.items())[-_KEPT:])
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, {str(step): account for step, account in self._kept.items()})

    def report(self, step: int) -> None:
        """Logs whether all was shown as planned."""
        if self._account is not None:
            for line in lines([self._account.until(step)]):
                log.info(line)


def lines(accounts: list[dict[str, Any]]) -> list[str]:
    """The accounts of a run's processes, in words: one line for each source, and one about the clips."""
    sources = accounts[0]["sources"]
    clips = sum(account["clips"] for account in accounts)
    replaced: dict[str, int] = {}
    for account in accounts:
        for name, times in account["replaced"].items():
            replaced[name] = replaced.get(name, 0) + times
    found = []
    for source in sources:
        fewest, most = source["times"]
        times = f"{most:,}" if fewest == most else f"{fewest:,} or {most:,}"
        left = f" ({_left_out(source)})" if source["left_out"] else ""
        found.append(f"{_who(source)}: {source['planned']:,} samples{left}, planned {times} times each")
    if not replaced:
        found.append(f"all {clips:,} clips were shown as planned")
    else:
        some = ", ".join(f"'{name}' {times:,} times" for name, times in list(replaced.items())[:_NAMED])
        more = f" and {len(replaced) - _NAMED:,} more files" if len(replaced) > _NAMED else ""
        found.append(
            f"{clips - sum(replaced.values()):,} of {clips:,} clips were shown as planned; another sample stood in for "
            f"{some}{more}"
        )
    return found


def _who(source: dict[str, Any]) -> str:
    return f"data {source['name']}".rstrip()


def _left_out(source: dict[str, Any]) -> str:
    left = ", ".join(f"{count:,} {why}" for why, count in source["left_out"].items())
    return f"{sum(source['left_out'].values()):,} of {source['listed']:,} left out: {left}"

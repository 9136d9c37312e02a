"""A progress bar on a terminal, and now and then a line elsewhere."""

import sys
import time
from typing import Self

from tqdm import tqdm

_LINE_SECONDS = 30.0


class Progress:
    """Counts what is done and, of that, what is bad; a context manager.

    Args:
      total: how many there are.
      what: is done with them.
      unit: what they are called.
    """

    def __init__(self, total: int, what: str, unit: str = "videos"):
        self.done = self.bad = 0
        self._total, self._what, self._unit = total, what, unit
        self._bar = tqdm(total=total, desc=what, unit=f" {unit}", disable=None)
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def add(self, bad: bool = False) -> None:
        """One more is done."""
        self.done += 1
        self.bad += bad
        if not self._bar.disable:
            if bad:
                self._bar.set_postfix(bad=self.bad)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._said > _LINE_SECONDS or self.done == self._total:
            self._said = now
            rate = self.done / max(now - self._began, 1e-9)
            print(
                f"{self._what}: {self.done:,} of {self._total:,} {self._unit}, {self.bad:,} bad, {rate:,.1f} a second",
                file=sys.stderr,
                flush=True,
            )

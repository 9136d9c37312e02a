"""How far something is and how long it will take: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Self

from tqdm import tqdm

EVERY = 15.0  # seconds between lines where there is no terminal
_FORM = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f}{unit} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Counts what is done and, of that, what is bad; a context manager.

    Args:
      total: how many there are.
      what: is done with them.
      unit: what they are called.
      quiet: nothing is said at all.
    """

    def __init__(self, total: int, what: str, unit: str = "videos", quiet: bool = False):
        self.done, self.bad = 0.0, 0
        self._total, self._what, self._unit, self._quiet = total, what, unit, quiet
        hidden = True if quiet else None  # None: where there is no terminal
        self._bar = tqdm(
            total=total or 1, desc=what, unit=f" {unit}", disable=hidden, dynamic_ncols=True, bar_format=_FORM
        )
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        if self.done and not self._quiet and self._bar.disable:
            self._say()
        self._bar.close()

    def add(self, bad: bool = False) -> None:
        """One more is done."""
        self.bad += bad
        self.to(self.done + 1)

    def to(self, done: float, what: str = "") -> None:
        """`done` of `total` are finished; fractions are fine. `what` is done from now on."""
        step, self.done, self._what = done - self.done, done, what or self._what
        if not self._bar.disable:
            self._bar.set_description(self._what, refresh=False)
            if self.bad:
                self._bar.set_postfix(bad=self.bad, refresh=False)
            self._bar.update(step)
        elif not self._quiet and time.monotonic() - self._said > EVERY:
            self._say()

    def close(self, summary: str) -> None:
        """The end; `summary` is printed with the time that it took."""
        self._bar.close()
        if not self._quiet:
            print(f"{summary} ({lasting(time.monotonic() - self._began)})", flush=True)

    def _say(self) -> None:
        self._said = time.monotonic()
        rate = self.done / max(self._said - self._began, 1e-9)
        text = f"{self._what}: {self.done:,.0f} of {self._total:,} {self._unit}"
        if self.bad:
            text += f", {self.bad:,} bad"
        if 0 < self.done < self._total:
            text += f", about {lasting((self._total - self.done) / rate)} left"
        print(f"{text}, {rate:,.3g} a second", file=sys.stderr, flush=True)


def lasting(seconds: float) -> str:
    """Some seconds in a unit that suits them: "0.4 s", "44 s", "12 min", "3.5 hours"."""
    if seconds < 99.5:
        return f"{seconds:.2g} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.2g} min"
    hours = seconds / 3600
    return f"{hours:.2g} hours" if hours < 100 else f"{hours:,.0f} hours"

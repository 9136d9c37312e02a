"""How far an evaluation is and how long it will take: a bar on a terminal, a line now and then elsewhere."""

import sys
import time

from tqdm import tqdm

EVERY = 15.0  # seconds between lines where there is no terminal


class Bar:
    """Counts to `total`; says nothing at all where `quiet`."""

    def __init__(self, total: int, title: str, unit: str, quiet: bool = False):
        self.total, self.title, self.unit, self.quiet = total, title, unit, quiet
        self.done, self._began = 0.0, time.perf_counter()
        self._told = self._began
        on_terminal = sys.stderr.isatty() and not quiet
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        self._bar = (
            tqdm(total=total, desc=title, dynamic_ncols=True, bar_format=form) if on_terminal else None
        )

    def to(self, done: float, title: str = "") -> None:
        """`done` of `total` are finished; fractions are fine."""
        self.done, self.title = done, title or self.title
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.set_description(self.title, refresh=False)
            self._bar.n = done
            self._bar.refresh()
        elif not self.quiet and now - self._told > EVERY and done > 0.02 * self.total:
            self._told = now
            left = (now - self._began) / done * (self.total - done)
            print(
                f"{self.title}: {done:,.0f} of {self.total:,} {self.unit}, about {left:.0f} s left",
                flush=True,
            )

    def close(self, summary: str = "") -> None:
        """The end; `summary` is printed in any case but quiet."""
        if self._bar is not None:
            self._bar.close()
        if summary and not self.quiet:
            print(f"{summary} ({time.perf_counter() - self._began:.0f} s)", flush=True)

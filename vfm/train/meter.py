"""Numbers of the steps since the last report, left on the devices until they are asked for."""

import logging
import time
from typing import Any

import jax
import numpy as np

from vfm.errors import UserError

log = logging.getLogger(__name__)
SHOWN_IDS = 32


class Meter:
    """Collects the metrics of steps; raises where too many updates in a row were not finite.

    Args:
      max_bad_steps: skipped updates in a row that end the run.
    """

    def __init__(self, max_bad_steps: int):
        self.max_bad_steps = max_bad_steps
        self.bad_in_row = 0
        self._waiting: list[tuple[int, Any, dict]] = []
        self._sums: dict[str, np.ndarray] = {}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave what took the time since the last report (an evaluation) out of the speed of the next."""
        self._since, self._timed = time.perf_counter(), 0

    def add(self, step: int, ids: np.ndarray | None, metrics: dict[str, tuple[jax.Array, jax.Array]]) -> None:
        """Keep the (sum, weight) pairs of a step, and the ids of its batch in case it is bad.

        The values are waited for once in `max_bad_steps` steps, which is early enough to stop in time.
        """
        self._waiting.append((step, ids, metrics))
        self._timed += 1
        if len(self._waiting) >= self.max_bad_steps:
            self.read()

    def read(self) -> None:
        """Fetch what waits. Raises a UserError at the last of `max_bad_steps` bad updates in a row."""
        waiting, self._waiting = self._waiting, []
        values = jax.device_get([metrics for _, _, metrics in waiting])
        for (step, ids, _), metrics in zip(waiting, values, strict=True):
            bad = metrics["skipped"][0] > 0
            self.bad_in_row = self.bad_in_row + 1 if bad else 0
            for name, pair in metrics.items():
                if not bad or name == "skipped":
                    self._sums[name] = self._sums.get(name, np.zeros(2)) + np.array(pair, np.float64)
            if bad:
                self._say_bad(step, ids)

    def scalars(self, waited: float) -> dict[str, float]:
        """Means over the finite steps since the last call, the number of skipped ones, and seconds a step.

        Args:
          waited: seconds that went into waiting for data.
        """
        self.read()
        elapsed, steps = time.perf_counter() - self._since, max(1, self._timed)
        sums, self._sums = self._sums, {}
        skipped = sums.pop("skipped", (0.0, 0.0))[0]
        norm = sums.pop("grad_norm", None)
        means = {f"train/{name}": total / weight for name, (total, weight) in sums.items() if weight}
        if norm is not None:
            means["grad_norm"] = norm[0] / norm[1]
        means |= dict(skipped=skipped, step_time=elapsed / steps, data_wait=waited / steps)
        self.restart_clock()
        return means

    def _say_bad(self, step: int, ids: np.ndarray | None) -> None:
        shown = "unknown" if ids is None else ", ".join(map(str, np.ravel(ids)[:SHOWN_IDS].tolist()))
        if ids is not None and np.size(ids) > SHOWN_IDS:
            shown += f" and {np.size(ids) - SHOWN_IDS} more"
        if self.bad_in_row >= self.max_bad_steps:
            raise UserError(
                f"step {step}: the loss or the gradient was not finite in {self.bad_in_row} updates in a row "
                f"(config.max_bad_steps={self.max_bad_steps}); ids of this batch's samples: {shown}. No such update "
                "was applied and the checkpoints are sound: look at these samples, lower config.optim.lr or set "
                "config.optim.clip, then run again to go on from the last checkpoint"
            )
        log.warning(f"step {step}: loss or gradient not finite, update left out; ids of the samples: {shown}")

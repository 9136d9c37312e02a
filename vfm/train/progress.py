"""What a run says while it trains: a bar on a terminal, plain lines with the time left elsewhere."""

import logging
import os
import sys
import time

import jax
from tqdm import tqdm

log = logging.getLogger(__name__)


class Progress:
    """Shows steps `start` to `total`; on a terminal as a bar that each step moves."""

    def __init__(self, start: int, total: int):
        self.start, self.total = start, total
        self._began = time.perf_counter()
        shown = sys.stderr.isatty() and jax.process_index() == 0
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True) if shown else None

    def step(self) -> None:
        """One more step was started."""
        if self._bar is not None:
            self._bar.update()

    def report(self, step: int, scalars: dict[str, float]) -> None:
        """Numbers of the last interval, at the end of `step`."""
        loss, clips = scalars.get("train/loss", float("nan")), scalars["clips_per_s"]
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {clips:,.1f} clips/s")
            return
        left = (time.perf_counter() - self._began) / max(1, step - self.start) * (self.total - step)
        mfu = f"  mfu {scalars['mfu']:.1%}" if "mfu" in scalars else ""
        log.info(
            f"step {step:,}/{self.total:,}  loss {loss:.4f}  lr {scalars['lr']:.2e}  {clips:,.1f} clips/s  "
            f"step {scalars['step_time']:.3f} s (data {scalars['data_wait']:.3f} s){mfu}  {clock(left)} left"
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def clock(seconds: float) -> str:
    """ "2:05:09", "12:30" or "0:07"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _AboveTheBar(logging.Handler):
    """Prints log lines on stdout without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def show_logs() -> None:
    """Print what this project logs, as it is; of several processes only the first does more than warn."""
    handler = _AboveTheBar()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logging.INFO if jax.process_index() == 0 else logging.WARNING
    for name in ("vfm", "input_pipeline", "eval"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    # What goes wrong while Orbax writes in the background is raised, in one line; its own report has hundreds.
    logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)

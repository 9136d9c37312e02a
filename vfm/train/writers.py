"""Where numbers, pictures and texts of a run go: one interface, several places, process 0 only.

A writer has write_scalars(step, {name: float}), write_images(step, {name: uint8 [H, W, 3]}),
write_text(step, {name: text}) and close().
"""

import importlib.util
import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vfm.errors import UserError
from vfm.train.config import replace_text

log = logging.getLogger(__name__)


class JsonLines:
    """metrics.jsonl: one object a line; what a run that resumes at `start` will write again is dropped first."""

    def __init__(self, workdir: Path, start: int):
        self.file = workdir / "metrics.jsonl"
        self.seconds_before = _drop_after(self.file, start)
        self._stream = self.file.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._stream.write(json.dumps({"step": step} | {k: _number(v) for k, v in scalars.items()}) + "\n")
        self._stream.flush()

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Pictures have no place in a text file."""

    def write_text(self, step: int, texts: Mapping[str, str]) -> None:
        self._stream.write(json.dumps({"step": step} | dict(texts)) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class TensorBoard:
    """WORKDIR/tensorboard; events after `start` are hidden when a run resumes."""

    def __init__(self, workdir: Path, start: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1 if start else None)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for name, image in images.items():
            self._writer.add_image(name, image, step, dataformats="HWC")

    def write_text(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run that goes on when the training run is resumed."""

    def __init__(self, workdir: Path, config: Mapping[str, Any]):
        if importlib.util.find_spec("wandb") is None:
            raise UserError(
                "config.wandb=True needs the package wandb: pip install wandb, or set it to False"
            )
        import wandb

        id_file = workdir / "wandb_id"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex)
        self._wandb = wandb
        self._run = wandb.init(
            dir=str(workdir), name=workdir.name, id=id_file.read_text(), resume="allow", config=dict(config)
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._run.log({name: self._wandb.Image(image) for name, image in images.items()}, step=step)

    def write_text(self, step: int, texts: Mapping[str, str]) -> None:
        self._run.log(
            {name: self._wandb.Html(f"<pre>{text}</pre>") for name, text in texts.items()}, step=step
        )

    def close(self) -> None:
        self._run.finish()


class Writers:
    """All the writers of a run; does nothing on processes other than the first.

    Attributes:
      seconds_before: how long the run had trained up to the step from which it goes on.
    """

    def __init__(self, workdir: str | Path, start: int, config: Any):
        self._all: list[Any] = []
        self.seconds_before = 0.0
        if jax.process_index() != 0:
            return
        workdir = Path(workdir)
        # First the one that can be refused, so that no other is left open.
        online = [WeightsAndBiases(workdir, config.to_dict())] if config.wandb else []
        lines = JsonLines(workdir, start)
        self.seconds_before = lines.seconds_before
        self._all = [lines, TensorBoard(workdir, start), *online]

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for writer in self._all:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for writer in self._all:
            writer.write_images(step, images)

    def write_text(self, step: int, texts: Mapping[str, str]) -> None:
        for writer in self._all:
            writer.write_text(step, texts)

    def close(self) -> None:
        for writer in self._all:
            writer.close()


class BadFiles:
    """bad_files.jsonl: every file that the pipeline had to leave out, once, with the reason.

    Each process names what it met itself: the first in bad_files.jsonl, the others in files with their number.
    """

    def __init__(self, workdir: str | Path):
        index = jax.process_index()
        self.file = Path(workdir) / (f"bad_files.{index}.jsonl" if index else "bad_files.jsonl")
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self._reasons = {row["path"]: row["reason"] for row in map(json.loads, lines)}

    def update(self, bad_files: Any) -> None:
        """Write down and log what is new in a list of {"path", "reason"}."""
        new = [row for row in bad_files if row["path"] not in self._reasons]
        for row in new:
            log.warning(f"left out: '{row['path']}' cannot be read ({row['reason']})")
            self._reasons[row["path"]] = row["reason"]
        if new:
            rows = (json.dumps({"path": path, "reason": reason}) for path, reason in self._reasons.items())
            replace_text(self.file, "\n".join(rows) + "\n")


def _number(value: float) -> float | None:
    """JSON has no NaN: a value that is not finite becomes null."""
    value = float(value)
    return float(f"{value:.8g}") if np.isfinite(value) else None


def _drop_after(file: Path, start: int) -> float:
    """Keep the lines up to step `start`, and give the time of the last; a half-written line goes too."""
    if not file.exists():
        return 0.0
    lines, kept, seconds = file.read_text().splitlines(keepends=True), [], 0.0
    for line in lines:
        try:
            row = json.loads(line)
            if row["step"] <= start and line.endswith("\n"):
                kept.append(line)
                seconds = row.get("time", seconds)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    if kept != lines:
        replace_text(file, "".join(kept))
    return seconds

"""Checkpoints of the whole state: written in the background, complete or absent, restored onto any mesh.

WORKDIR/checkpoints/<step>/ appears by one rename when all of it is written; what a killed run leaves half-written
has another name, is never read and is removed by the next run.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from vfm import rules
from vfm.errors import UserError

log = logging.getLogger(__name__)
Tree = dict[str, Any]


def steps(workdir: str | Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending."""
    folder = _folder(workdir)
    if not folder.is_dir():
        return []
    found = (int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())
    return sorted(step for step in found if ocp.is_orbax_checkpoint(folder / str(step)))


def restore(workdir: str | Path, step: int, like: Tree) -> Tree:
    """The state of a checkpoint, placed as the shapes with shardings `like` say.

    Raises:
      UserError: its arrays are not those of `like`: a checkpoint of another model.
    """
    _check_same(workdir, step, like)
    with _reading(workdir, step):
        return ocp.load(_folder(workdir) / str(step), like)


def restore_params(
    workdir: str | Path, step: int | None = None, which: str = "params"
) -> tuple[dict[str, Any], int]:
    """(parameters as numpy arrays, step) of a run; needs neither its model nor its devices.

    Args:
      workdir: the run's folder.
      step: which checkpoint; None = the newest.
      which: "params", or "ema" for their moving average.

    Raises:
      UserError: the run has no such checkpoint, or keeps no average.
    """
    step = _resolve(workdir, step)
    stored = _metadata(workdir, step)
    if which not in stored:
        raise UserError(
            f"checkpoint {step} of '{workdir}' has no '{which}', it has {', '.join(stored)}; "
            "an average is kept by runs with config.ema above 0"
        )
    like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), {which: stored[which]})
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context, _reading(workdir, step):
        return ocp.load(_folder(workdir) / str(step), like)[which], step


def sha256(tree: Any) -> str:
    """Digest of names, types, shapes and bits of all arrays, whatever devices they lie on."""
    digest = hashlib.sha256()
    for path, leaf in sorted(rules.flatten(tree).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints of a run that is training. All processes call each method, in the same order.

    Args:
      workdir: the run's folder.
      keep: how many of the newest stay.
      keep_every: those at multiples of it stay as well; 0 = none.
    """

    def __init__(self, workdir: str | Path, *, keep: int, keep_every: int = 0):
        policies = ocp.training.preservation_policies
        stay = [policies.LatestN(keep)] + ([policies.EveryNSteps(keep_every)] if keep_every else [])
        self.workdir = workdir
        self._pending = None
        with self._writing():
            self._manager = ocp.training.Checkpointer(
                _folder(workdir),
                preservation_policy=policies.AnyPreservationPolicy(stay),
                cleanup_tmp_directories=True,
            )

    def save(self, step: int, state: Tree) -> None:
        """Copy the state off the devices now and write it in the background; the state may be donated after."""
        if step in (info.step for info in self._manager.checkpoints):
            return
        with self._writing():
            # `force`: when to save is the loop's decision; Orbax's own policies would save whenever idle.
            self._pending = self._manager.save_async(step, state, force=True)

    def check(self) -> None:
        """Raise what went wrong in the background, if a save has ended."""
        if self._pending is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Until everything is on disk."""
        with self._writing():
            self._manager.wait()
        self._pending = None

    def close(self) -> None:
        with self._writing():
            self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            complete = ", ".join(map(str, steps(self.workdir))) or "none"
            raise UserError(
                f"cannot write a checkpoint to '{_folder(self.workdir)}': {_reason(error)}. Complete checkpoints are "
                f"untouched (steps: {complete}); make room or give another --workdir, then run the same command again"
            ) from error


def _folder(workdir: str | Path) -> Path:
    return Path(workdir).absolute() / "checkpoints"


def _resolve(workdir: str | Path, step: int | None) -> int:
    there = steps(workdir)
    if not there:
        raise UserError(
            f"'{workdir}' has no complete checkpoint; give the folder of a run that has saved one"
        )
    if step is not None and step not in there:
        raise UserError(f"'{workdir}' has no checkpoint of step {step}; it has: {', '.join(map(str, there))}")
    return there[-1] if step is None else step


def _metadata(workdir: str | Path, step: int) -> Tree:
    """Shapes and types of a checkpoint's arrays."""
    with _reading(workdir, step):
        return ocp.metadata(_folder(workdir) / str(step)).metadata


@contextmanager
def _reading(workdir: str | Path, step: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(
            f"cannot read checkpoint {step} of '{workdir}': {_reason(error)}; if it is damaged, remove its folder "
            f"'{_folder(workdir) / str(step)}' to go on from the one before"
        ) from error


def _reason(error: BaseException) -> str:
    """One line for an error of the file system, of Orbax or of its storage library."""
    text = str(error)
    if "No space left" in text or "RESOURCE_EXHAUSTED" in text:
        return "no space left on the disk"
    text = text.split("See full TensorStore details")[0]  # many lines of its own settings
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}"


def _check_same(workdir: str | Path, step: int, like: Tree) -> None:
    stored, expected = rules.flatten(_metadata(workdir, step)), rules.flatten(like)
    for path in [*expected, *sorted(stored.keys() - expected.keys())]:
        there, here = (tuple(tree[path].shape) if path in tree else "none" for tree in (stored, expected))
        if there != here:
            raise UserError(
                f"checkpoint {step} of '{workdir}' is of another model or optimiser: the first difference is '{path}', "
                f"shape {there} in the checkpoint, {here} in this config. Use the config of that run, another "
                "--workdir, or take parts of its parameters with config.init.encoder"
            )

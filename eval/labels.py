"""Label budgets: which training examples a probe with few labels may see."""

import numpy as np
from jaxtyping import Int

from vfm.errors import UserError


def check(
    labels: Int[np.ndarray, " N"], classes: int, task: str, split: str, names: list[str] | None = None
) -> None:
    """Every label is a class.

    Raises:
      UserError: the split is empty, or a label is outside 0..classes-1.
    """
    if len(labels) == 0:
        raise UserError(
            f"{split} split of task '{task}' has no readable clip; give a SPEC with labelled videos"
        )
    bad = np.unique(labels[(labels < 0) | (labels >= classes)])
    if len(bad):
        raise UserError(
            f"task '{task}': label {int(bad[0])} in the {split} split is out of range; the "
            + (f"{classes} classes of classes.json are" if names else "training labels say")
            + f" 0..{classes - 1}; correct the column '{task}' or its class names"
        )


def check_present(labels: Int[np.ndarray, " N"], train: Int[np.ndarray, " M"], task: str, split: str) -> None:
    """Every class of a split has a training example.

    Raises:
      UserError: one has none; no probe could ever name it.
    """
    missing = np.setdiff1d(labels, train)
    if len(missing):
        raise UserError(
            f"task '{task}': class {int(missing[0])} is in the {split} split but has no clip in the training "
            f"split ({len(missing)} such classes); a probe cannot learn it: correct the splits"
        )


def subset(labels: Int[np.ndarray, " N"], budget: int | str, seed: int) -> Int[np.ndarray, " n"]:
    """Sorted indices of the training examples that `budget` and `seed` allow.

    "all" = every one. A number = so many of each class, drawn by the seed: the same seed's smaller budget is
    contained in its larger one, and classes are equally large unless one has fewer examples (then all of it).
    """
    if budget == "all":
        return np.arange(len(labels))
    if int(budget) < 1:
        raise UserError(f"label budget {budget}: expected 'all' or a positive number of clips of each class")
    chosen = []
    for c in np.unique(labels):
        # Each class has its own stream, so that one class's size cannot move another's draw.
        order = np.random.default_rng((seed, int(c))).permutation(np.flatnonzero(labels == c))
        chosen.append(order[: int(budget)])
    return np.sort(np.concatenate(chosen))


def short_classes(labels: Int[np.ndarray, " N"], budget: int | str) -> list[int]:
    """Classes with fewer examples than the budget asks for."""
    if budget == "all":
        return []
    present, counts = np.unique(labels, return_counts=True)
    return present[counts < int(budget)].tolist()

"""Classification metrics from exact counts.

Axes: N examples, V views of an example, C classes. Scores are larger for the better class, in any unit.
`mask` is 1 for an example and 0 for padding; padding never reaches a count.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Ties = Literal["first", "optimistic", "pessimistic"]


def _valid(mask, n: int) -> Bool[np.ndarray, " N"]:
    if mask is None:
        return np.ones(n, bool)
    mask = np.asarray(mask)
    if mask.shape != (n,):
        raise ValueError(f"mask has shape {mask.shape}, expected ({n},): one value for each example")
    return mask > 0


def true_class_rank(
    scores: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], ties: Ties = "first"
) -> Int[np.ndarray, " N"]:
    """How many classes come before the true one (0 = it is the prediction).

    `ties` says where a class of equal score stands: "first" = before, if its index is smaller (as argmax
    does), "optimistic" = behind the true class, "pessimistic" = before it.

    Raises:
      ValueError: a score is not a number, or a label is no class.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN; a rank among them has no meaning")
    classes = scores.shape[1]
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(f"labels {labels.min()}..{labels.max()} are not all in 0..{classes - 1}")
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    before = scores > true
    if ties == "first":
        before |= (scores == true) & (np.arange(classes)[None] < labels[:, None])
    elif ties == "pessimistic":
        before |= (scores == true) & (np.arange(classes)[None] != labels[:, None])
    return before.sum(axis=1)


def top_k_counts(
    scores: Float[np.ndarray, "N C"],
    labels: Int[np.ndarray, " N"],
    k: int = 1,
    mask: Float[np.ndarray, " N"] | None = None,
    ties: Ties = "first",
) -> tuple[int, int]:
    """(correct, counted): add these over batches, divide once."""
    valid = _valid(mask, len(labels))
    # Padding may carry any label and score, so it is dropped before anything looks at it.
    rank = true_class_rank(np.asarray(scores)[valid], np.asarray(labels)[valid], ties)
    return int((rank < k).sum()), int(valid.sum())


def top_k_accuracy(scores, labels, k: int = 1, mask=None, ties: Ties = "first") -> float:
    """Fraction (0..1) of examples whose true class is among the k best; see `top_k_counts`.

    Raises:
      ValueError: no example is left after masking.
    """
    correct, counted = top_k_counts(scores, labels, k, mask, ties)
    if counted == 0:
        raise ValueError("no example to count: the set is empty or all of it is padding")
    return correct / counted


def confusion_matrix(
    predictions: Int[np.ndarray, " N"],
    labels: Int[np.ndarray, " N"],
    classes: int,
    mask: Float[np.ndarray, " N"] | None = None,
) -> Int[np.ndarray, "C C"]:
    """Counts; rows are true classes, columns predictions."""
    valid = _valid(mask, len(labels))
    pairs = np.asarray(labels)[valid].astype(np.int64) * classes + np.asarray(predictions)[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def per_class_accuracy(confusion: Int[np.ndarray, "C C"]) -> Float[np.ndarray, " C"]:
    """Recall (0..1) of each class; NaN for a class without examples."""
    total = confusion.sum(axis=1)
    return np.where(total > 0, np.diag(confusion) / np.maximum(total, 1), np.nan)


def mean_class_accuracy(confusion: Int[np.ndarray, "C C"]) -> float:
    """Mean recall over the classes that have examples (balanced accuracy), 0..1."""
    recall = per_class_accuracy(confusion)
    if np.isnan(recall).all():
        raise ValueError("no example to count: the confusion matrix is empty")
    return float(np.nanmean(recall))


def softmax(logits: Float[np.ndarray, "*B C"]) -> Float[np.ndarray, "*B C"]:
    """Probabilities over the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def average_views(logits: Float[np.ndarray, "N V C"]) -> Float[np.ndarray, "N C"]:
    """Mean over views of each view's softmax (as VideoMAE and V-JEPA evaluate several clips and crops)."""
    return softmax(np.asarray(logits)).mean(axis=1)

"""k-nearest-neighbour classification of frozen features, as DINO and DINOv2 evaluate it.

Axes: N queries, M bank, D width, C classes. Similarity is the cosine; the k nearest vote with weights
softmax(similarity / temperature). The bank holds training examples only.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def normalise(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of length one; a row of zeros stays zero."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames="k")
def _nearest(queries: Float[Array, "N D"], bank: Float[Array, "M D"], excluded, k: int):
    similarity = jnp.where(excluded, -jnp.inf, queries @ bank.T)
    return jax.lax.top_k(similarity, k)


def nearest(
    queries: Float[np.ndarray, "N D"],
    bank: Float[np.ndarray, "M D"],
    k: int,
    excluded: np.ndarray | None = None,
    chunk: int = 1024,
) -> tuple[Float[np.ndarray, "N k"], Int[np.ndarray, "N k"]]:
    """Similarities and bank rows of the k nearest, best first; both inputs L2-normalised.

    `excluded` bool [N, M] forbids pairs. Where fewer than k remain, the last similarities are -inf.
    """
    k = min(k, len(bank))
    values, rows = [], []
    for first in range(0, len(queries), chunk):
        part = slice(first, first + chunk)
        forbidden = np.zeros((1, 1), bool) if excluded is None else excluded[part]
        v, r = _nearest(queries[part], bank, forbidden, k)
        values.append(np.asarray(v))
        rows.append(np.asarray(r))
    return np.concatenate(values), np.concatenate(rows)


def votes(
    similarity: Float[np.ndarray, "N k"],
    labels: Int[np.ndarray, "N k"],
    k: int,
    classes: int,
    temperature: float,
) -> Float[np.ndarray, "N C"]:
    """Summed weights of each class among the first k neighbours (k is cut to what there is)."""
    similarity, labels = similarity[:, :k], labels[:, :k]
    weights = np.exp((similarity - similarity[:, :1]) / temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    out = np.zeros((len(similarity), classes), np.float64)
    np.add.at(out, (np.arange(len(similarity))[:, None], labels), weights)
    return out


def classify(
    bank: Float[np.ndarray, "M D"],
    bank_labels: Int[np.ndarray, " M"],
    validation: tuple[np.ndarray, np.ndarray],
    test: np.ndarray,
    *,
    ks: tuple[int, ...],
    classes: int,
    temperature: float,
) -> tuple[Int[np.ndarray, " N"], int, float]:
    """(predictions on test, the k chosen on validation, accuracy there); features need not be normalised.

    Of equally good k the smallest is taken; a k above the size of the bank means all of it.
    """
    bank = normalise(bank)
    queries, labels = validation
    # k beyond the bank would all be the same vote.
    ks = tuple(sorted({min(int(k), len(bank)) for k in ks}))
    similarity, rows = nearest(normalise(queries), bank, ks[-1])
    correct = {
        k: int((votes(similarity, bank_labels[rows], k, classes, temperature).argmax(1) == labels).sum())
        for k in ks
    }
    k = max(ks, key=lambda k: (correct[k], -k))
    similarity, rows = nearest(normalise(test), bank, k)
    predictions = votes(similarity, bank_labels[rows], k, classes, temperature).argmax(1)
    return predictions, k, correct[k] / len(labels)

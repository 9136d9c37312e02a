"""Cross-entropy over a large vocabulary, without ever holding all of its logits.

Letters: B batch, L positions, D width, V words of the vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from vfm.ops import dot


class Scores(NamedTuple):
    """What predictions are worth, position by position."""

    loss: Float[Array, "B L"]  # -log p of the label
    correct: Bool[Array, "B L"]  # the label is the first of the largest logits


def token_cross_entropy(
    hidden: Float[Array, "B L D"],
    kernel: Float[Array, "D V"],
    labels: Int[Array, "B L"],
    *,
    chunk: int = 0,
    smoothing: float = 0.0,
    precision: str = "float32",
) -> Scores:
    """Cross-entropy of `softmax(hidden @ kernel)` at every position, in float32.

    With a chunk, the logits of only `chunk` positions of each sample exist at a time, in the forward and in the
    backward pass, which computes them again: memory is B * chunk * V instead of B * L * V. Positions rather than
    words are cut, because both the batch and the vocabulary may be split over devices. Values and gradients are
    those of the plain form.

    Args:
      labels: ids below V.
      chunk: positions at a time; 0 = all, with logits kept for the backward pass.
      smoothing: share of the target that is spread evenly over the vocabulary.
      precision: of the product (`vfm.ops.dot`), resolved.
    """

    def scores(hidden: Array, labels: Array) -> Scores:
        logits = dot.matmul(hidden, kernel, precision).astype(jnp.float32)
        total = jax.nn.logsumexp(logits, axis=-1)
        right = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        loss = total - right
        if smoothing:
            loss = (1 - smoothing) * loss + smoothing * (total - logits.mean(-1))
        return Scores(loss, logits.argmax(-1) == labels)

    length = labels.shape[1]
    if not chunk or chunk >= length:
        return scores(hidden, labels)
    padding = -length % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    labels = jnp.pad(labels, ((0, 0), (0, padding)))
    chunks = (
        rearrange(hidden, "b (n c) d -> n b c d", c=chunk),
        rearrange(labels, "b (n c) -> n b c", c=chunk),
    )
    found = jax.lax.map(jax.checkpoint(lambda xs: scores(*xs)), chunks)
    return Scores(*(rearrange(x, "n b c -> b (n c)")[:, :length] for x in found))

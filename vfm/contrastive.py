"""Contrastive losses between two sets of embeddings: InfoNCE and the sigmoid loss, exact over the global batch.

Similarities are never held as one B x B matrix: each device compares its own rows with all columns, a chunk of
columns at a time, and computes a chunk again in the backward pass. So memory is O(local rows x chunk) beside the
embeddings themselves, and results do not depend on the chunk or the mesh.

Letters: B pairs of the whole batch, R rows of one device, C columns of one chunk, E embedding size.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from vfm.errors import UserError

BATCH_AXES = ("data", "fsdp")  # mesh axes that a batch is split over
DIRECTIONS = ("mean", "sum")
Metrics = dict[str, Float[Array, ""]]


def unit(x: Float[Array, "... E"], eps: float = 1e-8) -> Float[Array, "... E"]:
    """x / max(|x|, eps) in float32, with a gradient of 0 rather than NaN at 0."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), eps**2))


def infonce(
    text: Float[Array, "B E"],
    video: Float[Array, "B E"],
    scale: float | Float[Array, ""],
    *,
    ids: Int[Array, "B"] | None = None,
    chunk: int = 0,
    directions: str = "mean",
) -> tuple[Float[Array, ""], Metrics]:
    """Cross-entropy of each text among all videos and of each video among all texts (CLIP).

    Args:
      text, video: unit vectors, row i of one belongs to row i of the other.
      scale: logits are scale x cosine, so it is 1 / temperature.
      ids: pairs with equal ids are positives of each other, with equal shares of the target (UMT, InternVideo2);
        None = only a row's own partner.
      chunk: columns compared at once; 0 = all.
      directions: "mean" of the two (CLIP), or "sum" (Frozen in Time, EgoVLP), which doubles loss and gradient.

    Returns:
      The loss, averaged over rows, and metrics (see `_metrics`).
    """
    if directions not in DIRECTIONS:
        raise UserError(f"directions '{directions}': expected {' or '.join(DIRECTIONS)}")
    text, video, ids = _prepare(text, video, ids)
    of_text = _compare("logsumexp", chunk, text * scale, video, ids)
    of_video = _compare("logsumexp", chunk, video * scale, text, ids)
    losses = [(rows.total - rows.positive / rows.count).mean() for rows in (of_text, of_video)]
    loss = sum(losses) / (2 if directions == "mean" else 1)
    return loss, _metrics(of_text, of_video, scale)


def sigmoid(
    text: Float[Array, "B E"],
    video: Float[Array, "B E"],
    scale: float | Float[Array, ""],
    bias: float | Float[Array, ""],
    *,
    ids: Int[Array, "B"] | None = None,
    chunk: int = 0,
) -> tuple[Float[Array, ""], Metrics]:
    """-sum over all pairs of log sigmoid(+-(scale x cosine + bias)), over B (SigLIP, Zhai et al. 2023).

    The sign is + for positives and - for all other pairs; arguments as in `infonce`.
    """
    text, video, ids = _prepare(text, video, ids)
    # The bias is one more feature: it enters each logit once and gets its gradient from the same product.
    ones = jnp.ones_like(text[:, :1])
    rows = jnp.concatenate([text * scale, ones * bias], axis=1)
    of_text = _compare("softplus", chunk, rows, jnp.concatenate([video, ones], axis=1), ids)
    # -log sigmoid(x) = softplus(x) - x for the positives, softplus(x) for the others.
    loss = (of_text.total - of_text.positive).mean()
    of_video = _compare("softplus", chunk, *map(lax.stop_gradient, (video * scale, text)), ids)
    return loss, _metrics(of_text, of_video, scale)


def batch_axes(rows: int) -> tuple[str, ...]:
    """The axes of the mesh (of `jax.set_mesh`) that so many rows are split over; none where they do not divide."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if mesh.shape.get(axis, 1) > 1)
    return () if rows % math.prod(mesh.shape[axis] for axis in axes) else axes


class _Rows(NamedTuple):
    """What each row found among all columns; only `total` and `positive` have gradients."""

    total: Float[Array, "R"]  # logsumexp, or sum of softplus, of all logits
    positive: Float[Array, "R"]  # sum of the positives' logits
    count: Float[Array, "R"]  # of positives
    best_positive: Float[Array, "R"]
    best_negative: Float[Array, "R"]
    lowest: Float[Array, "R"]


def _prepare(text, video, ids):
    if text.shape != video.shape or text.ndim != 2:
        raise UserError(
            f"embeddings of texts {text.shape} and videos {video.shape}: expected one [B, E] for both"
        )
    ids = jnp.arange(len(text), dtype=jnp.int32) if ids is None else ids
    return text.astype(jnp.float32), video.astype(jnp.float32), ids


def _metrics(of_text: _Rows, of_video: _Rows, scale) -> Metrics:
    """Means over rows.

    text_to_video, video_to_text: share of rows whose best positive is ahead of every negative; a tie is a miss,
      so that equal similarities count as 0. 1 for a row without negatives.
    spread: highest minus lowest cosine of a row; near 0 the embeddings have collapsed.
    """

    def right(rows):
        return (rows.best_positive > rows.best_negative).mean(dtype=jnp.float32)

    highest = jnp.maximum(of_text.best_positive, of_text.best_negative)
    spread = (highest - of_text.lowest).mean() / scale
    found = dict(text_to_video=right(of_text), video_to_text=right(of_video), spread=spread)
    return jax.tree.map(lax.stop_gradient, found)


def _compare(kind: str, chunk: int, rows: Array, columns: Array, ids: Array) -> _Rows:
    """`_stream` of all rows, on each device of the mesh (of `jax.set_mesh`) for the rows that lie there."""
    axes = batch_axes(len(rows))
    if not axes:
        return _stream(kind, chunk, (), rows, columns, ids, ids)

    def local(rows, columns, ids):
        everywhere = functools.partial(lax.all_gather, axis_name=axes, tiled=True)
        return _stream(kind, chunk, axes, rows, everywhere(columns), ids, everywhere(ids))

    split = PartitionSpec(axes)
    return jax.shard_map(local, in_specs=split, out_specs=split)(rows, columns, ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _stream(kind, chunk, axes, rows, columns, row_ids, column_ids) -> _Rows:
    """Reduce the logits rows x columns, a chunk of columns at a time.

    Args:
      kind: "logsumexp" or "softplus", which makes `total`.
      axes: mesh axes that the arrays differ over, inside shard_map.
    """

    def step(found, block):
        logits, same, real = _logits(rows, row_ids, block)
        ahead = jnp.where(real, logits, -jnp.inf)
        if kind == "softplus":
            total = found.total + jax.nn.softplus(ahead).sum(1)
        else:
            total = jnp.logaddexp(found.total, jax.nn.logsumexp(ahead, axis=1))
        return _Rows(
            total,
            found.positive + jnp.where(same, logits, 0).sum(1),
            found.count + same.sum(1),
            jnp.maximum(found.best_positive, jnp.where(same, logits, -jnp.inf).max(1)),
            jnp.maximum(found.best_negative, jnp.where(real & ~same, logits, -jnp.inf).max(1)),
            jnp.minimum(found.lowest, jnp.where(real, logits, jnp.inf).min(1)),
        ), None

    start = 0.0 if kind == "softplus" else -jnp.inf
    first = [start, 0.0, 0.0, -jnp.inf, -jnp.inf, jnp.inf]
    first = _Rows(*(_vary(jnp.full(len(rows), value, jnp.float32), axes) for value in first))
    return lax.scan(step, first, _blocks(columns, column_ids, chunk))[0]


def _stream_forward(kind, chunk, axes, rows, columns, row_ids, column_ids):
    found = _stream(kind, chunk, axes, rows, columns, row_ids, column_ids)
    return found, (rows, columns, row_ids, column_ids, found.total)


def _stream_backward(kind, chunk, axes, kept, cotangent: _Rows):
    rows, columns, row_ids, column_ids, total = kept

    def step(d_rows, block):
        logits, same, real = _logits(rows, row_ids, block)
        weight = jax.nn.sigmoid(logits) if kind == "softplus" else jnp.exp(logits - total[:, None])
        d_logits = cotangent.total[:, None] * jnp.where(real, weight, 0)
        d_logits += jnp.where(same, cotangent.positive[:, None], 0)
        d_columns = jnp.matmul(d_logits.T, rows, precision=lax.Precision.HIGHEST)
        return d_rows + jnp.matmul(d_logits, block[0], precision=lax.Precision.HIGHEST), d_columns

    zeros = _vary(jnp.zeros(rows.shape, jnp.float32), axes)
    d_rows, d_columns = lax.scan(step, zeros, _blocks(columns, column_ids, chunk))
    return d_rows, d_columns.reshape(-1, columns.shape[1])[: len(columns)], None, None


_stream.defvjp(_stream_forward, _stream_backward)


def _logits(rows, row_ids, block):
    """(logits, positives, columns that are not padding) of a block, each [R, C] or broadcast to it."""
    columns, ids, real = block
    logits = jnp.matmul(rows, columns.T, precision=lax.Precision.HIGHEST)
    return logits, (row_ids[:, None] == ids) & real, real


def _blocks(columns, ids, chunk):
    """Columns, ids and "is no padding" in chunks: [n, C, E], [n, C], [n, C]."""
    chunk = min(chunk or len(columns), len(columns))
    padding = -len(columns) % chunk
    real = jnp.arange(len(columns) + padding) < len(columns)
    columns, ids = jnp.pad(columns, ((0, padding), (0, 0))), jnp.pad(ids, (0, padding))
    return columns.reshape(-1, chunk, columns.shape[1]), ids.reshape(-1, chunk), real.reshape(-1, chunk)


def _vary(x, axes):
    """A constant as a value that may differ over `axes`, as loops inside shard_map want it."""
    return lax.pcast(x, axes, to="varying") if axes else x

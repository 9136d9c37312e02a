"""Towers applied to the rows of a batch: in chunks that the backward pass computes again, with dropout by sample.

B rows, A chunks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from vfm.contrastive import batch_axes
from vfm.errors import UserError


def in_chunks(function: Callable[[Any], Any], chunks: int, rows: Any) -> Any:
    """`function(rows)`, with only one of `chunks` equal parts of the rows in memory, forward and backward.

    The backward pass computes each part again, so that what a loss over all results needs is the results alone
    (GradCache, Gao et al. 2021, as recomputation inside one gradient). The function must treat rows apart.

    Args:
      function: from a tree of arrays [B / chunks, ...] to another such tree.
      rows: tree of arrays [B, ...].

    Raises:
      UserError: the chunks do not divide the rows.
    """
    if chunks == 1:
        return function(rows)
    count = len(jax.tree.leaves(rows)[0])
    if count % chunks:
        raise UserError(
            f"config.objective.chunks={chunks} does not divide the {count} rows of a (micro-)batch"
        )
    # Every chunks-th row makes a part, so that each device gives rows to each part without moving any.
    parts = jax.tree.map(lambda x: _split(rearrange(x, "(b a) ... -> a b ...", a=chunks)), rows)
    parts = lax.map(jax.checkpoint(function, prevent_cse=False), parts)
    return jax.tree.map(lambda x: rearrange(x, "a b ... -> (b a) ..."), parts)


def apply(
    module: Any,
    params: Any,
    *inputs: Any,
    keys: PRNGKeyArray | None = None,
    method: str | None = None,
    layers: bool = False,
) -> Any:
    """Results of a module for rows of inputs; in training mode where there is a key for each row.

    Where the module drops anything, each row is dropped by its own key, whatever rows stand beside it.

    Args:
      layers: (results, outputs of all layers [B,L,N,D]) instead.
    """
    train = keys is not None

    def call(*inputs: Any, **options: Any) -> Any:
        options |= dict(train=train, method=method)
        if not layers:
            return module.apply({"params": params}, *inputs, **options)
        result, seen = module.apply({"params": params}, *inputs, **options, mutable=["intermediates"])
        return result, jnp.moveaxis(seen["intermediates"]["blocks"]["output"][0], 0, 1)

    if not train or not any(getattr(module, rate, 0.0) > 0 for rate in ("drop_path", "dropout")):
        return call(*inputs)

    def one(key: PRNGKeyArray, *row: Any) -> Any:
        result = call(*jax.tree.map(lambda x: x[None], row), rngs={"dropout": key})
        return jax.tree.map(lambda y: y[0], result)

    return jax.vmap(one)(keys, *inputs)


def _split(parts: Array) -> Array:
    """Keep the rows of each part spread over the mesh (of `jax.set_mesh`), where it divides them."""
    axes = batch_axes(parts.shape[1])
    return lax.with_sharding_constraint(parts, PartitionSpec(None, axes)) if axes else parts

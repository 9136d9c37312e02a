"""Masks: which tokens an encoder sees and which it has to predict.

A mask is a part: called with its keywords it gives `draw(rng, grid) -> (keep [K], masked [M])` for one clip,
sorted int32 token ids in raster order (t slowest, w fastest). Counts depend on the grid alone, so shapes are
static; whoever draws for a batch gives each sample a key of its own (`draw_batch`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from vfm.errors import UserError

Grid = tuple[int, int, int]
Mask = Callable[[PRNGKeyArray, Grid], tuple[Int[Array, "K"], Int[Array, "M"]]]


def _check_ratio(ratio: float, kept: int, total: int, where: str) -> None:
    if not 0 < kept < total:
        raise UserError(
            f"mask.ratio={ratio} keeps {kept} of {total} tokens {where}; choose a ratio that keeps and hides some"
        )


def _split(rng: PRNGKeyArray, total: int, kept: int) -> tuple[Array, Array]:
    """A uniformly random set of `kept` ids of `total`, and its complement, both sorted."""
    order = jnp.argsort(jax.random.uniform(rng, (total,)))
    return jnp.sort(order[:kept]).astype(jnp.int32), jnp.sort(order[kept:]).astype(jnp.int32)


def tube(ratio: float = 0.9) -> Mask:
    """The same spatial cells in every time slot; int(ratio H W) of them are hidden (VideoMAE)."""

    def draw(rng, grid):
        slots, height, width = grid
        cells = height * width
        kept = cells - int(ratio * cells)
        _check_ratio(ratio, kept, cells, "of a time slot")
        starts = cells * jnp.arange(slots, dtype=jnp.int32)[:, None]
        keep, masked = _split(rng, cells, kept)
        return (starts + keep).reshape(-1), (starts + masked).reshape(-1)

    return draw


def random(ratio: float = 0.9) -> Mask:
    """Any cells of space-time; int(N (1 - ratio)) stay visible (MAE-ST)."""

    def draw(rng, grid):
        total = grid[0] * grid[1] * grid[2]
        kept = int(total * (1 - ratio))
        _check_ratio(ratio, kept, total, "of the clip")
        return _split(rng, total, kept)

    return draw


def sample_keys(rng: PRNGKeyArray, batch: dict[str, Array]) -> PRNGKeyArray:
    """One key for each sample, a function of `rng` and the sample alone, so that it does not depend on the mesh.

    `batch["id"]` tells the sample, `batch["clip"]`, where present, the clip of one that is drawn repeatedly.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["id"])
    return jax.vmap(jax.random.fold_in)(keys, batch["clip"]) if "clip" in batch else keys


def draw_batch(
    mask: Mask, rng: PRNGKeyArray, batch: dict[str, Array], grid: Grid
) -> tuple[Int[Array, "B K"], Int[Array, "B M"]]:
    """Draw `mask` for every sample of the batch."""
    return jax.vmap(lambda key: mask(key, grid))(sample_keys(rng, batch))

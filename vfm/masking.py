"""Masks: which tokens an encoder sees and which it has to predict.

A mask is a part: called with its keywords it gives `draw(rng, grid) -> Drawn` for one clip. Counts depend on the
grid alone, so shapes are static; for a batch, `draw_batch` gives each sample a key of its own.
K kept tokens, M tokens that are predicted.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vfm.errors import UserError

Grid = tuple[int, int, int]


class Drawn(NamedTuple):
    """Token ids in raster order (t slowest, w fastest), sorted."""

    keep: Int[Array, "*B K"]  # what the encoder sees
    predict: Int[Array, "*B M"]  # what is decoded
    weight: Float[Array, "*B M"]  # of each decoded token in the loss: 1, or 0 where the encoder saw it


Mask = Callable[[PRNGKeyArray, Grid], Drawn]


def _check_ratio(ratio: float, kept: int, total: int, where: str) -> None:
    if not 0 < kept < total:
        raise UserError(
            f"mask.ratio={ratio} keeps {kept} of {total} tokens {where}; choose a ratio that keeps and hides some"
        )


def _split(rng: PRNGKeyArray, total: int, kept: int) -> tuple[Array, Array]:
    """A uniformly random set of `kept` ids of `total`, and its complement, both sorted."""
    order = jnp.argsort(jax.random.uniform(rng, (total,)))
    return jnp.sort(order[:kept]).astype(jnp.int32), jnp.sort(order[kept:]).astype(jnp.int32)


def _all_hidden(keep: Array, hidden: Array) -> Drawn:
    """Every hidden token is predicted and counts."""
    return Drawn(keep, hidden, jnp.ones(hidden.shape))


def tube(ratio: float = 0.9) -> Mask:
    """The same spatial cells in every time slot; int(ratio H W) of them are hidden (VideoMAE)."""

    def draw(rng, grid):
        slots, height, width = grid
        cells = height * width
        kept = cells - int(ratio * cells)
        _check_ratio(ratio, kept, cells, "of a time slot")
        starts = cells * jnp.arange(slots, dtype=jnp.int32)[:, None]
        keep, hidden = _split(rng, cells, kept)
        return _all_hidden((starts + keep).reshape(-1), (starts + hidden).reshape(-1))

    return draw


def random(ratio: float = 0.9) -> Mask:
    """Any cells of space-time; int(N (1 - ratio)) stay visible (MAE-ST)."""

    def draw(rng, grid):
        total = grid[0] * grid[1] * grid[2]
        kept = int(total * (1 - ratio))
        _check_ratio(ratio, kept, total, "of the clip")
        return _all_hidden(*_split(rng, total, kept))

    return draw


def running_cell(ratio: float = 0.9, skip_ratio: float = 0.5) -> Mask:
    """Tube mask for the encoder, half of the tokens for the decoder (VideoMAE V2's dual masking).

    A 2 x 2 cell of which int(4 skip_ratio) places are not decoded moves on by one place in every time slot, from
    one of four phases; decoded tokens that the encoder saw have weight 0.
    """

    def decoded(grid: Grid, phase: int) -> np.ndarray:
        slots, height, width = grid
        queue = np.arange(4) < int(4 * skip_ratio)  # True = not decoded
        cells = [queue[(np.arange(4) + phase + slot + 1) % 4].reshape(2, 2) for slot in range(slots)]
        return np.flatnonzero(~np.stack([np.tile(cell, (height // 2, width // 2)) for cell in cells]))

    def draw(rng, grid):
        if grid[1] % 2 or grid[2] % 2:
            raise UserError(f"mask 'running_cell' needs an even grid of tokens, found {grid[1]} x {grid[2]}")
        tube_rng, phase_rng = jax.random.split(rng)
        keep = tube(ratio)(tube_rng, grid).keep
        phases = jnp.asarray(np.stack([decoded(grid, phase) for phase in range(4)]), jnp.int32)
        predict = phases[jax.random.randint(phase_rng, (), 0, 4)]
        seen = jnp.zeros(grid[0] * grid[1] * grid[2]).at[keep].set(1.0)
        return Drawn(keep, predict, 1.0 - seen[predict])

    return draw


class teacher_attention:  # noqa: N801 - parts are named as configs write them
    """Tokens drawn without replacement by how much a frozen teacher attends to them (Unmasked Teacher).

    teacher: its name in `config.teachers`.
    per: "frame" = equally many of each frame, n - int(ratio n) of its n tokens; "clip" = of the whole clip.
    """

    def __init__(self, teacher: str = "clip", ratio: float = 0.8, per: str = "frame"):
        if per not in ("frame", "clip"):
            raise UserError(f"mask.per='{per}': expected 'frame' or 'clip'")
        self.teacher, self.ratio, self.per = teacher, ratio, per

    def __call__(self, rng: PRNGKeyArray, grid: Grid, importance: Float[Array, "N"]) -> Drawn:
        groups = grid[0] if self.per == "frame" else 1
        cells = grid[0] * grid[1] * grid[2] // groups
        kept = cells - int(self.ratio * cells)
        _check_ratio(self.ratio, kept, cells, f"of a {self.per}")
        # The largest of log weight + Gumbel noise are a draw without replacement.
        weight = jnp.maximum(importance.astype(jnp.float32), jnp.finfo(jnp.float32).tiny)
        keys = (jnp.log(weight) + jax.random.gumbel(rng, weight.shape)).reshape(groups, cells)
        order = jnp.argsort(-keys, axis=1).astype(jnp.int32)
        starts = cells * jnp.arange(groups, dtype=jnp.int32)[:, None]
        keep, hidden = (
            (starts + jnp.sort(part, axis=1)).reshape(-1) for part in (order[:, :kept], order[:, kept:])
        )
        return _all_hidden(keep, hidden)


def sample_keys(rng: PRNGKeyArray, batch: dict[str, Array]) -> PRNGKeyArray:
    """One key for each sample, a function of `rng` and the sample alone, so that it does not depend on the mesh.

    `batch["id"]` tells the sample, `batch["clip"]`, where present, the clip of one that is drawn repeatedly.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["id"])
    return jax.vmap(jax.random.fold_in)(keys, batch["clip"]) if "clip" in batch else keys


def draw_batch(
    mask: Mask,
    rng: PRNGKeyArray,
    batch: dict[str, Array],
    grid: Grid,
    importance: Float[Array, "B N"] | None = None,
) -> Drawn:
    """Draw `mask` for every sample of the batch; fields get a leading batch axis.

    importance: weights of tokens, for masks that follow them.
    """
    keys = sample_keys(rng, batch)
    if importance is None:
        return jax.vmap(lambda key: mask(key, grid))(keys)
    return jax.vmap(lambda key, weights: mask(key, grid, weights))(keys, importance)

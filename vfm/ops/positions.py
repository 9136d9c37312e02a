"""Position tables: fixed sinusoids, and the resampling of any table to another grid.

Fixed tables are numpy arrays, computed in float64 and rounded once to float32.

Letters: T H W grid of tokens (time, height, width), N = T*H*W tokens in raster order, D width.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vfm.errors import UserError
from vfm.ops.patches import Grid
from vfm.ops.resize import resize


def sincos1d(length: int, width: int) -> Float[np.ndarray, "N D"]:
    """Sinusoid over the flat token index, sine and cosine interleaved (VideoMAE).

    Channel j is sin (j even) or cos (j odd) of `index / 10000 ** (2 * (j // 2) / D)`.
    """
    channels = np.arange(width)
    angles = np.arange(length)[:, None] / 10000.0 ** (2 * (channels // 2) / width)
    return np.where(channels % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def sincos3d(grid: Grid, width: int) -> Float[np.ndarray, "N D"]:
    """Sinusoids of time, height and width side by side (V-JEPA with uniform power).

    Each axis takes `2 * ceil(D / 6)` channels, the first half sines and the second half cosines of
    `coordinate / 10000 ** (i / half)`; they are concatenated in the order time, height, width and cut to D.
    """
    half = -(-width // 6)
    frequencies = 10000.0 ** (-np.arange(half) / half)
    axes = []
    for coordinate in np.meshgrid(*(np.arange(n) for n in grid), indexing="ij"):
        angles = coordinate.reshape(-1, 1) * frequencies
        axes += [np.sin(angles), np.cos(angles)]
    return np.concatenate(axes, axis=1)[:, :width].astype(np.float32)


def sincos_quarter(grid: Grid, width: int) -> Float[np.ndarray, "N D"]:
    """Sinusoids of which time takes a quarter of the channels, width and height (in this order) half of the rest each.

    Within an axis: sines, then cosines, of `coordinate / 10000 ** (i / half)` (InternVideo2's start of its learned
    table). Where D is no multiple of 16 the last channels stay zero.
    """
    time, height, breadth = np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")
    quarter, rest = width // 8, 3 * width // 16
    parts = []
    for coordinate, half in ((time, quarter), (breadth, rest), (height, rest)):
        angles = coordinate.reshape(-1, 1) / 10000.0 ** (np.arange(half) / max(half, 1))
        parts += [np.sin(angles), np.cos(angles)]
    table = np.concatenate(parts, axis=1)
    return np.pad(table, ((0, 0), (0, width - table.shape[1]))).astype(np.float32)


def interpolate(table: Float[Array, "N D"], native: Grid, grid: Grid) -> Float[Array, "M D"]:
    """A table of the native grid resampled to another: bicubic over space, then linear over time, as torch."""
    if native == grid:
        return table
    dtype = table.dtype
    # A fixed table stays numpy, in float64 until its last rounding.
    table = table.astype(np.float64) if isinstance(table, np.ndarray) else table.astype(jnp.float32)
    table = table.reshape(*native, table.shape[-1])
    table = resize(table, {1: grid[1], 2: grid[2]}, "cubic")
    table = resize(table, {0: grid[0]}, "linear")
    return table.reshape(-1, table.shape[-1]).astype(dtype)


def adapt(table: Float[Array, "N D"], native: Grid, grid: Grid) -> Float[Array, "M D"]:
    """A stored table for a model of another grid: rows in front of the grid's (a class token) stay as they are.

    `space_pos` has grids (1, H, W), `time_pos` grids (T, 1, 1), `pos` whole ones; numpy in, numpy out.

    Raises:
      UserError: the table has fewer rows than its native grid.
    """
    rows = len(table) - int(np.prod(native))
    if rows < 0:
        raise UserError(f"a position table of {len(table)} rows cannot belong to a grid of {native} tokens")
    xp = np if isinstance(table, np.ndarray) else jnp
    return xp.concatenate([table[:rows], interpolate(table[rows:], native, grid)])

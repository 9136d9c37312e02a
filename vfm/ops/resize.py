"""Resizing along axes as torch's `interpolate` does it, written as small dense matrices.

A matrix is built with numpy in float64 while tracing, so a resize is exact, cheap and differentiable, and a
resize to the same size is free. Conventions: align_corners=False (pixel centres at half-integers), no
antialias, indices outside clamped to the border. Cubic uses a = -0.75 (`jax.image.resize`: -0.5 and antialiased).

Letters: S source length, R result length.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vfm.errors import UserError

METHODS = ("nearest", "linear", "cubic")


def matrix(source: int, result: int, method: str = "linear") -> Float[np.ndarray, "R S"]:
    """The float64 matrix that resamples an axis of `source` samples to `result` samples.

    Args:
      method: nearest | linear | cubic (bilinear and trilinear are linear along two or three axes, and so on).
    """
    if method not in METHODS:
        raise UserError(f"resize method '{method}': expected one of {', '.join(METHODS)}")
    weights = np.zeros((result, source))
    for row in range(result):
        if method == "nearest":
            weights[row, min(math.floor(row * source / result), source - 1)] = 1.0
            continue
        at = (row + 0.5) * source / result - 0.5
        if method == "linear":
            at = max(at, 0.0)  # torch clamps before it takes the fraction
        first = math.floor(at)
        taps = _linear_taps(at - first) if method == "linear" else _cubic_taps(at - first)
        for offset, weight in taps:
            weights[row, min(max(first + offset, 0), source - 1)] += weight
    return weights


def _linear_taps(fraction: float) -> list[tuple[int, float]]:
    return [(0, 1.0 - fraction), (1, fraction)]


def _cubic_taps(fraction: float, a: float = -0.75) -> list[tuple[int, float]]:
    """Keys' cubic convolution kernel at the four samples around a point."""

    def near(x: float) -> float:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: float) -> float:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [(-1, far(fraction + 1)), (0, near(fraction)), (1, near(1 - fraction)), (2, far(2 - fraction))]


def resize(x: Float[Array, "..."], sizes: dict[int, int], method: str = "linear") -> Float[Array, "..."]:
    """Resample axes of `x`; `sizes` maps an axis to its new length. numpy in, numpy out."""
    xp = np if isinstance(x, np.ndarray) else jnp
    for axis, size in sizes.items():
        if x.shape[axis] != size:
            weights = matrix(x.shape[axis], size, method).astype(x.dtype)
            x = xp.moveaxis(xp.tensordot(x, xp.asarray(weights), axes=((axis,), (1,))), -1, axis)
    return x


def linear_rows(places: Int[Array, "..."], sizes: Int[Array, "..."], source: int) -> Float[Array, "... S"]:
    """Rows of antialiased linear resampling matrices whose result lengths are known at run time only.

    Where the result is shorter than the source, a triangle as wide as the ratio averages (torch with antialias=True).

    Args:
      places: which sample of the result each row is for.
      sizes: lengths of the results; places from there on are not meaningful.
    """
    ratio = (source / sizes).astype(jnp.float32)[..., None]
    centres = (places[..., None] + 0.5) * ratio
    distance = jnp.abs(jnp.arange(source) + 0.5 - centres) / jnp.maximum(ratio, 1.0)
    weights = jnp.maximum(1.0 - distance, 0.0)
    return weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)

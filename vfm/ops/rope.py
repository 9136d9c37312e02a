"""Rotary positions: queries and keys turned by angles that grow with their position.

The two halves of a head are the two coordinates of each pair ("rotate half", as LLaMA is published), so channel i
turns with channel i + d/2. Letters: B batch, N tokens, H heads, d size of a head.

Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding" (arXiv 2104.09864).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def angles(
    positions: Int[Array, "B N"], size: int, theta: float = 10_000.0
) -> tuple[Float[Array, "B N d/2"], Float[Array, "B N d/2"]]:
    """Cosines and sines of `position * theta ** (-2 i / size)` in float32; `size` is the head's, and even."""
    frequencies = np.float64(theta) ** (-np.arange(0, size, 2) / size)
    turned = positions[..., None].astype(jnp.float32) * frequencies.astype(np.float32)
    return jnp.cos(turned), jnp.sin(turned)


def rotate(
    x: Float[Array, "B N H d"], cos: Float[Array, "B N d/2"], sin: Float[Array, "B N d/2"]
) -> Float[Array, "B N H d"]:
    """Turn each pair (i, i + d/2) of every head; computed in float32, returned in x's dtype."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)

"""Losses: how a prediction is compared with its target.

A loss is a part: called with its keywords it gives `(prediction, target) -> loss of each token [B, M]`,
both [B, M, P] and compared in float32.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

Loss = Callable[[Float[Array, "B M P"], Float[Array, "B M P"]], Float[Array, "B M"]]


def mse() -> Loss:
    """Squared error, averaged over a token's values."""
    return lambda prediction, target: jnp.square(prediction - target).mean(-1)


def l1() -> Loss:
    """Absolute error, averaged over a token's values."""
    return lambda prediction, target: jnp.abs(prediction - target).mean(-1)


def smooth_l1(beta: float = 1.0) -> Loss:
    """Quadratic below an error of `beta`, linear above (torch's SmoothL1Loss), averaged over a token's values."""

    def loss(prediction, target):
        error = jnp.abs(prediction - target)
        return jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta).mean(-1)

    return loss


def cosine(eps: float = 1e-6) -> Loss:
    """2 - 2 cos of the angle between prediction and target (squared distance of the unit vectors)."""

    def unit(x):
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), eps)

    return lambda prediction, target: 2 - 2 * (unit(prediction) * unit(target)).sum(-1)

"""Initial values of a Mamba mixer.

`videomamba`: as VideoMamba's code executes it, in which a later pass over all linear layers overwrites the step
sizes' own initialisation, so that every step starts at softplus(0) = 0.69. (Its truncated normals are cut at 2,
which is 100 deviations: they are normals.)
`mamba`: step sizes as Mamba means them, log-uniform between 1e-3 and 1e-1, so that states remember for longer.

Letters: P scan directions, E channels, S states.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

INITS = ("videomamba", "mamba")
SHORTEST, LONGEST, FLOOR = 1e-3, 1e-1, 1e-4  # step sizes


def uniform(bound: float) -> nn.initializers.Initializer:
    """Uniform between -bound and bound."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def decay_rates(key, shape: tuple[int, int, int], dtype=jnp.float32):
    """The logarithm of 1, 2, ..., S for every channel (S4D-real)."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=dtype)), shape)


def out_projection(layers: int) -> nn.initializers.Initializer:
    """Uniform within 1/sqrt(inputs), divided by sqrt(layers) so that the residual stream does not grow."""
    return lambda key, shape, dtype=jnp.float32: uniform((shape[0] * layers) ** -0.5)(key, shape, dtype)


def step_initializers(
    init: str, rank: int
) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    """Initializers of the step sizes' kernel and bias."""
    if init == "videomamba":
        return nn.initializers.normal(0.02), nn.initializers.zeros
    return uniform(rank**-0.5), _step_bias


def _step_bias(key, shape, dtype=jnp.float32):
    """The inverse softplus of log-uniform step sizes."""
    step = jnp.exp(jax.random.uniform(key, shape, dtype, math.log(SHORTEST), math.log(LONGEST)))
    step = jnp.maximum(step, FLOOR)
    return step + jnp.log(-jnp.expm1(-step))

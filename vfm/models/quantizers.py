"""Quantizers: from vectors to discrete codes, with gradients that go straight through.

Letters: ... any leading axes, d channels of a code, K codes.

Sources: van den Oord et al. 2017, "Neural Discrete Representation Learning" (VQ-VAE, arXiv 1711.00937), with its
moving averages; Yan et al. 2021, "VideoGPT" (arXiv 2104.10157), for re-seeding; Mentzer et al. 2023, "Finite Scalar
Quantization: VQ-VAE Made Simple" (FSQ, arXiv 2309.15505).
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vfm.errors import UserError

EPS = 1e-5  # of the smoothed counts


class Quantized(NamedTuple):
    """What became of vectors."""

    values: Float[Array, "... d"]  # of their codes; their gradient is that of the vectors
    codes: Int[Array, "..."]
    loss: Float[Array, ""]  # that keeps vectors and codes together


class Averages(NamedTuple):
    """Moving averages that a codebook follows from."""

    counts: Float[Array, "K"]  # vectors of each code in a batch
    sums: Float[Array, "K d"]  # of those vectors
    batches: Int[Array, ""]  # so far


def vq(codes: int = 1024, dim: int = 32, commitment: float = 0.25, decay: float = 0.99) -> "VQ":
    """A learned codebook of `codes` vectors of `dim` channels.

    Args:
      commitment: weight of the vectors' distance to their codes.
      decay: of the moving averages that the codebook is made of (`averaged`); 0 = it is learned by gradient.
    """
    if codes < 2 or dim < 1 or not 0 <= decay < 1:
        raise UserError(
            f"vq: codes {codes}, dim {dim}, decay {decay}: expected at least 2 codes of at least 1 channel, and a "
            "decay from 0 to below 1"
        )
    return VQ(codes, dim, commitment, decay)


class VQ(nn.Module):
    """The nearest of K learned vectors; distances in float32. Parameters: "codebook" [K,d]."""

    codes: int
    dim: int
    commitment: float
    decay: float

    def setup(self) -> None:
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), (self.codes, self.dim))

    def __call__(self, z: Float[Array, "... d"]) -> Quantized:
        """Quantize vectors; the codebook has a gradient only where no averages make it."""
        z = z.astype(jnp.float32)
        codes = nearest(lax.stop_gradient(z), lax.stop_gradient(self.codebook))
        values = jnp.take(self.codebook, codes, axis=0)
        loss = self.commitment * jnp.square(z - lax.stop_gradient(values)).mean()
        if not self.decay:
            loss += jnp.square(lax.stop_gradient(z) - values).mean()
        return Quantized(z + lax.stop_gradient(values - z), codes, loss)

    def lookup(self, codes: Int[Array, "..."]) -> Float[Array, "... d"]:
        """The vectors of codes."""
        return jnp.take(self.codebook, codes, axis=0)


def nearest(z: Float[Array, "... d"], codebook: Float[Array, "K d"]) -> Int[Array, "..."]:
    """The code whose vector is nearest to each of `z`, the first of equals."""
    product = jnp.einsum("...d,kd->...k", z, codebook, precision=lax.Precision.HIGHEST)
    return (jnp.square(codebook).sum(-1) - 2 * product).argmin(-1).astype(jnp.int32)


def averages_of(codebook: Float[Array, "K d"]) -> Averages:
    """Averages that have seen no batch."""
    return Averages(jnp.ones(len(codebook)), codebook, jnp.zeros((), jnp.int32))


def averaged(
    old: Averages, z: Float[Array, "... d"], codes: Int[Array, "..."], rng: PRNGKeyArray, decay: float,
    restart: float,
) -> Averages:  # fmt: skip
    """Averages after one more batch: `decay * old + (1 - decay) * new` of counts and of sums.

    Args:
      rng: which of the batch's vectors codes are seeded with: all codes from the first batch, later those that are
        hardly used.
      restart: a code whose average count falls below this is seeded anew; 0 = never.
    """
    z = lax.stop_gradient(rearrange(z.astype(jnp.float32), "... d -> (...) d"))
    count = len(old.counts)
    chosen = jax.nn.one_hot(codes.reshape(-1), count, dtype=jnp.float32)
    sums = jnp.einsum("nk,nd->kd", chosen, z, precision=lax.Precision.HIGHEST)
    counts = decay * old.counts + (1 - decay) * chosen.sum(0)
    sums = decay * old.sums + (1 - decay) * sums
    seeds = z[jax.random.randint(rng, (count,), 0, len(z))]
    fresh = (old.batches == 0) | (counts < restart)
    weight = max(restart, 1.0)
    counts = jnp.where(fresh, weight, counts)
    sums = jnp.where(fresh[:, None], seeds * weight, sums)
    return Averages(counts, sums, old.batches + 1)


def codebook_of(averages: Averages) -> Float[Array, "K d"]:
    """The vectors that averages stand for: sums over counts, which are smoothed so that none is 0 (VQ-VAE)."""
    total = averages.counts.sum()
    counts = (averages.counts + EPS) / (total + len(averages.counts) * EPS) * total
    return averages.sums / counts[:, None]


def fsq(levels: tuple[int, ...] = (8, 5, 5, 5)) -> "FSQ":
    """Channels rounded to a few levels each; their product is the number of codes. No parameters, no loss."""
    if not levels or min(levels) < 2:
        raise UserError(f"fsq: levels {tuple(levels)}: expected numbers of at least 2, such as (8, 5, 5, 5)")
    return FSQ(tuple(levels))


class FSQ(nn.Module):
    """Each channel is squashed to its number of levels and rounded; values lie in [-1, 1].

    A code counts in mixed radix, the first channel fastest.
    """

    levels: tuple[int, ...]

    @property
    def codes(self) -> int:
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        return len(self.levels)

    @property
    def decay(self) -> float:
        """There is no codebook to be averaged."""
        return 0.0

    def __call__(self, z: Float[Array, "... d"]) -> Quantized:
        """Quantize vectors."""
        levels = np.array(self.levels)
        # A little more than the outermost level, so that it is reached; an even number has no level at 0.
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        bounded = jnp.tanh(z.astype(jnp.float32) + np.arctanh(offset / half)) * half - offset
        rounded = bounded + lax.stop_gradient(jnp.round(bounded) - bounded)
        places = lax.stop_gradient(jnp.round(bounded)).astype(jnp.int32) + levels // 2
        return Quantized(rounded / (levels // 2), (places * self._basis()).sum(-1), jnp.zeros(()))

    def lookup(self, codes: Int[Array, "..."]) -> Float[Array, "... d"]:
        """The vectors of codes."""
        levels = np.array(self.levels)
        places = codes[..., None] // self._basis() % levels
        return (places - levels // 2) / (levels // 2).astype(np.float32)

    def _basis(self) -> Int[np.ndarray, "d"]:
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)

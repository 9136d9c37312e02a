"""The decoder of feature alignment: projects an encoder's layers to a teacher's space, token by token.

Letters: K layers, B batch, N tokens (class token first, where there is one), D width, O the teacher's width.

Source: VideoMamba's masked pretraining (Li et al. 2024), after Unmasked Teacher (Li et al. 2023, arXiv 2303.16058).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vfm.models.layers import Dense, Norm
from vfm.ops.positions import sincos1d


class AlignmentDecoder(nn.Module):
    """`(layers [K,B,N,D], ids [B,N]) -> [K,B,N,O]`: fixed positions, then linear, LayerNorm and unit length.

    Each layer has a projection of its own; parameters are stacked on a leading axis K.

    length: rows of the sinusoid table (all tokens of the whole video).
    unit: scale results to unit length.
    """

    features: int
    length: int
    unit: bool = True
    norm_eps: float = 1e-5
    precision: str = "float32"

    @nn.compact
    def __call__(self, layers: Float[Array, "K B N D"], ids: Int[Array, "B N"]) -> Float[Array, "K B N O"]:
        table = jnp.asarray(sincos1d(self.length, layers.shape[-1]), layers.dtype)
        every_layer = nn.vmap(Projection, variable_axes={"params": 0}, split_rngs={"params": True})
        y = every_layer(self.features, self.norm_eps, self.precision, name="projection")(
            layers + jnp.take(table, ids, axis=0)
        )
        return y * jax.lax.rsqrt(jnp.square(y).sum(-1, keepdims=True)) if self.unit else y


class Projection(nn.Module):
    """Linear, then LayerNorm."""

    features: int
    norm_eps: float
    precision: str

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N O"]:
        y = Dense(self.features, precision=self.precision, name="head")(x)
        return Norm("layernorm", self.norm_eps, name="norm")(y)

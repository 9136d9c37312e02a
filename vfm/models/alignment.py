"""Predictors of feature alignment: an encoder's layers projected to a teacher's space, token by token.

Letters: K layers, B batch, N tokens (class token first, where there is one), D width, O the teacher's width.

Sources: Unmasked Teacher (Li et al. 2023, arXiv 2303.16058), VideoMamba's masked pretraining (Li et al. 2024) and
InternVideo2's first stage (Wang et al. 2024, arXiv 2403.15377).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vfm.errors import UserError
from vfm.models.layers import ACTIVATIONS, Dense, Norm, require
from vfm.models.vit import learned_positions
from vfm.ops import dot
from vfm.ops.patches import Grid
from vfm.ops.positions import interpolate, sincos1d

HEADS = ("linear", "mlp")
TABLES = ("sincos1d", "learned", "learned_from_sincos", "learned_separable", "none")


def last_layers(depth: int, count: int, interval: float = 1.0) -> tuple[int, ...]:
    """Indices of `count` layers, ascending up to the last: depth - 1 - int(i * interval).

    Raises:
      UserError: there are not so many layers.
    """
    ids = tuple(sorted(depth - 1 - int(i * interval) for i in range(count)))
    if not ids or ids[0] < 0 or len(set(ids)) < count:
        raise UserError(
            f"layers={count} at interval={interval} are layers {list(ids)} of a network of {depth}; choose fewer, or "
            "another interval"
        )
    return ids


def align(
    out_dim: int,
    native: Grid,
    cls: bool = False,
    positions: str = "sincos1d",
    head: str = "linear",
    images: str = "interpolate",
    norm_eps: float = 1e-5,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "AlignmentDecoder":
    """A predictor for `distill`: positions, then a projection for each layer.

    Args:
      out_dim, native: the teacher's width and the encoder's native grid (the objective knows them).
      cls: the class token is aligned as well.
      positions: sincos1d (Unmasked Teacher) | learned, learned_from_sincos (InternVideo2) | learned_separable | none.
      head: linear | mlp (two layers with a GELU between them), each with a LayerNorm behind it.
      images: codes of one-frame clips under learned positions: interpolate | mean | own.
    """
    del remat, unroll  # one layer: nothing to recompute or to unroll
    require("head", head, HEADS)
    require("positions", positions, TABLES)
    return AlignmentDecoder(
        features=out_dim,
        native=native,
        rows=int(cls),
        positions=positions,
        head=head,
        images=images,
        unit=False,
        norm_eps=norm_eps,
        precision=dot.resolve_precision(precision),
    )


class AlignmentDecoder(nn.Module):
    """`(layers [K,B,N,D], ids [B,N]) -> [K,B,N,O]`: positions, then a projection with LayerNorm, and unit length.

    Each layer has a projection of its own; parameters are stacked on a leading axis K.

    native: the grid that the position table is for.
    rows: rows of the table in front of the grid's; 1 = the first token is a class token, with id 0, and the id of
      a token of the grid is 1 more than its place.
    unit: scale results to unit length.
    """

    features: int
    native: Grid
    rows: int = 0
    positions: str = "sincos1d"
    head: str = "linear"
    images: str = "interpolate"
    unit: bool = True
    norm_eps: float = 1e-5
    precision: str = "float32"

    @nn.compact
    def __call__(
        self, layers: Float[Array, "K B N D"], ids: Int[Array, "B N"], grid: Grid | None = None
    ) -> Float[Array, "K B N O"]:
        """Project layers; `grid` is that of the clip, None = the native one."""
        if self.positions != "none":
            table = self._table(grid or self.native, layers.shape[-1])
            layers = layers + jnp.take(jnp.asarray(table, layers.dtype), ids, axis=0)
        every_layer = nn.vmap(Projection, variable_axes={"params": 0}, split_rngs={"params": True})
        y = every_layer(self.features, self.norm_eps, self.precision, self.head, name="projection")(layers)
        return unit(y) if self.unit else y

    def _table(self, grid: Grid, width: int) -> Float[Array, "N D"]:
        if self.positions == "sincos1d":
            # One table over all rows: VideoMamba's class token is number 0 of the flat index.
            table = sincos1d(self.rows + self.native[0] * self.native[1] * self.native[2], width)
            first, codes = table[: self.rows], interpolate(table[self.rows :], self.native, grid)
        else:
            codes, first = learned_positions(
                self, self.positions, self.native, grid, width, self.rows, self.images
            )
        return jnp.concatenate([first, codes]) if self.rows else codes


class Projection(nn.Module):
    """Linear, or linear, GELU, linear (exact GELU, hidden size of the input); then LayerNorm."""

    features: int
    norm_eps: float = 1e-5
    precision: str = "float32"
    head: str = "linear"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        if self.head == "mlp":
            x = ACTIVATIONS["gelu"](Dense(x.shape[-1], precision=self.precision, name="fc1")(x))
        name = "fc2" if self.head == "mlp" else "head"
        y = Dense(self.features, precision=self.precision, name=name)(x)
        return Norm("layernorm", self.norm_eps, name="norm")(y)


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Vectors of length 1."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True))

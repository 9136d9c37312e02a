"""Connectors: from an encoder's tokens to the few that a language model reads.

A connector is `(tokens [B,N,D], grid (T,H,W)) -> [B,M,O]` with `count(grid)`, the M of a grid. Its part is called with
`out_dim`, the width O of the language model.

Letters: B batch, N tokens of the encoder, T H W their grid, D their width, M tokens of the result, O its width.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax.core import FrozenDict
from jaxtyping import Array, Float, Int

from vfm.errors import UserError
from vfm.models.bert import PostNormBlock
from vfm.models.layers import ACTIVATIONS, CrossAttention, Dense, Mlp, Norm, require, scanned
from vfm.models.mamba import Block as ScanBlock
from vfm.ops import dot, positions
from vfm.ops.patches import Grid
from vfm.ops.resize import resize

POOLINGS = ("mean", "bilinear")
NEWLINES = ("none", "row", "frame")
NORMAL = nn.initializers.normal(0.02)


def linear_connector(
    out_dim: int, precision: str = "float32", remat: str = "none", unroll: int = 1
) -> "Projector":
    """One dense layer; M = N."""
    del remat, unroll
    return Projector(out_dim, layers=1, precision=dot.resolve_precision(precision))


def mlp_connector(
    out_dim: int,
    layers: int = 2,
    pool: tuple[int, int, int] = (1, 2, 2),
    pooling: str = "mean",
    newline: str = "none",
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "Projector":
    """An MLP, and then pooling: the order of LLaVA-Video (Zhang et al. 2024) and PerceptionLM (Cho et al. 2025).

    Args:
      layers: dense layers, with GELU between them.
      pool: by how much time, height and width shrink, rounded up.
      pooling: mean (adaptive average) | bilinear (over space, as LLaVA-Video; time by its mean).
      newline: none | row | frame: a learned token at the end of each row, or of each frame.
    """
    del remat, unroll
    require("pooling", pooling, POOLINGS)
    require("newline", newline, NEWLINES)
    return Projector(
        out_dim, layers, _pool(pool), pooling, newline, precision=dot.resolve_precision(precision)
    )


class Projector(nn.Module):
    """Dense layers on each token, then pooling, then newline tokens; make one with `mlp_connector`."""

    out_dim: int
    layers: int
    pool: Grid = (1, 1, 1)
    pooling: str = "mean"
    newline: str = "none"
    precision: str = "float32"

    @nn.nowrap
    def count(self, grid: Grid) -> int:
        """M of a grid."""
        time, height, width = pooled_grid(grid, self.pool)
        return {
            "none": time * height * width,
            "row": time * height * (width + 1),
            "frame": time * (height * width + 1),
        }[self.newline]

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"], grid: Grid) -> Float[Array, "B M O"]:
        x = tokens
        for layer in range(self.layers):
            x = ACTIVATIONS["gelu"](x) if layer else x
            x = Dense(self.out_dim, precision=self.precision, name=f"fc{layer + 1}")(x)
        x = pooled(x, grid, self.pool, self.pooling)
        if self.newline == "none":
            return rearrange(x, "b t h w d -> b (t h w) d")
        token = self.param("newline_token", NORMAL, (self.out_dim,)).astype(x.dtype)
        if self.newline == "row":
            end = jnp.broadcast_to(token, (*x.shape[:3], 1, self.out_dim))
            return rearrange(jnp.concatenate([x, end], axis=3), "b t h w d -> b (t h w) d")
        x = rearrange(x, "b t h w d -> b t (h w) d")
        end = jnp.broadcast_to(token, (*x.shape[:2], 1, self.out_dim))
        return rearrange(jnp.concatenate([x, end], axis=2), "b t n d -> b (t n) d")


def pooled_grid(grid: Grid, pool: Grid) -> Grid:
    """The grid after pooling: each axis divided and rounded up."""
    return tuple(-(-size // by) for size, by in zip(grid, pool, strict=True))


def pooled(
    tokens: Float[Array, "B N D"], grid: Grid, pool: Grid, pooling: str = "mean"
) -> Float[Array, "B T H W D"]:
    """Tokens on the smaller grid: averages of the cells that a result's cell overlaps, or bilinear over space."""
    x = rearrange(tokens, "b (t h w) d -> b t h w d", t=grid[0], h=grid[1], w=grid[2])
    sizes = pooled_grid(grid, pool)
    if pooling == "bilinear":
        x = resize(x, {2: sizes[1], 3: sizes[2]}, "linear")
    for axis, size in enumerate(sizes, start=1):
        if x.shape[axis] != size:
            weights = jnp.asarray(_averages(x.shape[axis], size), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, weights, axes=((axis,), (1,))), -1, axis)
    return x


def _averages(source: int, result: int) -> Float[np.ndarray, "R S"]:
    """Cell i of the result averages cells floor(i S / R) to ceil((i + 1) S / R), as torch's adaptive pooling."""
    weights = np.zeros((result, source))
    for row in range(result):
        first, last = row * source // result, -(-(row + 1) * source // result)
        weights[row, first:last] = 1 / (last - first)
    return weights


def _pool(pool) -> Grid:
    sizes = tuple(int(size) for size in pool)
    if len(sizes) != 3 or min(sizes) < 1:
        raise UserError(
            f"connector: pool {tuple(pool)}; expected three positive factors, of time, height and width"
        )
    return sizes


def qformer(
    out_dim: int,
    queries: int = 32,
    extra_queries: int = 0,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    mlp_dim: int = 0,
    cross_every: int = 2,
    norm_eps: float = 1e-12,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "QFormer":
    """BLIP-2's Q-Former (Li et al. 2023, arXiv 2301.12597); M = queries + extra_queries.

    Args:
      extra_queries: queries that start at zero, as VideoChat2 adds to a trained Q-Former.
      mlp_dim: 0 = 4 * width.
      cross_every: the first of every so many layers looks at the video.
    """
    if depth % cross_every or width % heads:
        raise UserError(
            f"qformer: cross_every {cross_every} must divide depth {depth}, and heads {heads} the width {width}"
        )
    block = dict(heads=heads, mlp_dim=mlp_dim or 4 * width, norm_eps=norm_eps, activation="gelu")
    precision = dot.resolve_precision(precision)
    return QFormer(
        out_dim, queries, extra_queries, width, depth // cross_every, cross_every,
        FrozenDict(block | dict(precision=precision)), precision, remat, unroll,
    )  # fmt: skip


class QFormer(nn.Module):
    """A BERT of learned queries, with cross-attention to the video in some layers; make one with `qformer`."""

    out_dim: int
    queries: int
    extra_queries: int
    width: int
    groups: int
    cross_every: int
    block: FrozenDict
    precision: str
    remat: str
    unroll: int

    @nn.nowrap
    def count(self, grid: Grid) -> int:
        """M, the same for every grid."""
        del grid
        return self.queries + self.extra_queries

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"], grid: Grid) -> Float[Array, "B M O"]:
        del grid
        x = self.param("queries", NORMAL, (self.queries, self.width))
        if self.extra_queries:
            extra = self.param("extra_queries", nn.initializers.zeros, (self.extra_queries, self.width))
            x = jnp.concatenate([x, extra])
        x = repeat(x.astype(dot.activation_dtype(self.precision)), "q d -> b q d", b=len(tokens))
        x = Norm("layernorm", self.block["norm_eps"], name="norm")(x)
        blocks = scanned(_QFormerGroup, self.groups, self.remat, self.unroll, shared=1)
        x, _ = blocks(self.cross_every, self.block, name="blocks")(x, None, tokens)
        return Dense(self.out_dim, precision=self.precision, name="proj")(x)


class _QFormerGroup(nn.Module):
    """Layers of which the first looks at the video."""

    layers: int
    block: FrozenDict

    @nn.compact
    def __call__(self, x, rate, tokens):
        for layer in range(self.layers):
            block = PostNormBlock(**self.block, name=f"layer{layer}")
            x, _ = block(x, rate, None, None if layer else tokens)
        return x, None


def resampler(
    out_dim: int,
    queries: int = 64,
    depth: int = 6,
    heads: int = 8,
    mlp_ratio: float = 4.0,
    frames: int = 0,
    norm_eps: float = 1e-5,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "Resampler":
    """Flamingo's perceiver resampler (Alayrac et al. 2022, arXiv 2204.14198), in the encoder's width; M = queries.

    Args:
      frames: native number of grid steps in time that have learned codes, interpolated for others; 0 = no codes.
    """
    return Resampler(
        out_dim, queries, depth, heads, mlp_ratio, frames, norm_eps, dot.resolve_precision(precision), remat, unroll
    )  # fmt: skip


class Resampler(nn.Module):
    """Learned queries that look at the video and at themselves, layer by layer; make one with `resampler`."""

    out_dim: int
    queries: int
    depth: int
    heads: int
    mlp_ratio: float
    frames: int
    norm_eps: float
    precision: str
    remat: str
    unroll: int

    @nn.nowrap
    def count(self, grid: Grid) -> int:
        """M, the same for every grid."""
        del grid
        return self.queries

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"], grid: Grid) -> Float[Array, "B M O"]:
        width = tokens.shape[-1]
        if width % self.heads:
            raise UserError(f"resampler: heads {self.heads} do not divide the encoder's width {width}")
        if self.frames:
            table = self.param("time_pos", NORMAL, (self.frames, width))
            codes = positions.interpolate(table, (self.frames, 1, 1), (grid[0], 1, 1)).astype(tokens.dtype)
            tokens += jnp.repeat(codes, grid[1] * grid[2], axis=0)
        x = self.param("queries", NORMAL, (self.queries, width)).astype(tokens.dtype)
        x = repeat(x, "q d -> b q d", b=len(tokens))
        blocks = scanned(_ResamplerLayer, self.depth, self.remat, self.unroll, shared=1)
        hidden = int(width * self.mlp_ratio)
        x, _ = blocks(self.heads, hidden, self.norm_eps, self.precision, name="blocks")(x, None, tokens)
        x = Norm("layernorm", self.norm_eps, name="norm")(x)
        return Dense(self.out_dim, precision=self.precision, name="proj")(x)


class _ResamplerLayer(nn.Module):
    heads: int
    mlp_dim: int
    norm_eps: float
    precision: str

    @nn.compact
    def __call__(self, x, rate, tokens):
        del rate
        seen = Norm("layernorm", self.norm_eps, name="norm_tokens")(tokens)
        y = Norm("layernorm", self.norm_eps, name="norm1")(x)
        x += CrossAttention(self.heads, self.precision, name="cross")(y, jnp.concatenate([seen, y], axis=1))
        y = Norm("layernorm", self.norm_eps, name="norm2")(x)
        return x + Mlp(self.mlp_dim, precision=self.precision, name="mlp")(y), None


def mamba_compressor(
    out_dim: int,
    layers: int = 2,
    pool: tuple[int, int, int] = (1, 2, 2),
    depth: int = 1,
    d_state: int = 16,
    d_conv: int = 4,
    expand: float = 2,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "MambaCompressor":
    """BIMBA's compressor (Islam et al. 2025, arXiv 2503.09590): M = the pooled grid, at linear cost.

    Args:
      layers: dense layers into the language model's width, with GELU between them.
      pool: by how much time, height and width shrink, rounded up.
      depth: scan layers.
    """
    mixer = dict(
        inner=int(expand * out_dim), states=d_state, taps=d_conv, rank=-(-out_dim // 16), layers=depth,
        initial="mamba", zero_out=True,
    )  # fmt: skip
    return MambaCompressor(
        out_dim,
        layers,
        _pool(pool),
        depth,
        FrozenDict(mixer),
        dot.resolve_precision(precision),
        remat,
        unroll,
    )


class MambaCompressor(nn.Module):
    """Pooled tokens as queries, spread among all tokens and scanned with them in both directions.

    In float32 whatever the precision. At first nothing is added: the result is the pooled tokens.
    """

    out_dim: int
    layers: int
    pool: Grid
    depth: int
    mixer: FrozenDict
    precision: str
    remat: str
    unroll: int

    @nn.nowrap
    def count(self, grid: Grid) -> int:
        """M of a grid."""
        return int(np.prod(pooled_grid(grid, self.pool)))

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"], grid: Grid) -> Float[Array, "B M O"]:
        x = Projector(self.out_dim, self.layers, precision=self.precision, name="mlp")(tokens, grid)
        dtype, x = x.dtype, x.astype(jnp.float32)
        queries = rearrange(pooled(x, grid, self.pool), "b t h w d -> b (t h w) d")
        places = interleaved(x.shape[1], queries.shape[1])
        others = np.setdiff1d(np.arange(x.shape[1] + queries.shape[1]), places)
        x = jnp.concatenate([queries, x], axis=1)[:, np.argsort(np.concatenate([places, others]))]
        blocks = scanned(ScanBlock, self.depth, self.remat, self.unroll)
        x, _ = blocks(self.mixer, "rmsnorm", name="blocks")(x, None)
        return x[:, places].astype(dtype)


def interleaved(tokens: int, queries: int) -> Int[np.ndarray, "M"]:
    """Places of queries that are spread evenly among tokens; the last place is a query's."""
    return np.linspace(0, tokens + queries - 1, queries + 1).astype(np.int64)[1:]

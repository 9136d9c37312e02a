"""VideoMamba: a video encoder of bidirectional selective scans, linear in the number of tokens.

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens, K kept tokens, D width,
L layers, P scan directions, E channels inside a mixer, S states of a channel, R rank of the step sizes.

Source: Li et al. 2024, "VideoMamba: State Space Model for Efficient Video Understanding" (arXiv 2403.06977).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float, Int

from vfm.models import mamba_init as initials
from vfm.models.features import Features
from vfm.models.layers import Dense, Norm, PatchEmbed, drop_path, drop_rates, require, scanned, token_grid
from vfm.models.vit import POSITIONS, at, position_table
from vfm.ops import dot
from vfm.ops.causal_conv import causal_conv1d
from vfm.ops.patches import Grid
from vfm.ops.positions import interpolate
from vfm.ops.selective_scan import selective_scan

SIZES = {"ti": (192, 24), "s": (384, 24), "m": (576, 32), "b": (768, 24)}  # width, depth


def mamba(
    size: str = "s",
    width: int = 0,
    depth: int = 0,
    frames: int = 8,
    image_size: int | tuple[int, int] = 224,
    tubelet: int = 1,
    patch: int = 16,
    stride: int = 0,
    positions: str = "learned_separable",
    cls_token: bool = True,
    norm: str = "rmsnorm",
    norm_eps: float = 1e-5,
    d_state: int = 16,
    d_conv: int = 4,
    expand: float = 2,
    dt_rank: int = 0,
    proj_bias: bool = False,
    conv_bias: bool = True,
    bidirectional: bool = True,
    divide_out: bool = False,
    drop_path: float = 0.0,
    final_norm: bool = True,
    init: str = "videomamba",
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "VideoMamba":
    """A VideoMamba of a named size; a width or depth other than 0 overrides the size's.

    Args:
      frames, image_size: the native clip that position tables are for; image_size may be (height, width). An image
        model is `frames=1, positions="learned"`: one table over space, none over time.
      stride: pixels between neighbouring patches; 0 = patch, less = overlapping patches.
      dt_rank: rank of the step sizes; 0 = width / 16, rounded up.
      proj_bias, conv_bias: whether the mixer's outer projections and its convolution have biases.
      The other keys are explained in `configs/parts.py`.
    """
    require("size", size, SIZES)
    require("positions", positions, POSITIONS)
    require("init", init, initials.INITS)
    width, depth = width or SIZES[size][0], depth or SIZES[size][1]
    height_width = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    stride = stride or patch
    return VideoMamba(
        width=width,
        depth=depth,
        native=_token_grid((frames, *height_width, 3), tubelet, patch, stride),
        tubelet=tubelet,
        patch=patch,
        stride=stride,
        positions=positions,
        cls_token=cls_token,
        norm=norm,
        norm_eps=norm_eps,
        mixer=FrozenDict(  # hashable, as a module has to be to be a static argument of jit
            inner=int(expand * width),
            states=d_state,
            taps=d_conv,
            rank=dt_rank or math.ceil(width / 16),
            proj_bias=proj_bias,
            conv_bias=conv_bias,
            bidirectional=bidirectional,
            divide_out=divide_out,
            initial=init,
        ),
        drop_path=drop_path,
        final_norm=final_norm,
        precision=dot.resolve_precision(precision),
        remat=remat,
        unroll=unroll,
    )


class VideoMamba(nn.Module):
    """An encoder: `(video, keep=None, train=False) -> Features`; make one with `mamba`.

    The sequence is the class token, then tokens in raster order: frame after frame. Kept tokens are scanned in the
    order of their ids. The residual stream is float32 under every precision.

    Intermediates (`mutable=["intermediates"]`), with the class token in front of N: "embed" [B,N,D], tokens after
    positions; "blocks/branch" [L,B,N,D], what each layer adds; "blocks/output" [L,B,N,D], the stream after it.
    """

    width: int
    depth: int
    native: Grid  # the token grid of the native clip
    tubelet: int
    patch: int
    stride: int
    mixer: FrozenDict  # arguments of Mixer
    positions: str = "learned_separable"
    cls_token: bool = True
    norm: str = "rmsnorm"
    norm_eps: float = 1e-5
    drop_path: float = 0.0
    final_norm: bool = True
    precision: str = "float32"
    remat: str = "none"
    unroll: int = 1

    @nn.nowrap
    def grid_of(self, shape: tuple[int, ...]) -> Grid:
        """The (T, H, W) token grid of a video of shape [..., T, H, W, C]."""
        return _token_grid(shape, self.tubelet, self.patch, self.stride)

    @nn.compact
    def __call__(
        self, video: Float[Array, "B T H W C"], keep: Int[Array, "B K"] | None = None, train: bool = False
    ) -> Features:
        """Encode a normalised video.

        Args:
          keep: sorted ids of the visible tokens; None = all. Position codes and scan order follow ids.
          train: drop residual branches at the drop path rates (rng "dropout").
        """
        grid = self.grid_of(video.shape)
        if self.stride != self.patch:
            video = _overlapping(video, grid, self.patch, self.stride)
        embed = PatchEmbed(self.width, self.tubelet, self.patch, self.precision, name="patch_embed")
        x = embed(video, keep).astype(jnp.float32)
        table, first = self._positions(grid)
        if table is not None:
            x += at(table, keep)
        if self.cls_token:
            cls = self.param("cls_token", nn.initializers.zeros, (1, self.width)) + first
            x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, self.width)), x], axis=1)
        self.sow("intermediates", "embed", x)

        blocks = scanned(Block, self.depth, self.remat, self.unroll)(
            mixer={**self.mixer, "layers": self.depth, "precision": self.precision},
            norm=self.norm,
            norm_eps=self.norm_eps,
            dropping=train and self.drop_path > 0,
            name="blocks",
        )
        x, _ = blocks(x, drop_rates(self.drop_path, self.depth))
        if self.final_norm:
            x = Norm(self.norm, self.norm_eps, name="norm")(x)
        x = x.astype(dot.activation_dtype(self.precision))
        return Features(x[:, 1:], x[:, 0], grid) if self.cls_token else Features(x, None, grid)

    def _positions(self, grid: Grid) -> tuple[Array | None, Array | float]:
        """Position codes of the grid's tokens, and of the class token: the first row of a learned table."""
        if self.positions == "none":
            return None, 0.0
        if not self.positions.startswith("learned"):
            return position_table(self, self.positions, self.native, grid, self.width), 0.0
        time, height, width = self.native
        normal, extra = nn.initializers.normal(0.02), int(self.cls_token)
        if self.positions == "learned":
            table = self.param("pos", normal, (extra + time * height * width, self.width))
            return interpolate(table[extra:], self.native, grid), table[:extra]
        table = self.param("space_pos", normal, (extra + height * width, self.width))
        times = self.param("time_pos", nn.initializers.zeros, (time, self.width))
        space = interpolate(table[extra:], (1, height, width), (1, *grid[1:]))
        times = interpolate(times, (time, 1, 1), (grid[0], 1, 1))
        return (times[:, None] + space[None]).reshape(-1, self.width), table[:extra]


def _token_grid(shape: tuple[int, ...], tubelet: int, patch: int, stride: int) -> Grid:
    if stride == patch:
        return token_grid(shape, tubelet, patch)
    height, width = ((size - patch) // stride + 1 for size in shape[-3:-1])
    return token_grid((shape[-4], height * patch, width * patch, shape[-1]), tubelet, patch)


def _overlapping(video: Float[Array, "B T H W C"], grid: Grid, patch: int, stride: int) -> Array:
    """The video in which patches that overlap stand side by side."""
    rows, columns = (
        (jnp.arange(count)[:, None] * stride + jnp.arange(patch)).reshape(-1) for count in grid[1:]
    )
    return video[:, :, rows][:, :, :, columns]


class Block(nn.Module):
    """A layer: `x + drop_path(mixer(norm x))`, with x in float32."""

    mixer: FrozenDict
    norm: str = "rmsnorm"
    norm_eps: float = 1e-5
    dropping: bool = False  # the branch is dropped (training with a drop path rate)

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], rate: Float[Array, ""]) -> tuple[Array, None]:
        y = Norm(self.norm, self.norm_eps, name="norm")(x)
        y = Mixer(**self.mixer, name="mixer")(y).astype(jnp.float32)
        self.sow("intermediates", "branch", y)
        x += drop_path(y, rate, self.make_rng("dropout")) if self.dropping else y
        self.sow("intermediates", "output", x)
        return x, None


class Mixer(nn.Module):
    """Mamba over a sequence in both directions: shared projections in and out, everything between of its own.

    Both directions run as one scan with twice the batch; their parameters are stacked on a leading axis P
    (forward, backward). The gate of a token is the same in both, so it is applied once, to their sum.
    """

    inner: int
    states: int
    taps: int
    rank: int
    layers: int
    proj_bias: bool = False
    conv_bias: bool = True
    bidirectional: bool = True
    divide_out: bool = False
    initial: str = "videomamba"  # values of parameters (`vfm.models.mamba_init`)
    zero_out: bool = False  # the layer adds nothing at first
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        inner, states, directions = self.inner, self.states, 1 + self.bidirectional
        normal = nn.initializers.normal(0.02)
        xz = Dense(2 * inner, self.proj_bias, normal, self.precision, name="in_proj")(x)
        u, gate = jnp.split(xz, 2, axis=-1)
        u = jnp.stack([u, jnp.flip(u, 1)]) if self.bidirectional else u[None]
        u = CausalConv(self.taps, self.conv_bias, name="conv")(u)

        # Step sizes and state weights of each token.
        y = DirectionDense(self.rank + 2 * states, normal, self.precision, name="x_proj")(u)
        step, into, out_of = jnp.split(y, (self.rank, self.rank + states), axis=-1)
        kernel_init, bias_init = initials.step_initializers(self.initial, self.rank)
        step = DirectionDense(inner, kernel_init, self.precision, name="dt_proj")(step)
        y = selective_scan(
            u,
            step,
            -jnp.exp(self.param("A_log", initials.decay_rates, (directions, inner, states))),
            into,
            out_of,
            self.param("D", nn.initializers.ones, (directions, inner)),
            delta_bias=self.param("dt_bias", bias_init, (directions, inner)),
            softplus=True,
        )
        y = y[0] + jnp.flip(y[1], 1) if self.bidirectional else y[0]
        if self.divide_out:
            y = y / directions
        y = y * jax.nn.silu(gate)
        out_init = nn.initializers.zeros if self.zero_out else initials.out_projection(self.layers)
        return Dense(x.shape[-1], self.proj_bias, out_init, self.precision, name="out_proj")(y)


class CausalConv(nn.Module):
    """A causal depthwise convolution and SiLU, with a kernel for each direction."""

    taps: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "P B N E"]) -> Float[Array, "P B N E"]:
        init = initials.uniform(self.taps**-0.5)
        kernel = self.param("kernel", init, (x.shape[0], self.taps, x.shape[-1]))
        bias = self.param("bias", init, (x.shape[0], x.shape[-1])) if self.use_bias else None
        return causal_conv1d(x, kernel, bias, "silu")


class DirectionDense(nn.Module):
    """A dense layer without bias for each direction."""

    features: int
    kernel_init: nn.initializers.Initializer
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "P B N I"]) -> Float[Array, "P B N O"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[0], x.shape[-1], self.features))
        # Two products rather than a batched one, which XLA does not hand to its fast path on CPUs.
        return jnp.stack([dot.matmul(x[p], kernel[p], self.precision) for p in range(x.shape[0])])

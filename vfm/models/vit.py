"""The video Vision Transformer: joint space-time attention over tubelets.

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens, K kept tokens, D width,
L layers.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vfm.errors import UserError
from vfm.models.features import Features
from vfm.models.layers import (
    Block,
    Norm,
    PatchEmbed,
    RecordingBlock,
    drop_rates,
    require,
    scanned,
    token_grid,
)
from vfm.ops import dot, positions
from vfm.ops.attention import causal_mask
from vfm.ops.patches import Grid

SIZES = {  # width, depth, heads, mlp_dim
    "ti": (192, 12, 3, 768),
    "s": (384, 12, 6, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "h": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
    "1b": (1408, 40, 16, 6144),  # InternVideo2's names
    "6b": (3200, 48, 25, 12800),
}
POSITIONS = ("sincos1d", "sincos3d", "learned", "learned_from_sincos", "learned_separable", "none")
IMAGES = ("interpolate", "mean", "own")
ATTENDS = ("all", "causal", "prefix")


def vit(
    size: str = "s",
    width: int = 0,
    depth: int = 0,
    heads: int = 0,
    mlp_dim: int = 0,
    frames: int = 16,
    image_size: int | tuple[int, int] = 224,
    tubelet: int = 2,
    patch: int = 16,
    positions: str = "sincos1d",
    cls_token: bool = False,
    registers: int = 0,
    norm: str = "layernorm",
    norm_eps: float = 1e-6,
    qkv_bias: str = "qv",
    qk_norm: bool = False,
    qk_scale: float = 0.0,
    layer_scale: float = 0.0,
    activation: str = "gelu",
    drop_path: float = 0.0,
    final_norm: bool = True,
    attends: str = "all",
    block_bias: bool = True,
    embed_norm: bool = False,
    pre_norm: bool = False,
    patch_bias: bool = True,
    cls_position: bool = False,
    image_positions: str = "interpolate",
    qk_norm_over: str = "head",
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "ViT":
    """A ViT of a named size; a width, depth, heads or mlp_dim other than 0 overrides the size's.

    Args:
      frames, image_size: the native clip that position tables are for; image_size may be (height, width).
      qk_scale: of the attention logits; 0 = head size ** -0.5.
      The other keys are explained in `configs/parts.py`.
    """
    require("attends", attends, ATTENDS)
    require("image_positions", image_positions, IMAGES)
    width, depth, heads, mlp_dim = _sizes(size, width, depth, heads, mlp_dim)
    height_width = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    return ViT(
        width=width,
        depth=depth,
        heads=heads,
        mlp_dim=mlp_dim,
        native=token_grid((frames, *height_width, 3), tubelet, patch),
        tubelet=tubelet,
        patch=patch,
        positions=positions,
        cls_token=cls_token,
        registers=registers,
        norm=norm,
        norm_eps=norm_eps,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        qk_scale=qk_scale,
        layer_scale=layer_scale,
        activation=activation,
        drop_path=drop_path,
        final_norm=final_norm,
        attends=attends,
        block_bias=block_bias,
        embed_norm=embed_norm,
        pre_norm=pre_norm,
        patch_bias=patch_bias,
        cls_position=cls_position,
        image_positions=image_positions,
        qk_norm_over=qk_norm_over,
        precision=dot.resolve_precision(precision),
        remat=remat,
        unroll=unroll,
    )


def _sizes(size: str, width: int, depth: int, heads: int, mlp_dim: int) -> tuple[int, int, int, int]:
    """Those of a named size, where they are 0."""
    require("size", size, SIZES)
    preset = SIZES[size]
    width, depth, heads = width or preset[0], depth or preset[1], heads or preset[2]
    # A width of its own takes the usual ratio of 4, not the hidden size of another width.
    mlp_dim = mlp_dim or (preset[3] if width == preset[0] else 4 * width)
    if width % heads:
        raise UserError(f"heads {heads} do not divide width {width}; choose heads that do")
    return width, depth, heads, mlp_dim


class ViT(nn.Module):
    """An encoder: `(video, keep=None, train=False) -> Features`; make one with `vit`.

    Intermediates (`mutable=["intermediates"]`): "embed" [B,N,D], what the first layer sees ("before_norm" where
    `pre_norm` stands in front of it), and "blocks/output" [L,B,N,D], the output of each layer; extra tokens (cls,
    then registers) stand in front of N. With `record`, the collection "recorded" holds "layers" [record,B,N,D] instead:
    the outputs of the last layers, in a fraction of the memory.
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    native: Grid  # the token grid of the native clip
    tubelet: int
    patch: int
    positions: str = "sincos1d"
    cls_token: bool = False
    registers: int = 0
    norm: str = "layernorm"
    norm_eps: float = 1e-6
    qkv_bias: str = "qv"
    qk_norm: bool = False
    qk_scale: float = 0.0
    layer_scale: float = 0.0
    activation: str = "gelu"
    drop_path: float = 0.0
    final_norm: bool = True
    attends: str = "all"
    block_bias: bool = True
    embed_norm: bool = False
    pre_norm: bool = False
    patch_bias: bool = True
    cls_position: bool = False
    image_positions: str = "interpolate"
    qk_norm_over: str = "head"
    precision: str = "float32"
    remat: str = "none"
    unroll: int = 1
    record: int = 0  # how many of the last layers' outputs are kept (see below); not for networks that learn

    @nn.nowrap
    def grid_of(self, shape: tuple[int, ...]) -> Grid:
        """The (T, H, W) token grid of a video of shape [..., T, H, W, C]."""
        return token_grid(shape, self.tubelet, self.patch)

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "B T H W C"],
        keep: Int[Array, "B K"] | None = None,
        train: bool = False,
        prefix: Int[Array, "B"] | None = None,
    ) -> Features:
        """Encode a normalised video.

        Args:
          keep: sorted ids of the visible tokens; None = all. Position codes follow ids.
          train: drop residual branches at the drop path rates (rng "dropout").
          prefix: how many of the first tokens see each other, where the encoder attends to a prefix.
        """
        grid = self.grid_of(video.shape)
        dtype = dot.activation_dtype(self.precision)
        embed = PatchEmbed(
            self.width, self.tubelet, self.patch, self.precision, self.patch_bias, name="patch_embed"
        )
        x = embed(video, keep)
        if self.embed_norm:
            x = Norm(self.norm, self.norm_eps, name="embed_norm")(x)
        codes, cls_code = self._positions(grid)
        if codes is not None:
            x += at(codes, keep).astype(dtype)
        extra = self._extra_tokens(x.shape[0], cls_code, dtype)
        if extra:
            x = jnp.concatenate([*extra, x], axis=1)
        if self.pre_norm:
            self.sow("intermediates", "before_norm", x)
            x = Norm(self.norm, self.norm_eps, name="pre_norm")(x)
        self.sow("intermediates", "embed", x)

        mask = self._mask(x.shape[1], prefix)
        layer = RecordingBlock if self.record else Block
        blocks = scanned(layer, self.depth, self.remat, self.unroll, shared=1)(
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            norm=self.norm,
            norm_eps=self.norm_eps,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            qk_scale=self.qk_scale,
            layer_scale=self.layer_scale,
            activation=self.activation,
            precision=self.precision,
            dropping=train and self.drop_path > 0,
            use_bias=self.block_bias,
            qk_norm_over=self.qk_norm_over,
            name="blocks",
        )
        if self.record:
            x = (x, jnp.zeros((self.record, *x.shape), x.dtype), jnp.zeros((), jnp.int32))
        x, _ = blocks(x, drop_rates(self.drop_path, self.depth), mask)
        if self.record:
            x, ring, _ = x
            # The oldest of the kept outputs lies where the next one would have gone.
            self.sow("recorded", "layers", jnp.roll(ring, -(self.depth % self.record), axis=0))
        if self.final_norm:
            x = Norm(self.norm, self.norm_eps, name="norm")(x)
        cls = x[:, 0] if self.cls_token else None
        return Features(x[:, self.cls_token + self.registers :], cls, grid)

    def _mask(self, length: int, prefix: Int[Array, "B"] | None) -> Bool[Array, "B 1 N N"] | None:
        """Which tokens see which; extra tokens belong to the prefix."""
        extra = self.cls_token + self.registers
        if self.attends == "causal":
            if self.cls_token:
                raise UserError(
                    "a class token stands in front of all others and would see nothing under attends='causal'; set "
                    "the encoder's cls_token=False, or attends='prefix'"
                )
            return causal_mask(length)
        if self.attends == "prefix" and prefix is not None:
            return causal_mask(length, prefix=prefix + extra)
        return None

    def _positions(self, grid: Grid) -> tuple[Array | None, Array | float]:
        """Position codes of the grid's tokens, and of the class token."""
        if self.positions == "none":
            return None, 0.0
        if not self.positions.startswith("learned"):
            return position_table(self, self.positions, self.native, grid, self.width), 0.0
        rows = int(self.cls_token and self.cls_position)
        return learned_positions(
            self, self.positions, self.native, grid, self.width, rows, self.image_positions
        )

    def _extra_tokens(self, batch: int, cls_code: Array | float, dtype: jnp.dtype) -> list[Array]:
        """Class and register tokens, repeated over the batch; registers have no position code."""
        tokens = []
        for name, count in (("cls_token", int(self.cls_token)), ("registers", self.registers)):
            if count:
                token = self.param(name, nn.initializers.normal(0.02), (count, self.width))
                token += cls_code if name == "cls_token" else 0.0
                tokens.append(jnp.broadcast_to(token.astype(dtype), (batch, count, self.width)))
        return tokens


def learned_positions(
    module: nn.Module,
    kind: str,
    native: Grid,
    grid: Grid,
    width: int,
    rows: int = 0,
    images: str = "interpolate",
) -> tuple[Float[Array, "N D"], Float[Array, "_ D"] | float]:
    """Codes of a grid from parameters of `module`, and of what stands in front of the tokens.

    Parameters: `pos` (one row for each token of the native grid), or `space_pos` and `time_pos` (learned_separable);
    where `images` is "own" also `image_pos`, for clips of one frame. Tables are interpolated to other grids.

    Args:
      rows: rows in front of `pos`, `space_pos` and `image_pos`; 0 or 1 (a class token).
    """
    time, height, breadth = native
    normal, plane = nn.initializers.normal(0.02), (1, height, breadth)
    table = times = None
    if kind == "learned_separable":
        space = module.param("space_pos", normal, (rows + height * breadth, width))
        times = module.param("time_pos", normal, (time, width))
    else:
        initial = _from_sincos(native, rows) if kind == "learned_from_sincos" else normal
        table = module.param("pos", initial, (rows + time * height * breadth, width))
    if images == "own":
        own = module.param("image_pos", normal, (rows + height * breadth, width))
        if grid[0] == 1:
            table, native = own, plane
    first = (space if table is None else table)[:rows] if rows else 0.0
    mean = images == "mean" and grid[0] == 1
    if table is not None:
        codes = table[rows:]
        if mean:
            codes, native = codes.reshape(time, -1, width).mean(0), plane
        return positions.interpolate(codes, native, grid), first
    codes = positions.interpolate(space[rows:], plane, (1, *grid[1:]))
    times = times.mean(0, keepdims=True) if mean else times
    times = positions.interpolate(times, (len(times), 1, 1), (grid[0], 1, 1))
    return (times[:, None] + codes[None]).reshape(-1, width), first


def _from_sincos(native: Grid, rows: int) -> nn.initializers.Initializer:
    """A learned table that starts as a sinusoid, with zeros in front (InternVideo2)."""

    def initial(key, shape, dtype=jnp.float32):
        table = positions.sincos_quarter(native, shape[-1])
        return jnp.concatenate([jnp.zeros((rows, shape[-1])), table]).astype(dtype)

    return initial


def position_table(
    module: nn.Module, kind: str, native: Grid, grid: Grid, width: int
) -> Float[Array, "N D"] | Float[np.ndarray, "N D"]:
    """The position codes of a grid: fixed, or parameters `pos` / `space_pos` and `time_pos` of `module`.

    Tables belong to the native grid; for another one they are interpolated.
    """
    require("positions", kind, POSITIONS)
    time, height, breadth = native
    if kind == "sincos1d":
        return positions.interpolate(positions.sincos1d(time * height * breadth, width), native, grid)
    if kind == "sincos3d":
        return positions.interpolate(positions.sincos3d(native, width), native, grid)
    return learned_positions(module, kind, native, grid, width)[0]


def at(table: Float[Array, "N D"], keep: Int[Array, "B K"] | None) -> Float[Array, "_ K D"]:
    """Rows of a table by token id, for each sample; all, with a batch axis of 1, where `keep` is None."""
    table = jnp.asarray(table)
    return table[None] if keep is None else jnp.take(table, keep, axis=0)

"""A tokenizer of videos: patches to discrete codes, and vectors of codes back to pixels.

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens, D width, d channels of a code, K
codes, P pixels of one token.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from vfm import parts
from vfm.errors import UserError
from vfm.models import quantizers
from vfm.models.features import Features
from vfm.models.layers import Block, Dense, Norm, drop_rates, scanned
from vfm.models.quantizers import Quantized
from vfm.ops import dot, positions
from vfm.ops.patches import Grid, take


def video_tokenizer(
    encoder: Mapping[str, Any],
    quantizer: Mapping[str, Any],
    window: int = 0,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "VideoTokenizer":
    """An encoder followed by a quantizer.

    Args:
      encoder: part (home `vfm.models`) that reads the patches.
      quantizer: part (home `vfm.models.quantizers`): vq | fsq.
      window: frames that are read together, each window by itself; 0 = the whole clip, 1 = frame by frame.
    """
    run_time = dict(precision=precision, remat=remat, unroll=unroll)
    inner = parts.build(encoder, "vfm.models", **run_time)
    if window % inner.tubelet:
        raise UserError(
            f"video tokenizer: windows of {window} frames are not divided by tubelets of {inner.tubelet}; change one"
        )
    return VideoTokenizer(
        inner, parts.build(quantizer, quantizers.__name__), window, dot.resolve_precision(precision)
    )


class VideoTokenizer(nn.Module):
    """An encoder (its features are those before quantization) that also gives codes; make one with `video_tokenizer`.

    Intermediates: "codes" [B,N], in raster order.
    """

    encoder: nn.Module
    quantizer: nn.Module
    window: int
    precision: str

    def setup(self) -> None:
        self.to_code = Dense(self.quantizer.dim, precision=self.precision)

    @property
    def width(self) -> int:
        return self.encoder.width

    @property
    def tubelet(self) -> int:
        return self.encoder.tubelet

    @property
    def patch(self) -> int:
        return self.encoder.patch

    @property
    def codes(self) -> int:
        """K."""
        return self.quantizer.codes

    @nn.nowrap
    def grid_of(self, shape: tuple[int, ...]) -> Grid:
        """The (T, H, W) token grid of a video of shape [..., T, H, W, C]."""
        return self.encoder.grid_of(shape)

    def __call__(
        self, video: Float[Array, "B T H W C"], keep: Int[Array, "B M"] | None = None, train: bool = False
    ) -> Features:
        """Features of a normalised video. All tokens are read, then those in `keep` chosen."""
        tokens = self._read(video, train)
        self.sow("intermediates", "codes", self.quantizer(self.to_code(tokens)).codes)
        tokens = tokens if keep is None else take(tokens, keep)
        return Features(tokens, None, self.grid_of(video.shape))

    def tokenize(
        self, video: Float[Array, "B T H W C"], train: bool = False
    ) -> tuple[Float[Array, "B N d"], Quantized]:
        """Vectors before quantization, and what became of them."""
        z = self.to_code(self._read(video, train))
        return z, self.quantizer(z)

    def lookup(self, codes: Int[Array, "B N"]) -> Float[Array, "B N d"]:
        """The vectors of codes."""
        return self.quantizer.lookup(codes)

    def _read(self, video, train: bool) -> Float[Array, "B N D"]:
        batch, window = len(video), self.window or video.shape[1]
        if video.shape[1] % window:
            raise UserError(
                f"video tokenizer: {video.shape[1]} frames are not divided by windows of {window}; change data.frames"
            )
        windows = rearrange(video, "b (n t) h w c -> (b n) t h w c", t=window)
        return rearrange(self.encoder(windows, train=train).tokens, "(b n) k d -> b (n k) d", b=batch)


def pixel_decoder(
    out_dim: int,
    width: int = 384,
    depth: int = 4,
    heads: int = 6,
    mlp_dim: int = 0,
    norm_eps: float = 1e-6,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "PixelDecoder":
    """Transformer layers from vectors of codes to the `out_dim` pixels of each; mlp_dim 0 = 4 * width."""
    if width % heads:
        raise UserError(f"pixel decoder: heads {heads} do not divide width {width}; choose heads that do")
    return PixelDecoder(
        out_dim, width, depth, heads, mlp_dim or 4 * width, norm_eps, dot.resolve_precision(precision), remat, unroll
    )  # fmt: skip


class PixelDecoder(nn.Module):
    """`(vectors of codes, their grid) -> pixels`; make one with `pixel_decoder`."""

    out_dim: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    norm_eps: float
    precision: str
    remat: str
    unroll: int

    @nn.compact
    def __call__(self, z: Float[Array, "B N d"], grid: Grid, train: bool = False) -> Float[Array, "B N P"]:
        """Decode windows of a grid."""
        del train  # nothing is dropped
        x = Dense(self.width, precision=self.precision, name="embed")(z)
        x += jnp.asarray(positions.sincos3d(grid, self.width), x.dtype)
        blocks = scanned(Block, self.depth, self.remat, self.unroll)(
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            norm_eps=self.norm_eps,
            qkv_bias="qkv",
            precision=self.precision,
            name="blocks",
        )
        x, _ = blocks(x, drop_rates(0.0, self.depth))
        x = Norm("layernorm", self.norm_eps, name="norm")(x)
        return Dense(self.out_dim, precision=self.precision, name="head")(x)

"""Text encoders of two-tower models: causal as CLIP's, bidirectional as SigLIP's, and others by their keys.

Letters: B batch, L tokens of a text, D width.

Sources: Radford et al. 2021 (CLIP, arXiv 2103.00020); Zhai et al. 2023 (SigLIP, arXiv 2303.15343).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vfm.errors import UserError
from vfm.models.features import TextFeatures
from vfm.models.layers import ACTIVATIONS, Block, Embedding, Norm, drop_rates, require, scanned
from vfm.models.poolers import MapPool
from vfm.ops import dot
from vfm.ops.attention import causal_mask
from vfm.ops.positions import sincos1d

SIZES = {  # width, depth, heads, mlp_dim
    "ti": (192, 12, 3, 768),
    "s": (384, 12, 6, 1536),
    "clip_b": (512, 12, 8, 2048),  # beside CLIP's ViT-B; "b" is beside its ViT-L, and SigLIP's B
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
}
POOLINGS = ("eot", "last", "cls", "mean", "map")
POSITIONS = ("learned", "sincos1d", "none")


def text(
    size: str = "b",
    vocab_size: int = 0,
    length: int = 77,
    width: int = 0,
    depth: int = 0,
    heads: int = 0,
    mlp_dim: int = 0,
    causal: bool = True,
    sees_padding: bool = False,
    pooling: str = "eot",
    positions: str = "learned",
    embed_scale: float = 1.0,
    activation: str = "gelu",
    norm_eps: float = 1e-5,
    drop_path: float = 0.0,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "TextEncoder":
    """A text encoder of a named size; a width, depth, heads or mlp_dim other than 0 overrides the size's.

    Args:
      vocab_size: of the tokenizer; required.
      length: the most tokens of a text, which the position table is for.
      The other keys are explained in `configs/parts.py`.

    Raises:
      UserError: an unknown name, no vocabulary, or heads that do not divide the width.
    """
    require("size", size, SIZES)
    require("pooling", pooling, POOLINGS)
    require("positions", positions, POSITIONS)
    require("activation", activation, ACTIVATIONS)
    preset = SIZES[size]
    width, depth, heads = width or preset[0], depth or preset[1], heads or preset[2]
    mlp_dim = mlp_dim or (preset[3] if width == preset[0] else 4 * width)
    check_sizes(vocab_size, width, heads)
    return TextEncoder(
        vocab_size=vocab_size,
        length=length,
        width=width,
        depth=depth,
        heads=heads,
        mlp_dim=mlp_dim,
        causal=causal,
        sees_padding=sees_padding,
        pooling=pooling,
        positions=positions,
        embed_scale=embed_scale,
        activation=activation,
        norm_eps=norm_eps,
        drop_path=drop_path,
        precision=dot.resolve_precision(precision),
        remat=remat,
        unroll=unroll,
    )


def check_sizes(vocab_size: int, width: int, heads: int) -> None:
    """UserError unless there is a vocabulary and the heads divide the width."""
    if vocab_size < 1:
        raise UserError(
            f"vocab_size {vocab_size}: a text model needs the size of its tokenizer's vocabulary; set "
            f"data.text.tokenizer or the text model's vocab_size"
        )
    if width % heads:
        raise UserError(f"heads {heads} do not divide width {width}; choose heads that do")


def check_length(text: Int[Array, "B L"], length: int) -> None:
    """UserError where texts have more tokens than the model has positions."""
    if text.shape[1] > length:
        raise UserError(
            f"texts of {text.shape[1]} tokens, but the text model has {length} positions; set data.text.length to "
            f"at most {length}, or the text model's length to at least {text.shape[1]}"
        )


class TextEncoder(nn.Module):
    """A text encoder: `(text, text_mask=None, train=False) -> TextFeatures`; make one with `text`.

    pooling: eot (the last token that is not padding: CLIP) | last (the last position, padding or not: SigLIP) |
      cls (the first token) | mean (of tokens that are not padding) | map (`MapPool`).
    sees_padding: padding is attended to and pooled like any token, as SigLIP is trained.

    Intermediates: "embed" [B,L,D], tokens after positions, and "blocks/output", stacked over layers.
    """

    vocab_size: int
    length: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    causal: bool = True
    sees_padding: bool = False
    pooling: str = "eot"
    positions: str = "learned"
    embed_scale: float = 1.0
    activation: str = "gelu"
    norm_eps: float = 1e-5
    drop_path: float = 0.0
    precision: str = "float32"
    remat: str = "none"
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"] | None = None,
        train: bool = False,
    ) -> TextFeatures:
        """Encode texts.

        Args:
          text_mask: false where a token is padding; None = no padding.
          train: drop residual branches at the drop path rates (rng "dropout").

        Raises:
          UserError: texts are longer than the position table.
        """
        check_length(text, self.length)
        x = Embedding(self.vocab_size, self.width, self.precision, name="words")(text) * self.embed_scale
        if self.positions != "none":
            x += self._positions()[: text.shape[1]].astype(x.dtype)
        self.sow("intermediates", "embed", x)
        blocks = scanned(Block, self.depth, self.remat, self.unroll, shared=1)(
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            norm_eps=self.norm_eps,
            qkv_bias="qkv",
            activation=self.activation,
            precision=self.precision,
            dropping=train and self.drop_path > 0,
            name="blocks",
        )
        visible = None if self.sees_padding else text_mask
        x, _ = blocks(x, drop_rates(self.drop_path, self.depth), self._mask(text.shape[1], visible))
        x = Norm("layernorm", self.norm_eps, name="norm")(x)
        return TextFeatures(x, self._pool(x, text_mask, visible))

    def _positions(self) -> Float[Array, "L D"]:
        if self.positions == "sincos1d":
            return jnp.asarray(sincos1d(self.length, self.width))
        return self.param("pos", nn.initializers.normal(0.01), (self.length, self.width))

    def _mask(self, length: int, visible: Bool[Array, "B L"] | None) -> Bool[Array, "B 1 L L"] | None:
        mask = causal_mask(length) if self.causal else None
        if visible is None:
            return mask
        keys = visible[:, None, None, :]
        return keys if mask is None else mask & keys

    def _pool(self, x, text_mask, visible) -> Float[Array, "B D"]:
        """One vector of all tokens; `visible` is false where a token is padding that is never seen."""
        if self.pooling == "map":
            heads, hidden = self.heads, self.mlp_dim
            pool = MapPool(heads, hidden, self.activation, self.norm_eps, self.precision, name="pool")
            return pool(x, mask=visible)
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "last" or (self.pooling == "eot" and text_mask is None):
            return x[:, -1]
        if self.pooling == "eot":
            places = jnp.where(text_mask, jnp.arange(x.shape[1]), 0).max(1)
            return jnp.take_along_axis(x, places[:, None, None], axis=1)[:, 0]
        weights = jnp.ones(x.shape[:2]) if visible is None else visible.astype(jnp.float32)
        total = jnp.maximum(weights.sum(1, keepdims=True), 1.0)
        return (jnp.einsum("bl,bld->bd", weights, x.astype(jnp.float32)) / total).astype(x.dtype)

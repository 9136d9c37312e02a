"""BERT: a bidirectional text encoder whose upper layers may look at a video, and its masked language model.

Letters: B batch, L tokens of a text, D width, N tokens of a video, M width of the video's tokens, V vocabulary.

Sources: Devlin et al. 2019 (arXiv 1810.04805); fusion layers as in UMT (Li et al. 2023, arXiv 2303.16058) and
InternVideo2's second stage (Wang et al. 2024, arXiv 2403.15377).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vfm.errors import UserError
from vfm.models.features import TextFeatures
from vfm.models.layers import (
    ACTIVATIONS,
    Attention,
    CrossAttention,
    Dense,
    Embedding,
    Mlp,
    Norm,
    require,
    scanned,
)
from vfm.models.text import check_length, check_sizes
from vfm.ops import dot

SIZES = {  # width, depth, heads, mlp_dim
    "ti": (128, 2, 2, 512),
    "mini": (256, 4, 4, 1024),
    "s": (512, 4, 8, 2048),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
}


def bert(
    size: str = "b",
    vocab_size: int = 0,
    length: int = 512,
    width: int = 0,
    depth: int = 0,
    heads: int = 0,
    mlp_dim: int = 0,
    fusion_layer: int = -1,
    token_types: int = 2,
    pooler: bool = False,
    activation: str = "gelu",
    norm_eps: float = 1e-12,
    dropout: float = 0.0,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "Bert":
    """A BERT of a named size; a width, depth, heads or mlp_dim other than 0 overrides the size's.

    Args:
      vocab_size: of the tokenizer; required.
      length: the most tokens of a text.
      fusion_layer: the first layer with cross-attention to a video; -1 = none, 0 = all layers.
      The other keys are explained in `configs/parts.py`.

    Raises:
      UserError: an unknown size, no vocabulary, or numbers that do not fit together.
    """
    require("size", size, SIZES)
    require("activation", activation, ACTIVATIONS)
    preset = SIZES[size]
    width, depth, heads = width or preset[0], depth or preset[1], heads or preset[2]
    mlp_dim = mlp_dim or (preset[3] if width == preset[0] else 4 * width)
    check_sizes(vocab_size, width, heads)
    if not -1 <= fusion_layer < depth:
        raise UserError(
            f"fusion_layer {fusion_layer}: expected a layer from 0 to {depth - 1}, or -1 for none with fusion"
        )
    return Bert(
        vocab_size=vocab_size,
        length=length,
        width=width,
        depth=depth,
        heads=heads,
        mlp_dim=mlp_dim,
        text_layers=depth if fusion_layer < 0 else fusion_layer,
        token_types=token_types,
        pooler=pooler,
        activation=activation,
        norm_eps=norm_eps,
        dropout=dropout,
        precision=dot.resolve_precision(precision),
        remat=remat,
        unroll=unroll,
    )


class Bert(nn.Module):
    """A text encoder: `(text, text_mask=None, train=False) -> TextFeatures`; make one with `bert`.

    `__call__` runs the layers below `fusion_layer`, `fuse` the others, `predict` the language model's head. Whoever
    uses several of them initialises with `method="everything"`; otherwise only parameters of what was called exist.
    `pooled` is the first token, through a dense layer and tanh where `pooler`.

    Intermediates: "embed" [B,L,D] and, stacked over layers, "blocks/output" and "fusion_blocks/output".
    """

    vocab_size: int
    length: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    text_layers: int
    token_types: int = 2
    pooler: bool = False
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.0
    precision: str = "float32"
    remat: str = "none"
    unroll: int = 1

    def setup(self):
        self.words = Embedding(self.vocab_size, self.width, self.precision)
        self.positions = Positions(self.length, self.token_types, self.norm_eps)
        self.mlm = LanguageHead(self.vocab_size, self.activation, self.norm_eps, self.precision)
        if self.pooler:
            self.pool = Dense(self.width, precision=self.precision)
        layer = dict(
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            norm_eps=self.norm_eps,
            activation=self.activation,
            precision=self.precision,
        )
        for name, layers in (("blocks", self.text_layers), ("fusion_blocks", self.depth - self.text_layers)):
            if layers:
                stack = scanned(PostNormBlock, layers, self.remat, self.unroll, shared=2)
                setattr(self, name, stack(**layer))

    def __call__(
        self,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"] | None = None,
        train: bool = False,
        token_types: Int[Array, "B L"] | None = None,
    ) -> TextFeatures:
        """Encode texts.

        Args:
          text_mask: false where a token is padding, which no token sees; None = no padding.
          train: drop activations (rng "dropout").
          token_types: segment of each token; None = all of segment 0.
        """
        check_length(text, self.length)
        x = self.positions(self.words(text), token_types)
        self.sow("intermediates", "embed", x)
        x = _dropped(self, x, self.dropout if train and self.dropout else None)
        if self.text_layers:
            x, _ = self.blocks(x, self._rates(self.text_layers, train), _keys(text_mask), None)
        first = x[:, 0]
        return TextFeatures(x, jnp.tanh(self.pool(first)) if self.pooler else first)

    def fuse(
        self,
        text_tokens: Float[Array, "B L D"],
        text_mask: Bool[Array, "B L"] | None,
        video_tokens: Float[Array, "B N M"],
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        """Run the upper layers on a text's tokens, which look at the video's after they have looked at each other.

        Raises:
          UserError: the model has no fusion layers.
        """
        if self.text_layers == self.depth:
            raise UserError("this text encoder has no fusion layers: set its fusion_layer")
        rates = self._rates(self.depth - self.text_layers, train)
        x, _ = self.fusion_blocks(text_tokens, rates, _keys(text_mask), video_tokens)
        return x

    def _rates(self, layers: int, train: bool) -> Float[Array, "L"] | None:
        """The dropout rate of each layer; None (which is static) where nothing is dropped."""
        return jnp.full(layers, self.dropout) if train and self.dropout else None

    def predict(self, tokens: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Logits of the masked language model; the last product is with the table of word vectors."""
        return self.mlm(tokens, self.words)

    def everything(
        self,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"] | None = None,
        video_tokens: Float[Array, "B N M"] | None = None,
    ) -> Float[Array, "B L V"]:
        """Text layers, fusion layers where there are some, and head: for initialising all parameters."""
        tokens = self(text, text_mask).tokens
        if self.text_layers < self.depth:
            tokens = self.fuse(tokens, text_mask, video_tokens)
        return self.predict(tokens)


class Positions(nn.Module):
    """Adds learned positions and token types to word vectors, then normalises."""

    length: int
    token_types: int
    norm_eps: float

    @nn.compact
    def __call__(
        self, words: Float[Array, "B L D"], token_types: Int[Array, "B L"] | None
    ) -> Float[Array, "B L D"]:
        width = words.shape[-1]
        normal = nn.initializers.normal(0.02)
        x = words + self.param("pos", normal, (self.length, width))[: words.shape[1]].astype(words.dtype)
        if self.token_types:
            table = self.param("types", normal, (self.token_types, width))
            types = table[:1] if token_types is None else jnp.take(table, token_types, axis=0)
            x += types.astype(words.dtype)
        return Norm("layernorm", self.norm_eps, name="norm")(x)


class PostNormBlock(nn.Module):
    """A layer that normalises each sum: `x = LN(x + attn(x))`, with a video then its cross-attention, then the MLP."""

    heads: int
    mlp_dim: int
    norm_eps: float
    activation: str
    precision: str

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        rate: Float[Array, ""] | None,
        mask: Bool[Array, "B 1 1 L"] | None,
        video_tokens: Float[Array, "B N M"] | None,
    ) -> tuple[Array, None]:
        attend = Attention(self.heads, "qkv", precision=self.precision, name="attn")
        x = self._sum(x, attend(x, mask), rate, "norm1")
        if video_tokens is not None:
            look = CrossAttention(self.heads, self.precision, name="cross")
            x = self._sum(x, look(x, video_tokens), rate, "norm_cross")
        mlp = Mlp(self.mlp_dim, self.activation, self.precision, name="mlp")
        x = self._sum(x, mlp(x), rate, "norm2")
        self.sow("intermediates", "output", x)
        return x, None

    def _sum(self, x, branch, rate, norm):
        return Norm("layernorm", self.norm_eps, name=norm)(x + _dropped(self, branch, rate))


class LanguageHead(nn.Module):
    """Dense, activation and norm, then the product with the word vectors and a bias for each word."""

    vocab_size: int
    activation: str
    norm_eps: float
    precision: str

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], words: Embedding) -> Float[Array, "B L V"]:
        x = ACTIVATIONS[self.activation](Dense(x.shape[-1], precision=self.precision, name="dense")(x))
        logits = words.attend(Norm("layernorm", self.norm_eps, name="norm")(x))
        return logits + self.param("bias", nn.initializers.zeros, (self.vocab_size,)).astype(logits.dtype)


def _keys(text_mask: Bool[Array, "B L"] | None) -> Bool[Array, "B 1 1 L"] | None:
    """The padding mask of keys, for all heads and queries."""
    return None if text_mask is None else text_mask[:, None, None, :]


def _dropped(module: nn.Module, x: Float[Array, "B L D"], rate: Float[Array, ""] | float | None) -> Array:
    """Dropout of single values at a rate; None = none."""
    if rate is None:
        return x
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)

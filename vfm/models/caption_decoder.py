"""Caption decoders: transformers over text that look at a video's tokens by cross-attention.

Letters: B batch, L text positions, N video tokens, D width, E width of the video's tokens, H heads, S size of a
head, V words of the vocabulary, K layers, P places of a cache.

Sources: Tschannen et al. 2023, "Image Captioners Are Scalable Vision Learners Too" (CapPa, arXiv 2306.07915);
Yu et al. 2022, "CoCa: Contrastive Captioners are Image-Text Foundation Models" (arXiv 2205.01917).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from vfm.errors import UserError
from vfm.models.layers import Dense, Mlp, Norm, scanned
from vfm.ops import dot
from vfm.ops.attention import attention, causal_mask

Cache = dict[str, Any]
NORMAL = nn.initializers.normal(0.02)


def caption_decoder(
    vocab_size: int,
    width: int = 768,
    depth: int = 6,
    heads: int = 12,
    mlp_dim: int = 0,
    length: int = 64,
    text_depth: int = 0,
    norm: str = "layernorm",
    norm_eps: float = 1e-6,
    activation: str = "gelu",
    use_bias: bool = False,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "CaptionDecoder":
    """A decoder with `text_depth` layers over text alone (CoCa; CapPa has none) and `depth` that also see the video.

    Args:
      vocab_size: V; the table of embeddings has two more rows, `mask_id` = V and `start_id` = V + 1.
      mlp_dim: 0 = 4 * width.
      length: the most positions of a text, the start included.
      use_bias: of dense layers and norms.
    """
    if width % heads:
        raise UserError(f"caption decoder: heads {heads} do not divide width {width}; choose heads that do")
    return CaptionDecoder(
        vocab_size=vocab_size,
        width=width,
        depth=depth,
        heads=heads,
        mlp_dim=mlp_dim or 4 * width,
        length=length,
        text_depth=text_depth,
        norm=norm,
        norm_eps=norm_eps,
        activation=activation,
        use_bias=use_bias,
        precision=dot.resolve_precision(precision),
        remat=remat,
        unroll=unroll,
    )


class SelfAttention(nn.Module):
    """Attention of text positions to text positions, those of a cache included."""

    heads: int
    use_bias: bool
    precision: str

    @nn.compact
    def __call__(self, x, mask, cache: Cache | None, place) -> tuple[Float[Array, "B L D"], Cache]:
        y = Dense(3 * x.shape[-1], self.use_bias, precision=self.precision, name="qkv")(x)
        q, k, v = jnp.unstack(rearrange(y, "b l (n h s) -> b l n h s", n=3, h=self.heads), axis=2)
        new = {}
        if cache is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache["k"], k.astype(cache["k"].dtype), place, 1)
            v = jax.lax.dynamic_update_slice_in_dim(cache["v"], v.astype(cache["v"].dtype), place, 1)
            new = {"k": k, "v": v}
        y = rearrange(attention(q, k, v, mask=mask), "b l h s -> b l (h s)")
        return Dense(x.shape[-1], self.use_bias, precision=self.precision, name="proj")(y), new


class CrossAttention(nn.Module):
    """Attention of text positions to a video's tokens, or to keys and values of them that a cache holds."""

    heads: int
    use_bias: bool
    precision: str

    @nn.compact
    def __call__(self, x, memory, cache: Cache | None) -> tuple[Float[Array, "B L D"], Cache]:
        width = x.shape[-1]
        q = Dense(width, self.use_bias, precision=self.precision, name="q")(x)
        if memory is None:
            k, v = cache["memory_k"], cache["memory_v"]
        else:
            y = Dense(2 * width, self.use_bias, precision=self.precision, name="kv")(memory)
            k, v = jnp.unstack(rearrange(y, "b n (j h s) -> b n j h s", j=2, h=self.heads), axis=2)
        y = attention(rearrange(q, "b l (h s) -> b l h s", h=self.heads), k, v)
        y = rearrange(y, "b l h s -> b l (h s)")
        out = Dense(width, self.use_bias, precision=self.precision, name="proj")(y)
        return out, {} if cache is None else {"memory_k": k, "memory_v": v}


class CaptionLayer(nn.Module):
    """A pre-norm layer: self-attention, where `cross` is set cross-attention, MLP."""

    heads: int
    mlp_dim: int
    cross: bool
    norm: str
    norm_eps: float
    activation: str
    use_bias: bool
    precision: str

    @nn.compact
    def __call__(self, x, cache: Cache | None, mask, memory, place) -> tuple[Array, Cache | None]:
        def normed(x, name):
            return Norm(self.norm, self.norm_eps, self.use_bias, name=name)(x)

        shared = dict(heads=self.heads, use_bias=self.use_bias, precision=self.precision)
        y, new = SelfAttention(**shared, name="attn")(normed(x, "norm1"), mask, cache, place)
        x += y
        if self.cross:
            y, seen = CrossAttention(**shared, name="cross")(normed(x, "norm_cross"), memory, cache)
            x, new = x + y, new | seen
        mlp = Mlp(self.mlp_dim, self.activation, self.precision, use_bias=self.use_bias, name="mlp")
        return x + mlp(normed(x, "norm2")), None if cache is None else new


class CaptionDecoder(nn.Module):
    """Text and a video's tokens to hidden states and logits; make one with `caption_decoder`.

    With text layers there is a class token behind the text, which sees all of it: the text's embedding (CoCa).
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    length: int
    text_depth: int
    norm: str
    norm_eps: float
    activation: str
    use_bias: bool
    precision: str
    remat: str
    unroll: int

    @property
    def mask_id(self) -> int:
        """Stands for every input in parallel prediction."""
        return self.vocab_size

    @property
    def start_id(self) -> int:
        """Stands in front of every text."""
        return self.vocab_size + 1

    def setup(self) -> None:
        self.embed = self.param("embed", NORMAL, (self.vocab_size + 2, self.width))
        self.pos = self.param("pos", NORMAL, (self.length, self.width))
        if self.text_depth:
            self.cls_token = self.param("cls_token", NORMAL, (1, self.width))
            self.text_blocks = self._layers(self.text_depth, cross=False)
            self.text_norm = Norm(self.norm, self.norm_eps, self.use_bias)
        self.blocks = self._layers(self.depth, cross=True)
        self.final_norm = Norm(self.norm, self.norm_eps, self.use_bias)
        # Zero at first, so that training starts from the uniform distribution (CapPa).
        self.head = Dense(
            self.vocab_size, use_bias=False, kernel_init=nn.initializers.zeros, precision=self.precision
        )

    def _layers(self, depth: int, cross: bool) -> nn.Module:
        return scanned(CaptionLayer, depth, self.remat, self.unroll, shared=3)(
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            cross=cross,
            norm=self.norm,
            norm_eps=self.norm_eps,
            activation=self.activation,
            use_bias=self.use_bias,
            precision=self.precision,
        )

    def __call__(
        self,
        ids: Int[Array, "B L"],
        memory: Float[Array, "B N E"],
        mask: Bool[Array, "B _ L L"] | None = None,
    ) -> Float[Array, "B L V"]:
        """Logits, of which those at i are of the token after input i; arguments as in `hidden`."""
        if self.text_depth:
            self.read(ids, jnp.ones(ids.shape, bool))  # so that initialisation meets every parameter
        return self.logits(self.hidden(ids, memory, mask))

    def hidden(
        self,
        ids: Int[Array, "B L"],
        memory: Float[Array, "B N E"],
        mask: Bool[Array, "B _ L L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Hidden states, normalised for the head.

        Args:
          mask: which position sees which; None = those up to itself.
        """
        x, mask = self._embed(ids, 0), causal_mask(ids.shape[1]) if mask is None else mask
        if self.text_depth:
            x, _ = self.text_blocks(x, None, mask, None, None)
        return self.attend(x, memory, mask)

    def read(
        self, ids: Int[Array, "B L"], mask: Bool[Array, "B L"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B D"]]:
        """Text alone: tokens, each of which saw those before it, and the class token, which saw all in `mask`."""
        x = self._embed(ids, 0)
        cls = jnp.broadcast_to(self.cls_token.astype(x.dtype), (len(x), 1, self.width))
        tokens = causal_mask(ids.shape[1], ids.shape[1] + 1)
        whole = jnp.pad(mask, ((0, 0), (0, 1)), constant_values=True)[:, None, None]
        tokens = jnp.broadcast_to(tokens, (len(x), *tokens.shape[1:]))
        x, _ = self.text_blocks(
            jnp.concatenate([x, cls], axis=1), None, jnp.concatenate([tokens, whole], axis=2), None, None
        )
        return x[:, :-1], self.text_norm(x[:, -1])

    def attend(
        self, x: Float[Array, "B L D"], memory: Float[Array, "B N E"], mask: Bool[Array, "B _ L L"]
    ) -> Float[Array, "B L D"]:
        """The layers that see the video, on embeddings or on what `read` makes of them; normalised for the head."""
        x, _ = self.blocks(x, None, mask, memory, None)
        return self.final_norm(x)

    def logits(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Logits of hidden states in float32."""
        return self.head(hidden).astype(jnp.float32)

    @nn.nowrap
    def empty_cache(self, batch: int, memory_tokens: int) -> Cache:
        """A cache of `length` places for `extend`; the batch axis of its arrays is 1, "place" is shared by all rows."""
        dtype = dot.activation_dtype(self.precision)

        def zeros(depth, places):
            return jnp.zeros((depth, batch, places, self.heads, self.width // self.heads), dtype)

        cache: Cache = {"place": jnp.zeros((), jnp.int32)}
        if self.text_depth:
            cache["text"] = {name: zeros(self.text_depth, self.length) for name in ("k", "v")}
        cache["blocks"] = {name: zeros(self.depth, self.length) for name in ("k", "v")}
        cache["blocks"] |= {name: zeros(self.depth, memory_tokens) for name in ("memory_k", "memory_v")}
        return cache

    def extend(
        self, cache: Cache, ids: Int[Array, "B L"], memory: Float[Array, "B N E"] | None = None
    ) -> tuple[Float[Array, "B L V"], Cache]:
        """Logits after each of `ids`, which go on where the cache ends, and the longer cache.

        Args:
          memory: the video's tokens, in the first call; later ones take their keys and values from the cache.
        """
        place = cache["place"]
        mask = causal_mask(ids.shape[1], self.length, start=place)
        x, new = self._embed(ids, place), {"place": place + ids.shape[1]}
        if self.text_depth:
            x, new["text"] = self.text_blocks(x, cache["text"], mask, None, place)
        x, new["blocks"] = self.blocks(x, cache["blocks"], mask, memory, place)
        return self.logits(self.final_norm(x)), new

    def _embed(self, ids: Int[Array, "B L"], place: Int[Array, ""] | int) -> Float[Array, "B L D"]:
        if ids.shape[1] > self.length:
            raise UserError(
                f"caption decoder: a text of {ids.shape[1]} positions is longer than its length {self.length}; "
                "set objective.decoder.length higher or data.text.length lower"
            )
        x = jnp.take(self.embed, ids, axis=0)
        x += jax.lax.dynamic_slice_in_dim(self.pos, place, ids.shape[1])
        return x.astype(dot.activation_dtype(self.precision))


def query_pool(
    width: int = 768,
    queries: int = 1,
    heads: int = 8,
    norm_eps: float = 1e-6,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "QueryPool":
    """CoCa's pooler, to `width` channels; a layer this small needs neither `remat` nor `unroll`."""
    del remat, unroll
    if width % heads:
        raise UserError(f"pool: heads {heads} do not divide width {width}; choose heads that do")
    return QueryPool(width, queries, heads, norm_eps, dot.resolve_precision(precision))


class QueryPool(nn.Module):
    """Attention of learned queries to normalised tokens, then a norm: one query for contrast, many for captions.

    `tokens [B,N,E] -> [B,Q,width]`; the tokens of a clip's frames are one sequence (VideoCoCa).
    """

    width: int
    queries: int
    heads: int
    norm_eps: float
    precision: str

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N E"]) -> Float[Array, "B Q D"]:
        query = self.param("query", NORMAL, (self.queries, self.width)).astype(tokens.dtype)
        query = jnp.broadcast_to(query, (len(tokens), *query.shape))
        query = Norm("layernorm", self.norm_eps, name="norm_q")(query)
        tokens = Norm("layernorm", self.norm_eps, name="norm_kv")(tokens)
        attend = CrossAttention(self.heads, True, self.precision, name="attn")
        return Norm("layernorm", self.norm_eps, name="norm")(attend(query, tokens, None)[0])

"""Poolers: from all tokens of a video to a few vectors, by learned queries.

Letters: B batch, N tokens, D width, Q queries, H heads, S size of a head.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from vfm.errors import UserError
from vfm.models.layers import NORMS, Dense, Mlp, Norm, require
from vfm.ops import dot
from vfm.ops.attention import attention, attention_weights

NORMAL = nn.initializers.truncated_normal(0.02)


def heads_of(width: int) -> int:
    """The most heads of at least 64 channels that divide `width`; 1 below 128 channels."""
    return max(heads for heads in range(1, max(width // 64, 1) + 1) if width % heads == 0)


class AttentivePooler(nn.Module):
    """One cross-attention block from learned queries: the attentive probe of V-JEPA (Bardes et al. 2024).

    `x + CA(x, LN(tokens))`, then `x + MLP(LN(x))`, where x starts as the learned queries.

    heads: 0 = chosen by width (`heads_of`).
    projection: an output projection after the attention (V-JEPA's probe has none).
    """

    queries: int = 1
    heads: int = 0
    mlp_ratio: float = 4.0
    projection: bool = False
    norm_eps: float = 1e-6
    precision: str = "float32"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], mask: Bool[Array, "B N"] | None = None
    ) -> Float[Array, "B Q D"]:
        """Pool tokens; `mask` is false where a token is padding.

        Raises:
          UserError: the heads do not divide the width.
        """
        width = tokens.shape[-1]
        heads = self.heads or heads_of(width)
        if width % heads:
            raise UserError(f"pooler: heads {heads} do not divide width {width}; choose heads that do")
        query = self.param("query", NORMAL, (self.queries, width))
        x = query + self._cross_attention(query, tokens, mask, heads)
        y = Norm("layernorm", self.norm_eps, name="norm2")(x)
        return x + Mlp(int(width * self.mlp_ratio), precision=self.precision, kernel_init=NORMAL, name="mlp")(
            y
        )

    def _cross_attention(self, query, tokens, mask, heads) -> Float[Array, "B Q D"]:
        """Attention to `LN(tokens)`, with the tokens entering two products only.

        Keys and values are linear in the normalised tokens, so their kernels (and the norm's scale) are moved to
        the few queries' side: H*Q products of width D for a token instead of 2*D, and where many poolers are
        trained at once (vmap) nothing of the size of the tokens is different from one to the next. A key bias
        would add the same to all logits of a query and cancel, so there is none.
        """
        width = tokens.shape[-1]
        dtype = dot.activation_dtype(self.precision)
        scale, shift = _Parameters(
            {"scale": (nn.initializers.ones, (width,)), "bias": (nn.initializers.zeros, (width,))},
            name="norm1",
        )()
        key, value, value_bias = _Parameters(
            {
                "k": (NORMAL, (width, width)),
                "v": (NORMAL, (width, width)),
                "v_bias": (nn.initializers.zeros, (width,)),
            },
            name="kv",
        )()
        q = Dense(width, kernel_init=NORMAL, precision=self.precision, name="q")(query).astype(jnp.float32)
        q = rearrange(q, "q (h s) -> q h s", h=heads) * (width // heads) ** -0.5
        key, value = (rearrange(kernel, "d (h s) -> d h s", h=heads) for kernel in (key, value))
        q = jnp.einsum("qhs,dhs->qhd", q, key) * scale

        normal = _standardised(tokens, self.norm_eps).astype(dtype)
        logits = jnp.einsum("bnd,qhd->bqhn", normal, q.astype(dtype), preferred_element_type=jnp.float32)
        if mask is not None:
            logits = jnp.where(mask[:, None, None, :], logits, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(dtype)
        seen = jnp.einsum("bqhn,bnd->bqhd", weights, normal, preferred_element_type=jnp.float32)
        y = jnp.einsum("bqhd,dhs->bqhs", seen * scale + shift, value)
        y = rearrange(y, "b q h s -> b q (h s)") + value_bias
        return (
            Dense(width, kernel_init=NORMAL, precision=self.precision, name="proj")(y)
            if self.projection
            else y
        )


def attention_pool(
    width: int = 768,
    heads: int = 16,
    norm_eps: float = 1e-5,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "AttentionPool":
    """InternVideo2's pool: `width` is that of the result; a layer this small needs neither `remat` nor `unroll`."""
    del remat, unroll
    return AttentionPool(width, heads, norm_eps, dot.resolve_precision(precision))


class AttentionPool(nn.Module):
    """Attention whose query is the mean of all tokens, then a projection; no residual, no MLP (InternVideo2).

    `(tokens [B,N,D], cls [B,D] or None) -> [B,width]`; queries, keys and values have norms of their own.
    Intermediates: "weights" [B,N+1 or N], the attention of all tokens (class token first), averaged over heads.
    """

    width: int
    heads: int
    norm_eps: float = 1e-5
    precision: str = "float32"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], cls: Float[Array, "B D"] | None = None
    ) -> Float[Array, "B O"]:
        """Pool tokens.

        Raises:
          UserError: the heads do not divide the tokens' width.
        """
        if tokens.shape[-1] % self.heads:
            raise UserError(
                f"pool: heads {self.heads} do not divide the width {tokens.shape[-1]} of tokens; choose heads that do"
            )
        x = tokens if cls is None else jnp.concatenate([cls[:, None], tokens], axis=1)
        seen = dict(q=x.astype(jnp.float32).mean(1, keepdims=True).astype(x.dtype), k=x, v=x)
        q, k, v = (
            rearrange(
                Dense(x.shape[-1], kernel_init=NORMAL, precision=self.precision, name=name)(
                    Norm("layernorm", self.norm_eps, name=f"norm_{name}")(inputs)
                ),
                "b n (h d) -> b n h d",
                h=self.heads,
            )
            for name, inputs in seen.items()
        )
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", attention_weights(q, k)[:, 0])
        y = rearrange(attention(q, k, v), "b 1 h d -> b (h d)")
        return Dense(self.width, kernel_init=NORMAL, precision=self.precision, name="proj")(y)


def map_pool(
    heads: int = 0,
    mlp_dim: int = 0,
    activation: str = "gelu_tanh",
    norm_eps: float = 1e-6,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "MapPool":
    """SigLIP's pool, as wide as the tokens; a layer this small needs neither `remat` nor `unroll`.

    heads, mlp_dim: 0 = chosen by the tokens' width (`heads_of`, and 4 times the width).
    """
    del remat, unroll
    return MapPool(heads, mlp_dim, activation, norm_eps, dot.resolve_precision(precision))


class MapPool(nn.Module):
    """Multi-head attention pooling: a learned query attends to all tokens, then `x + MLP(LN(x))` (SigLIP).

    `(tokens [B,N,D], cls [B,D] or None) -> [B,D]`; the query itself is no residual of the attention.
    """

    heads: int = 0
    mlp_dim: int = 0
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-6
    precision: str = "float32"

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        cls: Float[Array, "B D"] | None = None,
        mask: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B D"]:
        """Pool tokens, and the class token where there is one; `mask` is false where a token is padding.

        Raises:
          UserError: the heads do not divide the width.
        """
        if cls is not None:
            tokens = jnp.concatenate([tokens, cls[:, None]], axis=1)
            mask = None if mask is None else jnp.pad(mask, ((0, 0), (0, 1)), constant_values=True)
        width = tokens.shape[-1]
        heads = self.heads or heads_of(width)
        if width % heads:
            raise UserError(f"pool: heads {heads} do not divide the width {width} of tokens; choose others")
        # One kernel for queries, keys and values, as published files have it; the query needs its first third only.
        xavier = nn.initializers.xavier_uniform()
        kernel, bias = _Parameters(
            {"kernel": (xavier, (width, 3 * width)), "bias": (nn.initializers.zeros, (3 * width,))},
            name="qkv",
        )()
        query = self.param("query", xavier, (1, width)).astype(tokens.dtype)
        q = dot.matmul(query, kernel[:, :width], self.precision) + bias[:width].astype(tokens.dtype)
        kv = dot.matmul(tokens, kernel[:, width:], self.precision) + bias[width:].astype(tokens.dtype)
        k, v = jnp.unstack(rearrange(kv, "b n (k h d) -> b n k h d", k=2, h=heads), axis=2)
        q = jnp.broadcast_to(rearrange(q, "n (h d) -> n h d", h=heads), (len(tokens), 1, *k.shape[2:]))
        y = attention(q, k, v, mask=None if mask is None else mask[:, None, None, :])
        x = Dense(width, precision=self.precision, name="proj")(rearrange(y, "b 1 h d -> b (h d)"))
        mlp = Mlp(self.mlp_dim or 4 * width, self.activation, self.precision, name="mlp")
        return x + mlp(Norm("layernorm", self.norm_eps, name="norm")(x))


def mean_pool(
    norm: str = "none",
    norm_eps: float = 1e-6,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "MeanPool":
    """The mean over tokens, then a norm: none | layernorm (Unmasked Teacher) | rmsnorm."""
    del precision, remat, unroll
    require("norm", norm, ("none", *NORMS))
    return MeanPool(norm, norm_eps)


class MeanPool(nn.Module):
    """`(tokens [B,N,D], cls or None) -> [B,D]`: the mean of the tokens, without the class token, then a norm."""

    norm: str = "none"
    norm_eps: float = 1e-6

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], cls: Float[Array, "B D"] | None = None
    ) -> Float[Array, "B D"]:
        del cls
        x = tokens.astype(jnp.float32).mean(1)
        return x if self.norm == "none" else Norm(self.norm, self.norm_eps, name="norm")(x)


def cls_pool(precision: str = "float32", remat: str = "none", unroll: int = 1) -> "ClsPool":
    """The encoder's class token."""
    del precision, remat, unroll
    return ClsPool()


class ClsPool(nn.Module):
    """`(tokens [B,N,D], cls [B,D]) -> [B,D]`: the class token, as it is."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], cls: Float[Array, "B D"] | None = None
    ) -> Float[Array, "B D"]:
        """The class token.

        Raises:
          UserError: the encoder has none.
        """
        if cls is None:
            raise UserError(
                "pool 'cls_pool': the encoder has no class token; set its cls_token, or another pool"
            )
        return cls


class _Parameters(nn.Module):
    """Named parameters without a computation of their own: name -> (initializer, shape)."""

    shapes: dict

    @nn.compact
    def __call__(self) -> list[Array]:
        return [self.param(name, init, shape) for name, (init, shape) in self.shapes.items()]


def _standardised(x: Float[Array, "B N D"], eps: float) -> Float[Array, "B N D"]:
    """LayerNorm without scale and bias."""
    x = x.astype(jnp.float32)
    x -= x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)

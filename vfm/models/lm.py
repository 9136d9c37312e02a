"""A decoder-only language model, in the form of LLaMA and Qwen2, that takes tokens or embeddings.

Letters: B batch, N tokens, M places of the cache, D width, H heads of queries, G of keys and values, d size of a
head, V words of the vocabulary, L layers.

Sources: Touvron et al. 2023, "LLaMA" (arXiv 2302.13971); Qwen team 2024, "Qwen2" (arXiv 2407.10671).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from vfm.errors import UserError
from vfm.models.layers import ACTIVATIONS, Dense, Embedding, Norm, require, scanned
from vfm.ops import dot, rope
from vfm.ops.attention import attention

SIZES = {  # width, depth, heads, heads of keys and values, mlp_dim
    "ti": (192, 4, 3, 1, 512),
    "s": (384, 8, 6, 2, 1024),
    "b": (768, 12, 12, 4, 2048),
    "qwen2_0.5b": (896, 24, 14, 2, 4864),
    "tinyllama_1.1b": (2048, 22, 32, 4, 5632),
    "qwen2_1.5b": (1536, 28, 12, 2, 8960),
    "llama2_7b": (4096, 32, 32, 32, 11008),
    "qwen2_7b": (3584, 28, 28, 4, 18944),
    "llama3_8b": (4096, 32, 32, 8, 14336),
}
UNSEEN = 2**30  # a block after all others: what no query sees


class Cache(NamedTuple):
    """Keys and values of the tokens so far, in places of which a fixed number exist."""

    keys: Float[Array, "L B M G d"]
    values: Float[Array, "L B M G d"]
    blocks: Int[Array, "B M"]  # a token sees blocks up to its own; UNSEEN = padding, or an empty place
    block: Int[Array, "B"]  # of the newest token
    position: Int[Array, "B"]  # of the next token
    length: Int[Array, ""]  # places in use, the same for all rows

    def without_last(self) -> "Cache":
        """The cache before its last token, which must not be padding, was put in."""
        return self._replace(position=self.position - 1, length=self.length - 1)


CACHE_AXES = Cache(keys=1, values=1, blocks=0, block=0, position=0, length=-1)  # of the batch, for `decode`


def lm(
    vocab_size: int = 0,
    size: str = "ti",
    width: int = 0,
    depth: int = 0,
    heads: int = 0,
    kv_heads: int = 0,
    head_dim: int = 0,
    mlp_dim: int = 0,
    rope_theta: float = 10_000.0,
    norm_eps: float = 1e-6,
    qkv_bias: bool = False,
    tied: bool = True,
    activation: str = "silu",
    lora_rank: int = 0,
    lora_alpha: float = 32.0,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "LM":
    """A language model of a named size; a number other than 0 overrides the size's.

    The keys are explained in `configs/parts.py`.

    Raises:
      UserError: no vocabulary size, or numbers that do not divide.
    """
    require("size", size, SIZES)
    require("activation", activation, ACTIVATIONS)
    if vocab_size < 1:
        raise UserError(f"lm: vocab_size {vocab_size}; set it to the number of the tokenizer's ids")
    preset = SIZES[size]
    same = not width or width == preset[0]
    width, depth, heads = width or preset[0], depth or preset[1], heads or preset[2]
    kv_heads = kv_heads or (preset[3] if heads == preset[2] else heads)
    mlp_dim = mlp_dim or (preset[4] if same else -(-8 * width // 24) * 8)
    if heads % kv_heads or (width % heads and not head_dim):
        raise UserError(
            f"lm: kv_heads {kv_heads} must divide heads {heads}, and heads the width {width} unless head_dim is set"
        )
    head_dim = head_dim or width // heads
    if head_dim % 2:
        raise UserError(
            f"lm: a head of {head_dim} channels is odd, and rotary positions turn pairs; choose other heads"
        )
    return LM(
        vocab_size=vocab_size,
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_dim=mlp_dim,
        rope_theta=rope_theta,
        norm_eps=norm_eps,
        qkv_bias=qkv_bias,
        tied=tied,
        activation=activation,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        precision=dot.resolve_precision(precision),
        remat=remat,
        unroll=unroll,
    )


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions, over the tokens given or over those of a cache as well."""

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool
    dense: Callable[..., nn.Module]  # (features, use_bias, kernel_init, name) -> Dense
    branches: int

    @nn.compact
    def __call__(self, x, stored, cos, sin, mask, start):
        q, k, v = (
            rearrange(
                self.dense(heads * self.head_dim, self.qkv_bias, fan_in(1), name=name)(x),
                "b n (h d) -> b n h d",
                h=heads,
            )
            for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads))
        )
        q, k = rope.rotate(q, cos, sin), rope.rotate(k, cos, sin)
        if stored is not None:
            k, v = stored = tuple(
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)
                for old, new in zip(stored, (k, v), strict=True)
            )
        y = rearrange(attention(q, k, v, mask=mask), "b n h d -> b n (h d)")
        return self.dense(x.shape[-1], False, fan_in(self.branches), name="proj")(y), stored


class GatedMlp(nn.Module):
    """`fc2(activation(gate x) * fc1 x)`: SwiGLU where the activation is SiLU (Shazeer 2020)."""

    hidden: int
    activation: str
    dense: Callable[..., nn.Module]
    branches: int

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        gate = ACTIVATIONS[self.activation](self.dense(self.hidden, False, fan_in(1), name="gate")(x))
        y = gate * self.dense(self.hidden, False, fan_in(1), name="fc1")(x)
        return self.dense(x.shape[-1], False, fan_in(self.branches), name="fc2")(y)


class Layer(nn.Module):
    """`x + attn(norm1 x)`, then `x + mlp(norm2 x)`.

    Called as `(x, stored, cos, sin, mask, start) -> (x, stored)`: `stored` are the cache's keys and values of this
    layer, those of x put in from place `start` on, or None.
    """

    heads: int
    kv_heads: int
    head_dim: int
    mlp_dim: int
    depth: int
    norm_eps: float
    qkv_bias: bool
    activation: str
    lora_rank: int
    lora_alpha: float
    precision: str

    @nn.compact
    def __call__(self, x, stored, cos, sin, mask, start):
        dense = functools.partial(
            Dense, precision=self.precision, lora_rank=self.lora_rank, lora_alpha=self.lora_alpha
        )
        branches = 2 * self.depth
        norm = functools.partial(Norm, "rmsnorm", self.norm_eps)
        attend = SelfAttention(
            self.heads, self.kv_heads, self.head_dim, self.qkv_bias, dense, branches, name="attn"
        )
        y, stored = attend(norm(name="norm1")(x), stored, cos, sin, mask, start)
        x += y
        x += GatedMlp(self.mlp_dim, self.activation, dense, branches, name="mlp")(norm(name="norm2")(x))
        self.sow("intermediates", "output", x)
        return x, stored


class Kernel(nn.Module):
    """The kernel of a product that somebody else computes."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> Float[Array, "I O"]:
        return self.param("kernel", fan_in(1), self.shape)


def fan_in(branches: int) -> nn.initializers.Initializer:
    """Normal of variance 1 / inputs, smaller for each of `branches` that the residual stream sums up."""
    return nn.initializers.variance_scaling(1.0 / branches, "fan_in", "normal")


class LM(nn.Module):
    """A language model: `(ids or embeddings, ...) -> (logits, cache)`; make one with `lm`.

    A token sees its own block and earlier ones. Each token is a block of its own (causal), but those in `prefix`
    stay in the block of the token before them: so a leading prefix sees itself in both directions, and nothing
    after it (prefix-LM: Raffel et al. 2020; PaliGemma, Beyer et al. 2024).

    Intermediates: "blocks/output" [L,B,N,D].
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_dim: int
    rope_theta: float
    norm_eps: float
    qkv_bias: bool
    tied: bool
    activation: str
    lora_rank: int
    lora_alpha: float
    precision: str
    remat: str
    unroll: int

    def setup(self):
        self.words = Embedding(self.vocab_size, self.width, self.precision)
        self.blocks = scanned(Layer, self.depth, self.remat, self.unroll, shared=4)(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            depth=self.depth,
            norm_eps=self.norm_eps,
            qkv_bias=self.qkv_bias,
            activation=self.activation,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            precision=self.precision,
        )
        self.norm = Norm("rmsnorm", self.norm_eps)
        if not self.tied:
            self.head = Kernel((self.width, self.vocab_size))

    def __call__(
        self,
        tokens: Int[Array, "B N"] | Float[Array, "B N D"],
        mask: Bool[Array, "B N"] | None = None,
        prefix: Bool[Array, "B N"] | None = None,
        cache: Cache | None = None,
        positions: Int[Array, "B N"] | None = None,
    ) -> tuple[Float[Array, "B N V"], Cache | None]:
        """Logits in float32 of the token after each one, and the cache with these tokens; see `hidden`."""
        hidden, cache = self.hidden(tokens, mask, prefix, cache, positions)
        return self.logits(hidden), cache

    def embed(self, ids: Int[Array, "B N"]) -> Float[Array, "B N D"]:
        """Embeddings of tokens, to be joined with those of a video."""
        return self.words(ids)

    def hidden(
        self,
        tokens: Int[Array, "B N"] | Float[Array, "B N D"],
        mask: Bool[Array, "B N"] | None = None,
        prefix: Bool[Array, "B N"] | None = None,
        cache: Cache | None = None,
        positions: Int[Array, "B N"] | None = None,
    ) -> tuple[Float[Array, "B N D"], Cache | None]:
        """What logits are made of.

        Args:
          tokens: ids, or embeddings.
          mask: false at padding, which nothing sees and which takes up no position; None = no padding.
          prefix: true where a token belongs to the block of the one before it; None = causal.
          cache: of the tokens before these, with places for these (they are not counted: more than it has is a
            mistake of the caller); None = there are none.
          positions: for the rotation; None = each token's number in its row.
        """
        x = tokens if jnp.issubdtype(tokens.dtype, jnp.floating) else self.embed(tokens)
        x = x.astype(dot.activation_dtype(self.precision))
        valid = jnp.ones(x.shape[:2], bool) if mask is None else mask
        steps = jnp.cumsum(valid if prefix is None else valid & ~prefix, axis=1, dtype=jnp.int32)
        counts = jnp.cumsum(valid, axis=1, dtype=jnp.int32)
        if cache is None:
            blocks = steps
            seen = jnp.where(valid, blocks, UNSEEN)
            before = jnp.zeros((), jnp.int32)
        else:
            blocks, before = cache.block[:, None] + steps, cache.position[:, None]
            seen = jax.lax.dynamic_update_slice_in_dim(
                cache.blocks, jnp.where(valid, blocks, UNSEEN), cache.length, axis=1
            )
        if positions is None:
            positions = before + jnp.maximum(counts - 1, 0)
        cos, sin = rope.angles(positions, self.head_dim, self.rope_theta)
        sees = seen[:, None, None, :] <= blocks[:, None, :, None]
        stored, start = (None, None) if cache is None else ((cache.keys, cache.values), cache.length)
        x, stored = self.blocks(x, stored, cos, sin, sees, start)
        if cache is not None:
            cache = Cache(
                *stored,
                blocks=seen,
                block=blocks[:, -1],
                position=cache.position + counts[:, -1],
                length=cache.length + x.shape[1],
            )
        return self.norm(x), cache

    def logits(self, hidden: Float[Array, "B N D"]) -> Float[Array, "B N V"]:
        """Logits in float32."""
        return dot.matmul(hidden, self.output_kernel(), self.precision).astype(jnp.float32)

    def output_kernel(self) -> Float[Array, "D V"]:
        """What hidden states are multiplied by: the embedding itself where it is tied."""
        return self.words.embedding.T if self.tied else self.head()

    @nn.nowrap
    def empty_cache(self, batch: int, places: int) -> Cache:
        """A cache of nothing, with places for so many tokens of each row."""
        dtype = dot.activation_dtype(self.precision)
        stored = jnp.zeros((self.depth, batch, places, self.kv_heads, self.head_dim), dtype)
        zeros = jnp.zeros(batch, jnp.int32)
        return Cache(
            stored,
            stored,
            jnp.full((batch, places), UNSEEN, jnp.int32),
            zeros,
            zeros,
            jnp.zeros((), jnp.int32),
        )

"""Layers that encoders, decoders and poolers share.

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens, K kept tokens, D width,
L layers.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from vfm.errors import UserError
from vfm.ops import dot
from vfm.ops.attention import attention, attention_weights
from vfm.ops.patches import Grid, patchify, take
from vfm.parts import nearest

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}
NORMS = ("layernorm", "rmsnorm")
QKV_BIASES = ("qv", "qkv", "none")
QK_NORMS_OVER = ("head", "all")
REMATS = ("none", "dots", "full")


def require(key: str, value: str, known) -> None:
    """UserError that names the nearest choice where `value` is not one of `known`."""
    if value not in known:
        raise UserError(f"{key} '{value}'{nearest(value, known)}: expected one of {', '.join(known)}")


class Dense(nn.Module):
    """`x @ kernel + bias` under the model's precision (`vfm.ops.dot`).

    With a `lora_rank`, `x @ lora_a @ lora_b * lora_alpha / lora_rank` is added (Hu et al. 2021, LoRA), which is 0
    at first. Rules on parameter paths decide whether the kernel learns as well.
    """

    features: int
    use_bias: bool = True
    kernel_init: Any = nn.initializers.xavier_uniform()
    precision: str = "float32"
    lora_rank: int = 0
    lora_alpha: float = 32.0

    @nn.compact
    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = dot.matmul(x, kernel, self.precision)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(y.dtype)
        if self.lora_rank:
            down = self.param("lora_a", nn.initializers.lecun_normal(), (x.shape[-1], self.lora_rank))
            up = self.param("lora_b", nn.initializers.zeros, (self.lora_rank, self.features))
            change = dot.matmul(dot.matmul(x, down, self.precision), up, self.precision)
            y += change * (self.lora_alpha / self.lora_rank)
        return y


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis; statistics and scaling in float32, the result in x's dtype."""

    kind: str = "layernorm"
    eps: float = 1e-6
    use_bias: bool = True  # of LayerNorm

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        require("norm", self.kind, NORMS)
        y = x.astype(jnp.float32)
        if self.kind == "layernorm":
            y -= y.mean(-1, keepdims=True)
        y *= jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        y *= self.param("scale", nn.initializers.ones, (x.shape[-1],))
        if self.kind == "layernorm" and self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return y.astype(x.dtype)


class Embedding(nn.Module):
    """A table of token vectors; `attend` gives logits over the same table (tied weights)."""

    vocab_size: int
    width: int
    precision: str = "float32"

    def setup(self):
        self.embedding = self.param("embedding", nn.initializers.normal(0.02), (self.vocab_size, self.width))

    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Vectors of token ids; NaN for an id that the table does not have."""
        found = jnp.take(self.embedding, ids, axis=0)
        return found.astype(dot.activation_dtype(self.precision))

    def attend(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Products with all vectors of the table."""
        return dot.matmul(x, self.embedding.T, self.precision)


class LayerScale(nn.Module):
    """A learned gain for each channel of a residual branch (CaiT)."""

    initial: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],))
        # In float32: the gains start at 1e-5, where a bfloat16 product loses a residual branch's last bits.
        return (x.astype(jnp.float32) * gamma).astype(x.dtype)


def drop_path(x: Float[Array, "B ..."], rate: Float[Array, ""], key: Array) -> Float[Array, "B ..."]:
    """Stochastic depth: zeroes a branch for whole samples with probability `rate` and rescales the others."""
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1.0 - rate).astype(x.dtype), 0)


class PatchEmbed(nn.Module):
    """Tubelets of `tubelet x patch x patch` pixels to tokens; only those in `keep` are ever multiplied.

    The kernel's rows are in (t p p c) order.
    """

    width: int
    tubelet: int
    patch: int
    precision: str = "float32"
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, video: Float[Array, "B T H W C"], keep: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B N D"]:
        patches = patchify(video, self.tubelet, self.patch)
        if keep is not None:
            patches = take(patches, keep)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (patches.shape[-1], self.width))
        y = dot.matmul(patches, kernel, self.precision)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.width,)).astype(y.dtype)
        return y


def token_grid(shape: tuple[int, ...], tubelet: int, patch: int) -> Grid:
    """The (T, H, W) token grid of a video of shape [..., T, H, W, C].

    Raises:
      UserError: the video is not divided by tubelets or patches.
    """
    frames, height, width = shape[-4:-1]
    if frames % tubelet or height % patch or width % patch:
        raise UserError(
            f"a video of {frames} frames of {height}x{width} pixels is not divided by tubelets of {tubelet} "
            f"frames and patches of {patch}x{patch} pixels; change data.frames and data.size, or the "
            f"encoder's tubelet and patch"
        )
    return frames // tubelet, height // patch, width // patch


class Attention(nn.Module):
    """Multi-head self-attention.

    qkv_bias: qv (queries and values have one: VideoMAE) | qkv | none.
    qk_norm: normalise queries and keys, each head apart or (qk_norm_over) all heads together, before the split.
    scale: of the logits; 0 = head size ** -0.5.
    weights: return instead what the first token attends to, averaged over heads [B,N] (needs no `proj`).
    """

    heads: int
    qkv_bias: str = "qkv"
    qk_norm: bool = False
    norm: str = "layernorm"
    norm_eps: float = 1e-6
    scale: float = 0.0
    precision: str = "float32"
    proj_bias: bool = True
    qk_norm_over: str = "head"
    weights: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], mask: Bool[Array, "B _ N N"] | None = None
    ) -> Float[Array, "B N D"]:
        require("qkv_bias", self.qkv_bias, QKV_BIASES)
        width = x.shape[-1]
        y = Dense(3 * width, self.qkv_bias == "qkv", precision=self.precision, name="qkv")(x)
        if self.qkv_bias == "qv":
            q_bias = self.param("q_bias", nn.initializers.zeros, (width,))
            v_bias = self.param("v_bias", nn.initializers.zeros, (width,))
            y += jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias]).astype(y.dtype)
        require("qk_norm_over", self.qk_norm_over, QK_NORMS_OVER)
        # What the norms see last: one head, or all of them.
        groups = self.heads if self.qk_norm_over == "head" else 1
        q, k, v = jnp.unstack(rearrange(y, "b n (k h d) -> b n k h d", k=3, h=groups), axis=2)
        if self.qk_norm:
            q = Norm(self.norm, self.norm_eps, name="q_norm")(q)
            k = Norm(self.norm, self.norm_eps, name="k_norm")(k)
        q, k, v = (z.reshape(*z.shape[:2], self.heads, -1) for z in (q, k, v))
        if self.weights:
            return attention_weights(q[:, :1], k, scale=self.scale or None)[:, 0]
        y = attention(q, k, v, mask=mask, scale=self.scale or None)
        return Dense(width, self.proj_bias, precision=self.precision, name="proj")(
            rearrange(y, "b n h d -> b n (h d)")
        )


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to other tokens, of a width M that may differ; all products have biases."""

    heads: int
    precision: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        context: Float[Array, "B K M"],
        mask: Bool[Array, "B _ N K"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Attend to `context`; `mask` is true where a query sees one of its tokens."""
        width = x.shape[-1]
        dense = functools.partial(Dense, precision=self.precision)
        q = rearrange(dense(width, name="q")(x), "b n (h d) -> b n h d", h=self.heads)
        kv = rearrange(dense(2 * width, name="kv")(context), "b n (k h d) -> b n k h d", k=2, h=self.heads)
        k, v = jnp.unstack(kv, axis=2)
        return dense(width, name="proj")(rearrange(attention(q, k, v, mask=mask), "b n h d -> b n (h d)"))


class Mlp(nn.Module):
    """Two dense layers with an activation between them."""

    hidden: int
    activation: str = "gelu"
    precision: str = "float32"
    kernel_init: Any = nn.initializers.xavier_uniform()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        require("activation", self.activation, ACTIVATIONS)
        dense = functools.partial(
            Dense, use_bias=self.use_bias, kernel_init=self.kernel_init, precision=self.precision
        )
        y = dense(self.hidden, name="fc1")(x)
        return dense(x.shape[-1], name="fc2")(ACTIVATIONS[self.activation](y))


class Block(nn.Module):
    """A pre-norm transformer layer: `x + drop_path(ls1(attn(norm1 x)))`, then the same with the MLP."""

    heads: int
    mlp_dim: int
    norm: str = "layernorm"
    norm_eps: float = 1e-6
    qkv_bias: str = "qv"
    qk_norm: bool = False
    qk_scale: float = 0.0
    layer_scale: float = 0.0
    activation: str = "gelu"
    precision: str = "float32"
    dropping: bool = False  # residual branches are dropped (training with a drop path rate)
    use_bias: bool = True  # of the output projection and the MLP
    qk_norm_over: str = "head"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], rate: Float[Array, ""], mask: Bool[Array, "B _ N N"] | None = None
    ) -> tuple[Array, None]:
        norm = functools.partial(Norm, self.norm, self.norm_eps)
        attend = Attention(
            self.heads,
            self.qkv_bias,
            self.qk_norm,
            self.norm,
            self.norm_eps,
            self.qk_scale,
            self.precision,
            self.use_bias,
            self.qk_norm_over,
            name="attn",
        )
        x += self._branch(attend(norm(name="norm1")(x), mask), rate, "ls1")
        mlp = Mlp(self.mlp_dim, self.activation, self.precision, use_bias=self.use_bias, name="mlp")
        x += self._branch(mlp(norm(name="norm2")(x)), rate, "ls2")
        self.sow("intermediates", "output", x)
        return x, None

    def _branch(self, y: Array, rate: Array, name: str) -> Array:
        if self.layer_scale:
            y = LayerScale(self.layer_scale, name=name)(y)
        return drop_path(y, rate, self.make_rng("dropout")) if self.dropping else y


class RecordingBlock(Block):
    """A layer that also keeps its output in a ring: `((x, ring [K,B,N,D], layer), rate) -> (the same, None)`.

    For networks without a gradient: where only the last K layers are asked for, the others' outputs take no memory.
    """

    @nn.compact
    def __call__(self, carry, rate, mask=None):
        x, ring, layer = carry
        x, _ = super().__call__(x, rate, mask)
        return (x, ring.at[layer % len(ring)].set(x), layer + 1), None


def scanned(
    layer: type[nn.Module], depth: int, remat: str = "none", unroll: int = 1, shared: int = 0
) -> type[nn.Module]:
    """The layer's class repeated `depth` times: `(x, [L] drop path rates) -> (x, None)`, like each layer.

    Parameters and intermediates are stacked over layers (leading axis L); compile time ignores the depth.

    Args:
      remat: what a layer recomputes in the backward pass: none | dots (all but products with weights) | full.
      unroll: layers in one turn of the loop; 0 = all.
      shared: further arguments after the rates, the same for all layers (a mask, what is attended to).
    """
    require("remat", remat, REMATS)
    if remat != "none":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
        # Inside a loop XLA cannot merge the recomputation with the original, so no barrier is needed there.
        layer = nn.remat(layer, policy=policy, prevent_cse=unroll != 1)
    return nn.scan(
        layer,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, *(nn.broadcast,) * shared),
        length=depth,
        unroll=unroll or depth,
    )


def drop_rates(rate: float, depth: int) -> Float[Array, "L"]:
    """Drop path rates that rise linearly from 0 in the first layer to `rate` in the last."""
    return jnp.linspace(0.0, rate, depth)

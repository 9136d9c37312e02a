"""Attention in one function, whatever kernel computes it.

Letters: B batch, N queries, M keys, H heads of queries, G of keys and values, D size of a head.
"""

import functools
import logging

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vfm.errors import UserError

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
NOT_SEEN = -1e30  # a logit in float32 that no real one comes near


def attention(
    q: Float[Array, "B N H D"],
    k: Float[Array, "B M G D"],
    v: Float[Array, "B M G D"],
    *,
    mask: Bool[Array, "B _ N M"] | None = None,
    scale: float | None = None,
    impl: str = "auto",
) -> Float[Array, "B N H D"]:
    """`softmax(scale * q k^T) v` for each head, the softmax in float32.

    With fewer heads of keys and values than of queries (grouped-query attention), head h of the queries reads head
    `h // (H / G)` of theirs.

    Args:
      mask: true where a query sees a key, for all heads (an axis of 1) or for each; axes of 1 are repeated. A query
        that sees no key gets the mean of all values.
      scale: of the logits; None = D ** -0.5.
      impl: xla | cudnn (NVIDIA, bfloat16 or float16) | auto = cudnn where it can run, else xla.

    Raises:
      UserError: `impl` is unknown, or is cudnn where it cannot run.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    chosen = _choose(impl, jax.default_backend(), jnp.dtype(q.dtype).name, q.shape[-1])
    if chosen == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, implementation="cudnn")
    groups = k.shape[2]
    if groups == q.shape[2]:
        return _xla(q, k, v, mask, scale)
    # The heads of a group become further queries of one head, so that keys and values are never repeated.
    size = q.shape[2] // groups
    q = rearrange(q, "b n (g r) d -> b (r n) g d", r=size)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], q.shape[1] // size, mask.shape[3]))
        if mask.shape[1] == 1:
            mask = jnp.tile(mask, (1, 1, size, 1))
        else:
            mask = rearrange(mask, "b (g r) n m -> b g (r n) m", r=size)
    return rearrange(_xla(q, k, v, mask, scale), "b (r n) g d -> b n (g r) d", r=size)


def causal_mask(
    queries: int,
    keys: int | None = None,
    start: Int[Array, ""] | int = 0,
    prefix: Int[Array, "B"] | None = None,
) -> Bool[Array, "B 1 N M"]:
    """A query sees the keys up to its own place and, with `prefix`, all of the first `prefix` keys (prefix-LM).

    Args:
      keys: M; None = as many as queries.
      start: place of the first query among the keys (queries that go on where a cache ends).
      prefix: length of each sample's prefix; None = plainly causal, with a batch axis of 1.
    """
    places = jnp.arange(queries)[:, None] + start
    key_places = jnp.arange(queries if keys is None else keys)
    mask = (key_places <= places)[None, None]
    return mask if prefix is None else mask | (key_places < prefix[:, None, None, None])


def attention_weights(
    q: Float[Array, "B N H D"], k: Float[Array, "B M H D"], *, scale: float | None = None
) -> Float[Array, "B N M"]:
    """The weights that `attention` gives to keys, averaged over heads, in float32."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    precision = lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    logits = jnp.einsum(
        "bnhd,bmhd->bhnm", q * scale, k, precision=precision, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits, axis=-1).mean(1)


@functools.cache  # so that each choice is logged once
def _choose(impl: str, backend: str, dtype: str, head_size: int) -> str:
    if impl not in IMPLEMENTATIONS:
        raise UserError(f"attention impl '{impl}': expected one of {', '.join(IMPLEMENTATIONS)}")
    runs = (
        backend in ("gpu", "cuda")
        and dtype in ("bfloat16", "float16")
        and head_size % 8 == 0
        and head_size <= 128
    )
    if impl == "cudnn" and not runs:
        raise UserError(
            f"attention impl 'cudnn' needs an NVIDIA GPU, bfloat16 or float16 and a head size that is a multiple "
            f"of 8 up to 128; found backend {backend}, {dtype}, head size {head_size}; use impl 'auto'"
        )
    chosen = "cudnn" if runs and impl != "xla" else "xla"
    logging.getLogger(__name__).info(
        "attention: %s for %s heads of size %d on %s", chosen, dtype, head_size, backend
    )
    return chosen


def _xla(q, k, v, mask, scale):
    """Softmax attention in plain operations.

    Weights are divided by their sum after they have multiplied the values: on CPU, where long sequences are bound
    by passes over the [N, M] weights, that is up to a fifth faster than a softmax before the product.
    """
    precision = lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    product = functools.partial(jnp.einsum, precision=precision, preferred_element_type=jnp.float32)
    logits = product("bnhd,bmhd->bhnm", q * scale, k)
    if mask is not None:
        # A finite number, so that a row without any key gives no NaN, neither here nor in its gradient.
        logits = jnp.where(mask, logits, NOT_SEEN)
    weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    y = product("bhnm,bmhd->bhnd", weights.astype(v.dtype), v) / total
    return rearrange(y, "b h n d -> b n h d").astype(v.dtype)

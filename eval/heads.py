"""Probe heads as pure functions on parameter dicts, so that a grid of them can be vmapped.

Axes: B clips, N tokens, D width, H heads, C classes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Params = dict[str, Any]
NORM_EPS = 1e-6


def linear_init(key: Array, width: int, classes: int) -> Params:
    """Zero logits at the start would make all seeds equal, so the kernel is small noise."""
    return {
        "kernel": 0.01 * jax.random.normal(key, (width, classes)),
        "bias": jnp.zeros(classes),
    }


def linear_apply(params: Params, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
    """Logits of pooled, standardised features."""
    return x @ params["kernel"] + params["bias"]


def attentive_init(key: Array, width: int, classes: int, mlp_ratio: float) -> Params:
    """Parameters of one cross-attention block with a single learned query, then a linear head."""
    keys = iter(jax.random.split(key, 7))
    hidden = int(width * mlp_ratio)

    def dense(rows: int, columns: int) -> Params:
        kernel = 0.02 * jax.random.truncated_normal(next(keys), -2, 2, (rows, columns))
        return {"kernel": kernel, "bias": jnp.zeros(columns)}

    def norm() -> Params:
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    return {
        "query": 0.02 * jax.random.truncated_normal(next(keys), -2, 2, (width,)),
        "norm_kv": norm(),
        "q": dense(width, width),
        "k": dense(width, width),
        "v": dense(width, width),
        "norm": norm(),
        "fc1": dense(width, hidden),
        "fc2": dense(hidden, width),
        "head": dense(width, classes),
    }


def _standardise(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + NORM_EPS)


def _norm(p: Params, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    return _standardise(x) * p["scale"] + p["bias"]


def _dense(p: Params, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
    return x @ p["kernel"] + p["bias"]


@partial(jax.jit, static_argnames="heads")
def attentive_apply(params: Params, tokens: Float[Array, "B N D"], heads: int) -> Float[Array, "B C"]:
    """Logits by attentive pooling: x = query + CA(query, LN(tokens)); x = x + MLP(LN(x)); linear.

    The block of V-JEPA's attentive probe (norm on keys and values only, no output projection). With one
    learned query, keys and values need not be made for each token: q . (W_k z) = (W_k^T q) . z gives one
    vector for each head, and sum_n a_n (W_v z_n) = W_v (sum_n a_n z_n). What is constant over tokens (the key
    bias, the norm's bias) leaves the softmax unchanged. So a token costs D*H operations instead of D*D.
    """
    width = tokens.shape[-1]
    z = _standardise(tokens)
    scale = params["norm_kv"]["scale"]
    query = _dense(params["q"], params["query"]).reshape(heads, -1)
    key = params["k"]["kernel"].reshape(width, heads, -1)
    folded = jnp.einsum("dhe,he->dh", key, query) * scale[:, None] * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.einsum("bnd,dh->bhn", z, folded), axis=-1)
    mixed = jnp.einsum("bhn,bnd->bhd", weights, z) * scale + params["norm_kv"]["bias"]
    value = params["v"]["kernel"].reshape(width, heads, -1)
    attended = jnp.einsum("bhd,dhe->bhe", mixed, value).reshape(-1, width) + params["v"]["bias"]
    x = params["query"] + attended
    hidden = jax.nn.gelu(_dense(params["fc1"], _norm(params["norm"], x)), approximate=False)
    x = x + _dense(params["fc2"], hidden)
    return _dense(params["head"], x)

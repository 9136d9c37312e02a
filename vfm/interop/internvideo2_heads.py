"""Classification heads around InternVideo2's pooled vector: plain, with a residual MLP, and the linear probe's.

Letters: B batch, N tokens, D width of tokens, P of the pooled vector, K classes.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vfm.interop.internvideo2_config import MERGES, Spec
from vfm.models.layers import Dense, Mlp, Norm

NORM = Norm("layernorm", 1e-5)
BATCH_NORM_EPS = 1e-6


def init(spec: Spec, rng: Any) -> dict[str, Any]:
    """Parameters of the head of a classifier; nothing for other models."""
    if not spec.classes:
        return {}
    pooled, width = spec.pool["width"], spec.encoder["width"]
    tree = {"fc_norm": NORM.init(rng, jnp.zeros((1, pooled)))["params"]}
    inputs, sample = pooled, jnp.zeros((1, pooled))
    if spec.extra:
        tree["extra"] = {
            "norm": NORM.init(rng, sample)["params"],
            "mlp": Mlp(4 * pooled).init(rng, sample)["params"],
        }
    if spec.merge:
        inputs = 2 * width + (pooled if MERGES[spec.merge] else 0)
        if spec.merge_norm == "LN":
            tree["down_norm"] = NORM.init(rng, jnp.zeros((1, width)))["params"]
        else:
            tree["down_norm"] = dict(mean=jnp.zeros(width), variance=jnp.ones(width))
    return tree | {"head": Dense(spec.classes).init(rng, jnp.zeros((1, inputs)))["params"]}


def apply(
    spec: Spec, params, features, pooled: Float[Array, "B P"]
) -> tuple[Float[Array, "B I"], Float[Array, "B K"]]:
    """(what the classifier sees, its logits)."""
    if spec.extra:
        extra = NORM.apply({"params": params["extra"]["norm"]}, pooled)
        pooled += Mlp(4 * pooled.shape[-1]).apply({"params": params["extra"]["mlp"]}, extra)
    x = NORM.apply({"params": params["fc_norm"]}, pooled)
    if spec.merge:
        merged = _merged(spec, params["down_norm"], features)
        x = jnp.concatenate([merged, x], axis=-1) if MERGES[spec.merge] else merged
    return x, Dense(spec.classes).apply({"params": params["head"]}, x)


def _merged(spec: Spec, params, features) -> Float[Array, "B I"]:
    """Class token and mean token, normalised, side by side."""
    both = jnp.stack([features.cls, features.tokens.mean(1)], axis=1)
    if spec.merge_norm == "LN":
        return NORM.apply({"params": params}, both).reshape(len(both), -1)
    scale = 1 / jnp.sqrt(params["variance"] + BATCH_NORM_EPS)
    # The original's batch norm has its channels in front, and so has what it flattens.
    return jnp.swapaxes((both - params["mean"]) * scale, 1, 2).reshape(len(both), -1)

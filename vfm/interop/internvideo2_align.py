"""InternVideo2's encoder, pool and alignment heads, as its files of both stages hold them.

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens after the class token, D width,
P width of the pooled vector, K aligned layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vfm import models
from vfm.errors import UserError
from vfm.interop import internvideo2_heads
from vfm.interop.internvideo2_config import Spec
from vfm.interop.internvideo2_rules import aligner
from vfm.models.alignment import Projection, last_layers, unit


def parameter_shapes(spec: Spec) -> dict[str, Any]:
    """The tree of shapes of the parameters, without any memory."""
    encoder, pool = models.build(spec.encoder), models.build(spec.pool)
    height, width = spec.encoder["image_size"]
    video = jnp.zeros((1, spec.encoder["frames"], height, width, spec.channels))

    def init(rng):
        tokens = jnp.zeros((1, 1, encoder.width))
        tree = {"encoder": encoder.init(rng, video)["params"], "pool": pool.init(rng, tokens)["params"]}
        for name in ("clip", "mae"):
            aligned = getattr(spec, name)
            if aligned:
                layers, ids = jnp.zeros((aligned.layers, 1, 1, encoder.width)), jnp.zeros((1, 1), jnp.int32)
                tree[name] = aligner(spec, aligned).init(rng, layers, ids)["params"]
        if spec.final_width:
            tree["final"] = Projection(spec.final_width).init(rng, jnp.zeros((1, pool.width)))["params"]
        return tree | internvideo2_heads.init(spec, rng)

    return jax.eval_shape(init, jax.random.key(0))


def encode(spec: Spec, params, video, keep=None) -> tuple[Any, dict[str, Array], Float[Array, "B P"], Array]:
    """Features, intermediates (with the class token in front), the pooled vector and the pool's attention."""
    encoder, pool = models.build(spec.encoder), models.build(spec.pool)
    features, seen = encoder.apply({"params": params["encoder"]}, video, keep, mutable=["intermediates"])
    pooled, looked = pool.apply(
        {"params": params["pool"]}, features.tokens, features.cls, mutable=["intermediates"]
    )
    return features, seen["intermediates"], pooled, looked["intermediates"]["weights"][0]


def visible(mask: np.ndarray) -> Int[np.ndarray, "B K"]:
    """Places of visible entries (0), the class token's among them."""
    rows = [np.flatnonzero(row == 0) for row in mask]
    if len({len(row) for row in rows}) != 1 or any(row[0] for row in rows):
        raise UserError("input mask: every sample must show its class token and equally many others")
    return np.stack(rows).astype(np.int32)


def align(spec: Spec, params, blocks, pooled, ids, grid) -> dict[str, Array]:
    """What the students' heads make of layers [L,B,1+N,D], all of unit length."""
    chosen = np.array(last_layers(spec.encoder["depth"], spec.clip.layers, spec.clip.interval))
    heads = {"clip": aligner(spec, spec.clip).apply({"params": params["clip"]}, blocks[chosen], ids, grid)}
    if spec.final_width:
        heads["final"] = Projection(spec.final_width).apply({"params": params["final"]}, pooled)
    if spec.mae:
        chosen = np.array(last_layers(spec.encoder["depth"], spec.mae.layers, spec.mae.interval))
        heads["mae"] = aligner(spec, spec.mae).apply(
            {"params": params["mae"]}, blocks[chosen][:, :, 1:], ids[:, 1:] - 1, grid
        )
    return {name: unit(value) for name, value in heads.items()}


def distance(ours: Array, theirs: Array) -> Float[Array, ""]:
    """Mean squared distance of unit vectors."""
    return (2 - 2 * (ours * theirs).sum(-1)).mean()

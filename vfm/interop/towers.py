"""Published models of two towers, an image encoder and a text encoder, in our parts.

Our parameters are {"encoder", "pool", "video_proj", "text", "text_proj", "scale"}, of which a model has some;
"scale" holds the log of what multiplies cosines, and the bias that the sigmoid loss adds.

Letters: B batch, H W C height, width and channels of an image, N its tokens, L tokens of a text, D width, E shared.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vfm import contrastive, models
from vfm.errors import UserError
from vfm.interop.mapping import Rule, Transform
from vfm.models.layers import Dense
from vfm.models.naflex import NaFlexViT

# The original's [] or [1] -> ours []
SCALAR = Transform(lambda x: x.reshape(()), lambda x, shape: x.reshape(shape))


@dataclass(frozen=True)
class Towers:
    """What the two towers are."""

    encoder: dict[str, Any]  # part, or arguments of NaFlexViT
    pool: dict[str, Any] | None  # part; None = the class token
    text: dict[str, Any]  # part
    video_proj: tuple[int, bool] | None = None  # features, and whether there is a bias; None = no projection
    text_proj: tuple[int, bool] | None = None
    sigmoid: bool = False  # the sigmoid loss, with its bias, instead of InfoNCE
    naflex: bool = False


class Patches(NamedTuple):
    """The input of a NaFlexViT."""

    values: Float[Array, "B N P"]
    places: Int[Array, "B N 2"]
    real: Bool[Array, "B N"]  # false where a patch is padding
    sees: Bool[Array, "B _ _ N"]


Image = Float[Array, "B 1 H W C"] | Patches


def parts(towers: Towers) -> dict[str, dict[str, Any]]:
    """The parts of a model that two towers are, with their keys.

    Raises:
      UserError: the image encoder is no part that a config can name.
    """
    if towers.naflex:
        raise UserError(
            "images of any shape (NaFlex) need an encoder that no config can name; only numbers are checked"
        )
    found = {"encoder": towers.encoder, "text": towers.text}
    return found if towers.pool is None else found | {"pool": towers.pool}


def networks(towers: Towers) -> dict[str, Any]:
    """Our modules by the names of their parameters."""
    found = {
        "encoder": NaFlexViT(**towers.encoder) if towers.naflex else models.build(towers.encoder),
        "text": models.build(towers.text),
    }
    if towers.pool is not None:
        found["pool"] = models.build(towers.pool)
    for name, projection in (("video_proj", towers.video_proj), ("text_proj", towers.text_proj)):
        if projection is not None:
            found[name] = Dense(*projection)
    return found


def parameter_shapes(towers: Towers, patch_values: int = 0) -> dict[str, Any]:
    """The tree of shapes of the parameters, without any memory; `patch_values` of a patch are for NaFlex."""
    parts = networks(towers)

    def init(rng):
        if towers.naflex:
            one = jnp.ones((1, 1), bool)
            image = Patches(
                jnp.zeros((1, 1, patch_values)), jnp.zeros((1, 1, 2), int), one, one[:, None, None]
            )
            inputs = (image.values, image.places, image.sees)
        else:
            size = towers.encoder["image_size"]
            height, width = (size, size) if isinstance(size, int) else size
            inputs = (jnp.zeros((1, 1, height, width, 3)),)
        params = {"encoder": parts["encoder"].init(rng, *inputs)["params"]}
        tokens, words = jnp.zeros((1, 1, parts["encoder"].width)), jnp.zeros((1, 1, parts["text"].width))
        params["text"] = parts["text"].init(rng, jnp.zeros((1, 1), int))["params"]
        if "pool" in parts:
            params["pool"] = parts["pool"].init(rng, tokens)["params"]
        for name, x in (("video_proj", tokens[0]), ("text_proj", words[0])):
            if name in parts:
                params[name] = parts[name].init(rng, x)["params"]
        params["scale"] = {"log_scale": jnp.zeros(())} | ({"bias": jnp.zeros(())} if towers.sigmoid else {})
        return params

    return jax.eval_shape(init, jax.random.key(0))


def scale_rules(log_scale: str, bias: str = "") -> list[Rule]:
    """Rules of the two numbers, of shape [] or [1]."""
    found: list[Rule] = [(log_scale, "scale/log_scale", SCALAR)]
    return [*found, (bias, "scale/bias", SCALAR)] if bias else found


def run(
    towers: Towers, params: dict[str, Any], image: Image, text: Int[Array, "B L"], mask: Any = None
) -> dict[str, Array]:
    """Everything that the originals report, of images and texts; `mask` is the texts' (True = token).

    image_embedded (before CLIP's first norm), image_blocks [layers,B,N,D], image_tokens, image_pooled, image (unit),
    image_norm, text_blocks, text_tokens, text_pooled, text (unit), logits [B,B] of images by texts, loss.
    """
    parts = networks(towers)

    def apply(name, *inputs, **options):
        return parts[name].apply({"params": params[name]}, *inputs, **options)

    if towers.naflex:
        tokens, seen = apply("encoder", image.values, image.places, image.sees, mutable=["intermediates"])
        cls = None
    else:
        features, seen = apply("encoder", image, mutable=["intermediates"])
        tokens, cls = features.tokens, features.cls
    seen = seen["intermediates"]
    if towers.pool is None:
        pooled = cls
    else:
        pooled = apply("pool", tokens, **({"mask": image.real} if towers.naflex else {}))
    words, read = apply("text", text, mask, mutable=["intermediates"])
    projected = [
        apply(name, x) if name in parts else x
        for name, x in (("video_proj", pooled), ("text_proj", words.pooled))
    ]
    z_image, z_text = map(contrastive.unit, projected)
    scale, bias = jnp.exp(params["scale"]["log_scale"]), params["scale"].get("bias", 0.0)
    if towers.sigmoid:
        loss, _ = contrastive.sigmoid(z_text, z_image, scale, bias)
    else:
        loss, _ = contrastive.infonce(z_text, z_image, scale)
    return dict(
        image_embedded=seen.get("before_norm", seen["embed"])[0],
        image_blocks=seen["blocks"]["output"][0],
        image_tokens=tokens if cls is None else jnp.concatenate([cls[:, None], tokens], axis=1),
        image_pooled=pooled,
        image=z_image,
        image_norm=jnp.linalg.norm(projected[0], axis=-1, keepdims=True),
        text_blocks=read["intermediates"]["blocks"]["output"][0],
        text_tokens=words.tokens,
        text_pooled=words.pooled,
        text=z_text,
        logits=jnp.einsum("ie,je->ij", z_image, z_text, precision="highest") * scale + bias,
        loss=loss,
    )

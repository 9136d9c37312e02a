"""ViCLIP: CLIP with joint attention over space and time.

Sources: Wang et al. 2023 (InternVid, arXiv 2307.06942); OpenGVLab/InternVideo (Data/InternVid/viclip).

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens after the class token, L tokens of a
text, D width, E shared space. The original's tokens are in the order (h w t), ours in (t h w).
"""

from collections.abc import Mapping as MappingType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array

from vfm import contrastive, models
from vfm.errors import UserError
from vfm.interop.arguments import Arguments, only
from vfm.interop.clip_original import text_rules, vision_part, vision_rules
from vfm.interop.golden import Golden, Names, Tensors, keyed
from vfm.interop.mapping import Mapping, Shape
from vfm.models.layers import Dense

FAMILIES = ("viclip",)
SIZES = {  # the vision tower's width, depth, heads, patch; the shared space; the text tower's width, depth, heads
    "b": (768, 12, 12, 16, 512, 512, 12, 8),
    "l": (1024, 24, 16, 14, 768, 768, 12, 12),
}
SMALLEST_TEMPERATURE = 0.01
IDLE = {"checkpoint_num", "drop_path", "dropout", "center", "temp_embed"}


def parts_of(config: MappingType[str, Any]) -> tuple[dict[str, Any], dict[str, Any], int]:
    """(vision part, text part, shared space) of constructor arguments."""
    if "size" in config:
        if config["size"] not in SIZES:
            raise UserError(f"constructor argument size={config['size']!r}: expected {' or '.join(SIZES)}")
        width, depth, heads, patch, shared, text_width, text_depth, text_heads = SIZES[config["size"]]
        vision = vision_part(width, depth, heads, patch, config["image_res"])
        text = dict(width=text_width, depth=text_depth, heads=text_heads, length=config["max_txt_l"])
        text["vocab_size"], frames = 49408, config["num_frames"]
    else:
        get = Arguments(config["vision"], IDLE)
        shared, frames = get("output_dim", 512), get("num_frames", 8)
        only("kernel_size", get("kernel_size", 1), 1, "published models have tubelets of one frame")
        vision = vision_part(
            get("width", 768), get("layers", 12), get("heads", 12), get("patch_size", 16), get("input_resolution", 224)
        )  # fmt: skip
        get.finish()
        get = Arguments(config["text"], IDLE)
        only("embed_dim", get("embed_dim", 512), shared, "both towers project to one space")
        text = dict(
            vocab_size=get("vocab_size", 49408),
            length=get("context_length", 32),
            width=get("transformer_width", 512),
            heads=get("transformer_heads", 8),
            depth=get("transformer_layers", 12),
        )
        get.finish()
    vision |= dict(frames=frames, positions="learned_separable", image_positions="mean")
    text |= dict(name="text", sees_padding=True, activation="quick_gelu", mlp_dim=4 * text["width"])
    return vision, text, shared


def mapping(shapes: MappingType[str, Shape]) -> Mapping:
    """The mapping to {"encoder", "video_proj", "text", "text_proj", "temp"}."""
    rules = vision_rules(r"vision_encoder\.", "space_pos") + text_rules(r"text_encoder\.")
    return Mapping([*rules, ("temp", "temp", "same")], shapes)


def parameter_shapes(config: MappingType[str, Any]) -> dict[str, Any]:
    """The tree of shapes of the parameters, without any memory."""
    vision, text, shared = parts_of(config)
    encoder, words = models.build(vision), models.build(text)
    project = Dense(shared, use_bias=False)

    def init(rng):
        video = jnp.zeros((1, vision["frames"], vision["image_size"], vision["image_size"], 3))
        return dict(
            encoder=encoder.init(rng, video)["params"],
            text=words.init(rng, jnp.zeros((1, 1), jnp.int32))["params"],
            video_proj=project.init(rng, jnp.zeros((1, vision["width"])))["params"],
            text_proj=project.init(rng, jnp.zeros((1, text["width"])))["params"],
            temp=jnp.zeros(()),
        )

    return jax.eval_shape(init, jax.random.key(0))


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    vision, text, _ = parts_of(names.config)
    return {"encoder": vision, "text": text}


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    return mapping(names.tensors), parameter_shapes(names.config)


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, loss and gradients of our model on a golden file's weights and inputs."""
    tensors = mapping({name: w.shape for name, w in golden.weights.items()})
    params = tensors.to_ours(golden.weights, parameter_shapes(golden.config))

    def run(params):
        return _contrast(golden.config, params, golden.inputs)

    gradients, outputs = jax.jit(jax.grad(run, has_aux=True))(params)
    return keyed(output=outputs, grad=tensors.to_theirs(gradients))


def visible(noise: np.ndarray, ratio: float, frames: int) -> np.ndarray:
    """Sorted ids (in our order) of the patches that random masking shows: those without the smallest noise."""
    hidden = int(ratio * noise.shape[1])
    places = np.argsort(noise, axis=1, kind="stable")[:, hidden:]
    cells = noise.shape[1] // frames
    return np.sort(places % frames * cells + places // frames, axis=1).astype(np.int32)


def _contrast(config, params, inputs: Tensors) -> tuple[Array, dict[str, Array]]:
    vision, text, shared = parts_of(config)
    encoder, words, project = models.build(vision), models.build(text), Dense(shared, use_bias=False)
    video = rearrange(jnp.asarray(inputs["image"]), "b t c h w -> b t h w c")
    frames = video.shape[1]

    def look(video, keep=None):
        features, seen = encoder.apply({"params": params["encoder"]}, video, keep, mutable=["intermediates"])
        return project.apply({"params": params["video_proj"]}, features.cls), seen["intermediates"]

    def their_order(x):
        patches = rearrange(x[:, 1:], "b (t n) d -> b (n t) d", t=frames)
        return jnp.concatenate([x[:, :1], patches], axis=1)

    whole, seen = look(video)
    masked, _ = look(video, visible(inputs["mask_noise"], config["masking_prob"], frames))
    ids = inputs["text"]
    # The end of text has the highest id; what stands behind it is padding.
    mask = np.arange(ids.shape[1]) <= ids.argmax(1)[:, None]
    features, read = words.apply({"params": params["text"]}, ids, mask, mutable=["intermediates"])
    text_features = project.apply({"params": params["text_proj"]}, features.pooled)

    temperature = jnp.maximum(params["temp"], SMALLEST_TEMPERATURE)
    unit_text = contrastive.unit(text_features)
    loss, _ = contrastive.infonce(
        unit_text, contrastive.unit(masked), 1 / temperature, ids=jnp.asarray(inputs["idx"], jnp.int32)
    )
    sims = contrastive.unit(whole) @ unit_text.T
    return loss, dict(
        vision_ln_pre=their_order(seen["embed"][0]),
        vision_block0_NBD=rearrange(their_order(seen["blocks"]["output"][0][0]), "b n d -> n b d"),
        vision_features=whole,
        vision_features_1frame=look(video[:, :1])[0],
        vision_features_masked=masked,
        text_block0_LND=rearrange(read["intermediates"]["blocks"]["output"][0][0], "b l d -> l b d"),
        text_ln_final=features.tokens,
        text_features=text_features,
        sims=sims,
        label_probs=jax.nn.softmax(100 * sims, axis=-1),
        loss=loss,
    )

"""SigLIP as transformers stores it: fixed resolution (`siglip_hf`, SigLIP 2's too) and NaFlex (`siglip2_hf`).

Sources: Zhai et al. 2023 (arXiv 2303.15343); Tschannen et al. 2025 (arXiv 2502.14786); huggingface/transformers,
models `siglip` and `siglip2`.
"""

import math
from collections.abc import Mapping as MappingType
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Int

from vfm.interop import clip_hf, towers
from vfm.interop.arguments import Arguments, only
from vfm.interop.clip_hf import dense_rules, layer_rules, norm_rules
from vfm.interop.golden import Golden, Names
from vfm.interop.mapping import Mapping, Shape
from vfm.interop.towers import Patches, Towers

FAMILIES = ("siglip_hf", "siglip2_hf")
OUTPUTS = clip_hf.OUTPUTS | dict(vision_last_hidden="image_tokens", vision_pooler="image_pooled")


def towers_of(config: MappingType[str, Any], naflex: bool, masked: bool) -> Towers:
    """Our parts for constructor arguments of `SiglipModel` or `Siglip2Model`.

    masked: padding of texts is hidden by a mask, as no published model was trained.
    """
    get = Arguments(config, clip_hf.IDLE | {"vision_config", "text_config"})
    get.finish()
    get = Arguments(config.get("vision_config", {}), clip_hf.IDLE)
    only("num_channels", get("num_channels", 3), 3, "images are RGB")
    only("vision_use_head", get("vision_use_head", True), True, "images are compared by their pooled vectors")
    activation, eps = clip_hf.activation(get, "gelu_pytorch_tanh"), get("layer_norm_eps", 1e-6)
    patch = get("patch_size", 16)
    encoder = dict(
        width=get("hidden_size", 768),
        depth=get("num_hidden_layers", 12),
        heads=get("num_attention_heads", 12),
        mlp_dim=get("intermediate_size", 3072),
        norm_eps=eps,
        activation=activation,
    )
    pool = dict(name="map_pool", heads=encoder["heads"], mlp_dim=encoder["mlp_dim"])
    pool |= dict(norm_eps=eps, activation=activation)
    if naflex:
        side = math.isqrt(get("num_patches", 256))
        encoder["native"] = (side, side)
    else:
        size = get("image_size", 224)
        encoder |= dict(name="vit", frames=1, image_size=size - size % patch, tubelet=1, patch=patch)
        encoder |= dict(positions="learned", qkv_bias="qkv")
    get.finish()
    get = Arguments(config.get("text_config", {}), clip_hf.IDLE)
    width = get("hidden_size", 768)
    text = dict(
        name="text",
        vocab_size=get("vocab_size", 32000),
        length=get("max_position_embeddings", 64),
        width=width,
        depth=get("num_hidden_layers", 12),
        heads=get("num_attention_heads", 12),
        mlp_dim=get("intermediate_size", 3072),
        causal=False,
        sees_padding=not masked,
        pooling="last",
        norm_eps=get("layer_norm_eps", 1e-6),
        activation=clip_hf.activation(get, "gelu_pytorch_tanh"),
    )
    shared = get("projection_size", width)
    get.finish()
    return Towers(encoder, pool, text, text_proj=(shared, True), sigmoid=True, naflex=naflex)


def mapping(shapes: MappingType[str, Shape], naflex: bool) -> Mapping:
    """The mapping of a model's tensors to the tree of `vfm.interop.towers`."""
    embeddings, head = r"vision_model\.embeddings\.", r"vision_model\.head\."
    rules = [
        *clip_hf.text_rules(),
        (rf"{embeddings}position_embedding\.weight", "encoder/pos", "same"),
        *dense_rules(rf"{embeddings}patch_embedding", "encoder/patch_embed", "linear" if naflex else "conv"),
        *layer_rules(r"vision_model\.encoder\.layers", "encoder/blocks"),
        *norm_rules(r"vision_model\.post_layernorm", "encoder/norm"),
        (rf"{head}probe", "pool/query", "first"),
        (rf"{head}attention\.in_proj_weight", "pool/qkv/kernel", "linear"),
        (rf"{head}attention\.in_proj_bias", "pool/qkv/bias", "same"),
        *dense_rules(rf"{head}attention\.out_proj", "pool/proj"),
        *norm_rules(rf"{head}layernorm", "pool/norm"),
        *dense_rules(rf"{head}mlp\.fc1", "pool/mlp/fc1"),
        *dense_rules(rf"{head}mlp\.fc2", "pool/mlp/fc2"),
        *dense_rules(r"text_model\.head", "text_proj"),
        *towers.scale_rules("logit_scale", "logit_bias"),
    ]
    return Mapping(rules, shapes)


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    return towers.parts(towers_of(names.config, names.family == "siglip2_hf", masked=False))


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    naflex = names.family == "siglip2_hf"
    values = 3 * names.config.get("vision_config", {}).get("patch_size", 16) ** 2
    spec = towers_of(names.config, naflex, masked=False)
    return mapping(names.tensors, naflex), towers.parameter_shapes(spec, values)


def places_of(shapes: Int[Array, "B 2"], count: int) -> Int[Array, "B N 2"]:
    """Row and column of each patch of images of some rows and columns; (0, 0) behind the last."""
    ids = jnp.arange(count)[None]
    places = jnp.stack([ids // shapes[:, 1:], ids % shapes[:, 1:]], axis=-1)
    return jnp.where((ids < shapes.prod(1)[:, None])[..., None], places, 0)


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, loss and gradients of our model on a golden file's weights and inputs."""
    inputs = {name: jnp.asarray(value) for name, value in golden.inputs.items()}
    naflex, mask = golden.family == "siglip2_hf", None
    if "attention_mask" in inputs:
        mask = inputs["attention_mask"] != 0
    spec = towers_of(golden.config, naflex, mask is not None)
    tensors = mapping({name: w.shape for name, w in golden.weights.items()}, naflex)
    if naflex:
        patches, real = inputs["pixel_values"], inputs["pixel_attention_mask"] != 0
        places = places_of(inputs["spatial_shapes"], patches.shape[1])
        # Padding is never seen, but sees.
        image = Patches(patches, places, real, real[:, None, None, :])
    else:
        patch = spec.encoder["patch"]
        image = rearrange(inputs["pixel_values"], "b c h w -> b 1 h w c")
        image = image[:, :, : image.shape[2] // patch * patch, : image.shape[3] // patch * patch]
    return clip_hf.evaluate_towers(golden, spec, tensors, image, inputs["input_ids"], mask, OUTPUTS)

"""CLIP as transformers stores it (`clip_hf`): OpenAI's and LAION's checkpoints.

Sources: Radford et al. 2021 (arXiv 2103.00020); huggingface/transformers, model `clip`.
"""

import re
from collections.abc import Mapping as MappingType
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Int

from vfm.errors import UserError
from vfm.interop import towers
from vfm.interop.arguments import Arguments, only
from vfm.interop.golden import Golden, Names, keyed
from vfm.interop.mapping import Mapping, Rule, Shape, Transform
from vfm.interop.towers import Towers
from vfm.interop.videomae_config import HF_ACTIVATIONS, HF_IDLE

FAMILIES = ("clip_hf",)
# The original's class embedding [D] -> ours [1, D]
ROW = Transform(lambda x: x[None], lambda x, shape: x.reshape(shape))
IDLE = HF_IDLE | set(
    "attention_dropout initializer_factor bos_token_id eos_token_id pad_token_id num_labels logit_scale_init_value "
    "dropout projection_dim".split()
)
# A difference of logits 250 times as large: the original's number is 8.4e-5 from that of float64.
NOISY = {"clip_hf.masked": {"grad/logit_scale": 2e-4}}
OUTPUTS = dict(  # names of outputs: the file's -> ours
    vision_embeddings="image_embedded",
    vision_block0="image_block0",
    vision_last_hidden="image_last_block",
    image_embeds="image",
    text_block0="text_block0",
    text_last_hidden="text_tokens",
    text_embeds="text",
    logits_per_image="logits",
    loss="loss",
)


def activation(get: Arguments, default: str) -> str:
    """Our name of the activation that transformers calls `hidden_act`."""
    name = get("hidden_act", default)
    if name not in HF_ACTIVATIONS:
        known = ", ".join(HF_ACTIVATIONS)
        raise UserError(f"constructor argument hidden_act='{name}' is not supported: {known}")
    return HF_ACTIVATIONS[name]


def towers_of(config: MappingType[str, Any], masked: bool) -> Towers:
    """Our parts for constructor arguments of `CLIPModel`; `masked`: padding is hidden by a mask."""
    get = Arguments(config, IDLE | {"vision_config", "text_config"})
    only("model_type", config.get("model_type", "clip"), "clip", "another family")
    shared = config.get("projection_dim", 512)
    get.finish()
    get = Arguments(config.get("vision_config", {}), IDLE)
    only("num_channels", get("num_channels", 3), 3, "images are RGB")
    encoder = dict(
        name="vit",
        width=get("hidden_size", 768),
        depth=get("num_hidden_layers", 12),
        heads=get("num_attention_heads", 12),
        mlp_dim=get("intermediate_size", 3072),
        frames=1,
        image_size=get("image_size", 224),
        tubelet=1,
        patch=get("patch_size", 32),
        positions="learned",
        cls_token=True,
        cls_position=True,
        patch_bias=False,
        pre_norm=True,
        qkv_bias="qkv",
        norm_eps=get("layer_norm_eps", 1e-5),
        activation=activation(get, "quick_gelu"),
    )
    get.finish()
    get = Arguments(config.get("text_config", {}), IDLE)
    text = dict(
        name="text",
        vocab_size=get("vocab_size", 49408),
        length=get("max_position_embeddings", 77),
        width=get("hidden_size", 512),
        depth=get("num_hidden_layers", 12),
        heads=get("num_attention_heads", 8),
        mlp_dim=get("intermediate_size", 2048),
        causal=True,
        sees_padding=not masked,
        pooling="eot",
        norm_eps=get("layer_norm_eps", 1e-5),
        activation=activation(get, "quick_gelu"),
    )
    get.finish()
    return Towers(encoder, None, text, video_proj=(shared, False), text_proj=(shared, False))


def layer_rules(theirs: str, ours: str) -> list[Rule]:
    """Tensors of one stack of layers, named alike in CLIP and SigLIP; `theirs` is a pattern, `ours` a path."""
    found = []
    for name, path, part in (
        ("self_attn.q_proj", "attn/qkv", "#0/3"),
        ("self_attn.k_proj", "attn/qkv", "#1/3"),
        ("self_attn.v_proj", "attn/qkv", "#2/3"),
        ("self_attn.out_proj", "attn/proj", ""),
        ("mlp.fc1", "mlp/fc1", ""),
        ("mlp.fc2", "mlp/fc2", ""),
    ):
        layer = rf"{theirs}\.(\d+)\.{re.escape(name)}"
        found += [
            (rf"{layer}\.weight", rf"{ours}/{path}/kernel[\1]{part}", "linear"),
            (rf"{layer}\.bias", rf"{ours}/{path}/bias[\1]{part}", "same"),
        ]
    for i in (1, 2):
        layer = rf"{theirs}\.(\d+)\.layer_norm{i}"
        found += [(rf"{layer}\.weight", rf"{ours}/norm{i}/scale[\1]", "same")]
        found += [(rf"{layer}\.bias", rf"{ours}/norm{i}/bias[\1]", "same")]
    return found


def norm_rules(name: str, path: str) -> list[Rule]:
    """A LayerNorm."""
    return [(rf"{name}\.weight", f"{path}/scale", "same"), (rf"{name}\.bias", f"{path}/bias", "same")]


def dense_rules(name: str, path: str, transform: str = "linear") -> list[Rule]:
    """A linear layer, or the convolution of a patch embedding."""
    return [(rf"{name}\.weight", f"{path}/kernel", transform), (rf"{name}\.bias", f"{path}/bias", "same")]


def text_rules() -> list[Rule]:
    """The text tower without its projection, named alike in CLIP and SigLIP."""
    embeddings = r"text_model\.embeddings\."
    return [
        (rf"{embeddings}token_embedding\.weight", "text/words/embedding", "same"),
        (rf"{embeddings}position_embedding\.weight", "text/pos", "same"),
        *layer_rules(r"text_model\.encoder\.layers", "text/blocks"),
        *norm_rules(r"text_model\.final_layer_norm", "text/norm"),
        (r"(?:text|vision)_model\.embeddings\.position_ids", None, "same"),  # buffers of older exports
    ]


def mapping(shapes: MappingType[str, Shape]) -> Mapping:
    """The mapping of a model's tensors to the tree of `vfm.interop.towers`."""
    embeddings = r"vision_model\.embeddings\."
    rules = [
        *text_rules(),
        (rf"{embeddings}class_embedding", "encoder/cls_token", ROW),
        (rf"{embeddings}position_embedding\.weight", "encoder/pos", "same"),
        *dense_rules(rf"{embeddings}patch_embedding", "encoder/patch_embed", "conv"),
        *norm_rules(r"vision_model\.pre_layrnorm", "encoder/pre_norm"),
        *layer_rules(r"vision_model\.encoder\.layers", "encoder/blocks"),
        *norm_rules(r"vision_model\.post_layernorm", "encoder/norm"),
        *dense_rules("visual_projection", "video_proj"),
        *dense_rules("text_projection", "text_proj"),
        *towers.scale_rules("logit_scale"),
    ]
    return Mapping(rules, shapes)


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    return towers.parts(towers_of(names.config, masked=False))


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    return mapping(names.tensors), towers.parameter_shapes(towers_of(names.config, masked=False))


def up_to_end(ids: Int[Array, "B L"], eos: int) -> Bool[Array, "B L"]:
    """True up to the end of each text: the highest id where `eos` is 2 (all of OpenAI's files), else the first eos."""
    end = jnp.argmax(ids if eos == 2 else ids == eos, axis=1)
    return jnp.arange(ids.shape[1]) <= end[:, None]


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, loss and gradients of our model on a golden file's weights and inputs."""
    inputs = {name: jnp.asarray(value) for name, value in golden.inputs.items()}
    masked = "attention_mask" in inputs
    spec = towers_of(golden.config, masked)
    ids = inputs["input_ids"]
    end = up_to_end(ids, golden.config.get("text_config", {}).get("eos_token_id", 49407))
    mask = inputs["attention_mask"] != 0 if masked else end
    if masked and not bool((mask == end).all()):
        raise UserError("input attention_mask: expected to end where the text does, at its end-of-text token")
    tensors = mapping({name: w.shape for name, w in golden.weights.items()})
    image = rearrange(inputs["pixel_values"], "b c h w -> b 1 h w c")
    return evaluate_towers(golden, spec, tensors, image, ids, mask, OUTPUTS)


def evaluate_towers(
    golden: Golden,
    spec: Towers,
    tensors: Mapping,
    image: towers.Image,
    text,
    mask,
    names: MappingType[str, str],
) -> dict[str, Any]:
    """Run two towers on a golden file; `names` of outputs: the file's -> those of `towers.run`."""
    values = image.values.shape[-1] if isinstance(image, towers.Patches) else 0
    params = tensors.to_ours(golden.weights, towers.parameter_shapes(spec, values))

    def loss(params):
        outputs = towers.run(spec, params, image, text, mask)
        for tower in ("image", "text"):
            blocks = outputs.pop(f"{tower}_blocks")
            outputs |= {f"{tower}_block0": blocks[0], f"{tower}_last_block": blocks[-1]}
        return outputs["loss"], outputs

    # Run once, so most of the time is compilation: one program, with little optimisation.
    compiled = jax.jit(jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    gradients, outputs = compiled(params)
    return keyed(
        output={theirs: outputs[ours] for theirs, ours in names.items()}, grad=tensors.to_theirs(gradients)
    )

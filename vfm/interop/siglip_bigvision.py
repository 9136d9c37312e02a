"""SigLIP and SigLIP 2 as their own code stores them (`siglip_bigvision`): two towers, NaFlex, and a plain ViT.

Names are those of a released npz file without its prefix `params/`. Layers are one tensor each, or stacked
("encoderblock" without a number).

Sources: Zhai et al. 2023 (arXiv 2303.15343); Tschannen et al. 2025 (arXiv 2502.14786); google-research/big_vision.
"""

import math
from collections.abc import Mapping as MappingType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vfm import models
from vfm.errors import UserError
from vfm.interop import clip_hf, towers
from vfm.interop.arguments import Arguments, only, square
from vfm.interop.golden import Golden, Names, keyed
from vfm.interop.mapping import Mapping, Rule, Shape, Transform
from vfm.interop.towers import Patches, Towers
from vfm.models.layers import Dense

FAMILIES = ("siglip_bigvision",)
SIZES = {  # of variants: width, depth, mlp_dim, heads
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
}
IDLE = set("scan remat_policy dtype_mm head_zeroinit dropout class".split())
EPS, ACTIVATION = 1e-6, "gelu_tanh"  # defaults of flax's LayerNorm and gelu
# [.., D, heads, size] or a bias [.., heads, size]: heads side by side on the last axis
LAST = Transform(lambda x: x.reshape(*x.shape[:-2], -1), lambda x, shape: x.reshape(shape))
# the output projection [.., heads, size, D]
FIRST = Transform(lambda x: x.reshape(*x.shape[:-3], -1, x.shape[-1]), lambda x, shape: x.reshape(shape))
# [p, p, 3, D] -> [(p p c), D], and NaFlex's table [h, w, D] -> [(h w), D]
ROWS = Transform(lambda x: x.reshape(-1, x.shape[-1]), lambda x, shape: x.reshape(shape))
OUTPUTS = dict(  # names of outputs: the file's -> ours
    img_with_posemb="image_embedded",
    img_block0="image_block0",
    img_encoded="image_tokens",
    img_pre_logits="image_pooled",
    img_norm="image_norm",
    zimg="image",
    txt_transformed="text_tokens",
    txt_pre_logits="text_pooled",
    ztxt="text",
    logits="logits",
    loss="loss",
)


def _sizes(get: Arguments) -> dict[str, Any]:
    """Width, depth, mlp_dim, heads, of a variant or given one by one."""
    variant = get("variant", None) or "B"
    name = variant.partition("/")[0]
    if name not in SIZES:
        raise UserError(f"variant '{variant}' is not supported: expected one of {', '.join(SIZES)}")
    width, depth, hidden, heads = SIZES[name]
    width = get("width", width)
    hidden = get("mlp_dim", hidden) or 4 * width
    return dict(width=width, depth=get("depth", depth), mlp_dim=hidden, heads=get("num_heads", heads))


def _patch(get: Arguments) -> int:
    name, _, patch = str(get("variant", None) or "").partition("/")
    return square("patch_size", get("patch_size", [int(patch or 16)] * 2))


def vit_part(config: MappingType[str, Any], resolution: int) -> dict[str, Any]:
    """The image encoder of a fixed resolution; pool_type, rep_size and num_classes are the caller's."""
    get = Arguments(config, IDLE | {"pool_type", "rep_size", "num_classes"})
    only("posemb", get("posemb", "learn"), "learn", "published two-tower models learn positions")
    patch = _patch(get)
    part = dict(
        name="vit",
        **_sizes(get),
        frames=1,
        image_size=resolution // patch * patch,
        tubelet=1,
        patch=patch,
        positions="learned",
        cls_token=config.get("pool_type", "gap") == "tok",
        qkv_bias="qkv",
        norm_eps=EPS,
        activation=ACTIVATION,
    )
    get.finish()
    return part


def towers_of(config: MappingType[str, Any], shapes: MappingType[str, Shape]) -> Towers:
    """Our parts for a two-tower model's arguments; sizes that depend on its data are those of its tensors."""
    whole = Arguments(config, {"temperature_init", "bias_init", "image", "text", "resolution", "text_len"})
    naflex = whole("image_model", "vit") == "proj.image_text.naflex_vit"
    image_out, text_out = whole("out_dim", [None, 768])
    whole.finish()
    image = config["image"]
    only("pool_type", image.get("pool_type"), "map", "published image towers pool by attention")
    if naflex:
        get = Arguments(image, IDLE | {"pool_type", "posemb"})
        encoder = _sizes(get) | dict(native=(get("nposemb", 16),) * 2, norm_eps=EPS, activation=ACTIVATION)
        get.finish()
    else:
        side = math.isqrt(shapes["img/pos_embedding"][1])
        encoder = vit_part(image, config.get("resolution", side * shapes["img/embedding/kernel"][0]))
    get = Arguments(config["text"], IDLE)
    pooling = get("pool_type", "last")
    if pooling not in ("last", "map"):
        raise UserError(f"text pool_type '{pooling}' is not supported: expected last or map")
    text = dict(
        name="text",
        vocab_size=get("vocab_size", 32_000),
        length=config.get("text_len", shapes["txt/pos_embedding"][1]),
        **_sizes(get),
        causal=False,
        sees_padding=True,
        pooling=pooling,
        norm_eps=EPS,
        activation=ACTIVATION,
    )
    get.finish()
    pool = dict(name="map_pool", heads=encoder["heads"], mlp_dim=encoder["mlp_dim"])
    pool |= dict(norm_eps=EPS, activation=ACTIVATION)
    projections = [None if size is None else (size, True) for size in (image_out, text_out)]
    return Towers(encoder, pool, text, *projections, sigmoid=True, naflex=naflex)


def _attention_rules(theirs: str, ours: str, index: str = "") -> list[Rule]:
    """Attention, with one fused kernel on our side."""
    found: list[Rule] = [
        (rf"{theirs}/out/kernel", rf"{ours}/proj/kernel{index}", FIRST),
        (rf"{theirs}/out/bias", rf"{ours}/proj/bias{index}", "same"),
    ]
    for i, name in enumerate(("query", "key", "value")):
        found += [
            (rf"{theirs}/{name}/{leaf}", rf"{ours}/qkv/{leaf}{index}#{i}/3", LAST)
            for leaf in ("kernel", "bias")
        ]
    return found


def _leaf_rules(theirs: str, ours: str, index: str = "", leaves=("kernel", "bias")) -> list[Rule]:
    return [(rf"{theirs}/{leaf}", rf"{ours}/{leaf}{index}", "same") for leaf in leaves]


def _layer_rules(theirs: str, ours: str) -> list[Rule]:
    """One stack of layers, numbered or stacked."""
    found = []
    for layer, index in ((rf"{theirs}/encoderblock_(\d+)", r"[\1]"), (f"{theirs}/encoderblock", "")):
        found += _attention_rules(rf"{layer}/MultiHeadDotProductAttention_0", f"{ours}/attn", index)
        for i in (0, 1):
            found += _leaf_rules(rf"{layer}/LayerNorm_{i}", f"{ours}/norm{i + 1}", index, ("scale", "bias"))
            found += _leaf_rules(rf"{layer}/MlpBlock_0/Dense_{i}", f"{ours}/mlp/fc{i + 1}", index)
    return found


def _pool_rules(theirs: str, ours: str) -> list[Rule]:
    """An attention pool."""
    found: list[Rule] = [(f"{theirs}/probe", f"{ours}/query", "first")]
    found += _attention_rules(f"{theirs}/MultiHeadDotProductAttention_0", ours)
    found += _leaf_rules(f"{theirs}/LayerNorm_0", f"{ours}/norm", leaves=("scale", "bias"))
    for i in (0, 1):
        found += _leaf_rules(f"{theirs}/MlpBlock_0/Dense_{i}", f"{ours}/mlp/fc{i + 1}")
    return found


def _image_rules(theirs: str, naflex: bool) -> list[Rule]:
    """An image encoder; `theirs` is in front of all names."""
    return [
        (f"{theirs}embedding/kernel", "encoder/patch_embed/kernel", "same" if naflex else ROWS),
        (f"{theirs}embedding/bias", "encoder/patch_embed/bias", "same"),
        (f"{theirs}pos_embedding", "encoder/pos", ROWS if naflex else "first"),
        (f"{theirs}cls", "encoder/cls_token", "first"),
        *_layer_rules(f"{theirs}Transformer", "encoder/blocks"),
        *_leaf_rules(f"{theirs}Transformer/encoder_norm", "encoder/norm", leaves=("scale", "bias")),
    ]


def mapping(shapes: MappingType[str, Shape], naflex: bool) -> Mapping:
    """The mapping of a two-tower model's tensors to the tree of `vfm.interop.towers`."""
    rules = [
        *_image_rules("img/", naflex),
        *_pool_rules("img/MAPHead_0", "pool"),
        *_leaf_rules("img/head", "video_proj"),
        ("txt/Embed_0/embedding", "text/words/embedding", "same"),
        ("txt/pos_embedding", "text/pos", "first"),
        *_layer_rules("txt/Encoder_0", "text/blocks"),
        *_leaf_rules("txt/Encoder_0/encoder_norm", "text/norm", leaves=("scale", "bias")),
        *_pool_rules("txt/MAPHead_0", "text/pool"),
        *_leaf_rules("txt/head", "text_proj"),
        *towers.scale_rules("t", "b"),
    ]
    return Mapping(rules, shapes)


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    return towers.parts(towers_of(names.config, names.tensors))


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    spec = towers_of(names.config, names.tensors)
    values = names.tensors["img/embedding/kernel"][0]  # of a patch, where the embedding is a dense layer
    return mapping(names.tensors, spec.naflex), towers.parameter_shapes(spec, values)


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, loss and gradients of our model on a golden file's weights and inputs."""
    shapes = {name: w.shape for name, w in golden.weights.items()}
    inputs = {name: jnp.asarray(value) for name, value in golden.inputs.items()}
    if "image_model" not in golden.config:
        return _evaluate_vit(golden, shapes, inputs)
    spec = towers_of(golden.config, shapes)
    if spec.naflex:
        real = inputs["ptype"] == 1
        # Padding sees nothing, which gives it the mean of all values.
        sees = real[:, None, :, None] & real[:, None, None, :]
        places = jnp.stack([inputs["yidx"], inputs["xidx"]], axis=-1)
        image = Patches(inputs["patches"], places, real, sees)
    else:
        image = inputs["image"][:, None]
    tensors = mapping(shapes, spec.naflex)
    return clip_hf.evaluate_towers(golden, spec, tensors, image, inputs["text"], None, OUTPUTS)


def _evaluate_vit(golden: Golden, shapes, inputs) -> dict[str, Any]:
    """A ViT classifier that pools by its class token, with tanh of a dense layer in front of the head."""
    config = golden.config
    only("pool_type", config.get("pool_type"), "tok", "alone, a ViT is compared by its class token")
    encoder = models.build(vit_part(config, inputs["image"].shape[1]))
    hidden, head = Dense(config["rep_size"]), Dense(config["num_classes"])
    tensors = Mapping(
        [*_image_rules("", False), *_leaf_rules("pre_logits", "hidden"), *_leaf_rules("head", "head")], shapes
    )
    params = tensors.to_ours(golden.weights)

    def run(params):
        features, seen = encoder.apply(
            {"params": params["encoder"]}, inputs["image"][:, None], mutable=["intermediates"]
        )

        def classify(x: Array) -> tuple[Array, Array]:
            y = jnp.tanh(hidden.apply({"params": params["hidden"]}, x))
            return y, head.apply({"params": params["head"]}, y)

        pre_logits, logits = classify(features.cls)
        of_tokens = classify(features.tokens)[1]
        probe = (logits * inputs["cotangent"]).sum()
        return probe, dict(
            with_posemb=seen["intermediates"]["embed"][0][:, 1:],
            encoded=jnp.concatenate([features.cls[:, None], features.tokens], axis=1),
            head_input=features.cls,
            pre_logits=pre_logits,
            logits=logits,
            logits_2d=of_tokens.reshape(len(logits), *features.grid[1:], -1),
            probe=probe,
        )

    gradients, outputs = jax.jit(jax.grad(run, has_aux=True))(params)
    return keyed(output=outputs, grad=tensors.to_theirs(gradients))

"""Unmasked Teacher's constructor arguments in our words, and the names of its tensors."""

import re
from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any

from vfm.errors import UserError
from vfm.interop.arguments import Arguments, only, pair, square
from vfm.interop.clip_original import vision_part, vision_rules
from vfm.interop.mapping import Mapping, Rule, Shape

# Arguments without effect on names, shapes or evaluation-mode numbers.
IDLE = set(
    "class norm_layer factory drop_rate attn_drop_rate drop_path_rate fc_drop_rate use_checkpoint checkpoint_num "
    "init_scale pretrained return_attn mask_ratio clip_norm_type".split()
)
SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16)}  # width, depth, heads
TEACHERS = {  # width, depth, heads, patch, shared space
    "clip_b16": (768, 12, 12, 16, 512),
    "clip_l14": (1024, 24, 16, 14, 768),
}


@dataclass(frozen=True)
class Spec:
    """An original's constructor arguments in our words."""

    kind: str  # student | teacher | finetune
    encoder: dict[str, Any]  # a part of `vfm.models`
    width: int = 0  # of the space that is aligned
    layers: int = 0  # that are aligned
    interval: float = 1.0
    classes: int = 0


def spec_of(config: MappingType[str, Any], names: Iterable[str]) -> Spec:
    """Our words for constructor arguments; the names of tensors tell the model.

    Raises:
      UserError: a model or an argument that is not supported.
    """
    heads = {name.partition(".")[0] for name in names}
    if config.get("clip_norm_type", "l2") != "l2":
        raise UserError(
            f"constructor argument clip_norm_type={config['clip_norm_type']!r}: only l2 is supported"
        )
    if "class_embedding" in heads:
        return _teacher(config)
    if "factory" in config:
        config = _factory_arguments(config)
    student = "clip_decoder" in heads
    get = Arguments(config, IDLE)
    prefix = "encoder_" if student else ""
    width, ratio = get(f"{prefix}embed_dim", 768), get("mlp_ratio", 4.0)
    only(
        "use_learnable_pos_emb", get("use_learnable_pos_emb", False), False, "published models have sinusoids"
    )
    only("qk_scale", get("qk_scale", None), None, "published models scale by the head size")
    only(f"{prefix}in_chans", get(f"{prefix}in_chans", 3), 3, "videos have three channels")
    encoder = dict(
        name="vit",
        width=width,
        depth=get(f"{prefix}depth", 12),
        heads=get(f"{prefix}num_heads", 12),
        mlp_dim=int(width * ratio),
        frames=get("num_frames" if student else "all_frames", 8),
        image_size=pair(get("img_size", 224)),
        tubelet=get("tubelet_size", 1),
        patch=square("patch_size", get("patch_size", 16)),
        norm_eps=1e-6,
        qkv_bias="qv" if get("qkv_bias", False) else "none",
        layer_scale=get("init_values", 0.0) or 0.0,
        final_norm=student,
        positions="learned" if "pos_embed" in heads else "sincos1d",
    )
    if student:
        only("encoder_num_classes", get("encoder_num_classes", 0), 0, "pretraining has no classifier")
        only(
            "clip_decoder_embed_dim",
            get("clip_decoder_embed_dim", width),
            width,
            "it has to be the encoder's width",
        )
        spec = Spec(
            "student",
            encoder,
            get("clip_output_dim", 512),
            get("clip_return_layer", 1),
            get("clip_student_return_interval", 1),
        )
        get("num_classes", 0)
    else:
        only("use_mean_pooling", get("use_mean_pooling", True), True, "published models pool by the mean")
        spec = Spec("finetune", encoder, classes=get("num_classes", 1000))
    get.finish()
    return spec


def _teacher(config: MappingType[str, Any]) -> Spec:
    if "factory" in config:
        if config["factory"] not in TEACHERS:
            raise UserError(f"unknown factory '{config['factory']}': expected one of {', '.join(TEACHERS)}")
        keys = ("width", "layers", "heads", "patch_size", "output_dim")
        config = dict(zip(keys, TEACHERS[config["factory"]], strict=True)) | dict(config)
    get = Arguments(config, IDLE)
    only("kernel_size", get("kernel_size", 1), 1, "published teachers see one frame at a time")
    size, patch = get("input_resolution", 224), get("patch_size", 16)
    part = vision_part(get("width", 768), get("layers", 12), get("heads", 12), patch, size)
    spec = Spec(
        "teacher",
        part | dict(image_size=pair(size)),
        get("output_dim", 512),
        get("clip_return_layer", 1),
        get("clip_return_interval", 1),
    )
    get.finish()
    return spec


def _factory_arguments(config: MappingType[str, Any]) -> dict[str, Any]:
    """Constructor arguments that a named model factory of the original sets, then those given to it."""
    found = re.fullmatch(r"(pretrain_umt|vit)_([a-z]+)_patch(\d+)_(\d+)", str(config["factory"]))
    if found is None or found[2] not in SIZES:
        raise UserError(f"unknown factory '{config['factory']}': sizes are {', '.join(SIZES)}")
    prefix = "encoder_" if found[1] == "pretrain_umt" else ""
    arguments: dict[str, Any] = dict(
        patch_size=int(found[3]), img_size=int(found[4]), mlp_ratio=4, qkv_bias=True
    )
    for key, value in zip(("embed_dim", "depth", "num_heads"), SIZES[found[2]], strict=True):
        arguments[prefix + key] = value
    return arguments | {key: value for key, value in config.items() if key != "factory"}


def mapping(spec: Spec, shapes: MappingType[str, Shape]) -> Mapping:
    """The mapping to {"encoder", "clip"}, {"encoder", "video_proj"} or a Classifier's tree."""
    if spec.kind == "teacher":
        return Mapping(vision_rules(), shapes)
    prefix = r"(?:encoder\.)?"
    rules: list[Rule] = [
        (rf"{prefix}patch_embed\.proj\.weight", "encoder/patch_embed/kernel", "conv"),
        (rf"{prefix}patch_embed\.proj\.bias", "encoder/patch_embed/bias", "same"),
        ("pos_embed", "encoder/pos", "first"),
    ]
    block = rf"{prefix}blocks\.(\d+)\."
    rules += [(rf"{block}attn\.{b}_bias", rf"encoder/blocks/attn/{b}_bias[\1]", "same") for b in "qv"]
    rules += [(rf"{block}gamma_{i}", rf"encoder/blocks/ls{i}/gamma[\1]", "same") for i in (1, 2)]
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        path = f"encoder/blocks/{name.replace('.', '/')}"
        rules.append((rf"{block}{name}\.weight", rf"{path}/kernel[\1]", "linear"))
        rules.append((rf"{block}{name}\.bias", rf"{path}/bias[\1]", "same"))
    for name in ("norm1", "norm2"):
        rules.append((rf"{block}{name}\.weight", rf"encoder/blocks/{name}/scale[\1]", "same"))
        rules.append((rf"{block}{name}\.bias", rf"encoder/blocks/{name}/bias[\1]", "same"))
    head, projection = r"clip_decoder\.(\d+)\.", "clip/projection"
    rules += [
        (rf"{head}head\.weight", rf"{projection}/head/kernel[\1]", "linear"),
        (rf"{head}head\.bias", rf"{projection}/head/bias[\1]", "same"),
        (rf"{head}norm\.weight", rf"{projection}/norm/scale[\1]", "same"),
        (rf"{head}norm\.bias", rf"{projection}/norm/bias[\1]", "same"),
        (r"encoder\.norm\.weight", "encoder/norm/scale", "same"),
        (r"encoder\.norm\.bias", "encoder/norm/bias", "same"),
        (r"fc_norm\.weight", "norm/scale", "same"),
        (r"fc_norm\.bias", "norm/bias", "same"),
        (r"head\.weight", "head/kernel", "linear"),
        (r"head\.bias", "head/bias", "same"),
    ]
    return Mapping(rules, shapes)

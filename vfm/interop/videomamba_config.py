"""VideoMamba's constructor arguments in our words.

The image classifier, the video classifier and the masked pretraining model are told apart by their tensors, as
their classes all have the same name.
"""

from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any

from vfm.errors import UserError
from vfm.interop.arguments import Arguments, only, pair, square

# Arguments without effect on names, shapes or evaluation-mode numbers in float32.
IDLE = set(
    "factory drop_rate drop_path_rate fc_drop_rate initializer_cfg residual_in_fp32 device dtype use_checkpoint "
    "checkpoint_num pretrained".split()
)
MIXER_IDLE = set("dt_min dt_max dt_init dt_scale dt_init_floor layer_idx device dtype".split())
FACTORIES = {  # width, depth
    "videomamba_tiny": (192, 24),
    "videomamba_small": (384, 24),
    "videomamba_middle": (576, 32),
    "videomamba_base": (768, 24),
    "videomamba_middle_pretrain": (576, 32),
}
LATER = {  # tensors that belong to models of later work
    "pool_norm": "the vision encoder of the video-text model",
    "vision_encoder": "the video-text model",
    "text_encoder": "the video-text model",
    "distill_head": "the self-distilled image student",
}


@dataclass(frozen=True)
class Spec:
    """An original's constructor arguments in our words."""

    kind: str  # image | video | pretrain
    encoder: dict[str, Any]  # a part of `vfm.models`
    channels: int = 3
    classes: int = 0
    # Of pretraining:
    layers: tuple[int, ...] = ()  # whose outputs the decoder sees, ascending; -1 = the embedding
    teacher_width: int = 0
    unit: bool = True  # the decoder scales its results to unit length
    fused: bool = True  # the last layer's feature leaves its mixer's output out, as the fused norm does


def spec_of(config: MappingType[str, Any], names: Iterable[str]) -> Spec:
    """Our words for constructor arguments; `names` are those of the model's tensors.

    Raises:
      UserError: a model or an argument that is not supported.
    """
    heads = {name.partition(".")[0] for name in names}
    for head, model in LATER.items():
        if head in heads:
            raise UserError(f"not supported yet: {model} (its tensors '{head}.*')")
    kind = (
        "pretrain" if "clip_decoder" in heads else "video" if "temporal_pos_embedding" in heads else "image"
    )
    if "factory" in config:
        if config["factory"] not in FACTORIES:
            raise UserError(f"unknown factory '{config['factory']}': expected one of {', '.join(FACTORIES)}")
        width, depth = FACTORIES[config["factory"]]
        config = dict(embed_dim=width, depth=depth, patch_size=16) | dict(config)
    get = Arguments(config, IDLE)
    rms, fused = get("rms_norm", True), get("fused_add_norm", True)
    patch, tubelet = square("patch_size", get("patch_size", 16)), 1
    shape = dict(frames=1, stride=get("stride", 16), positions="learned")
    if kind != "image":
        tubelet, frames = get("kernel_size", 1), get("num_frames", 8)
        if frames % tubelet:
            raise UserError(
                f"constructor argument num_frames={frames} is not supported: kernel_size={tubelet} must divide it"
            )
        shape = dict(frames=frames, positions="learned_separable")
    encoder = dict(
        name="mamba",
        width=get("embed_dim", 192),
        depth=get("depth", 24),
        image_size=pair(get("img_size", 224)),
        tubelet=tubelet,
        patch=patch,
        norm="rmsnorm" if rms else "layernorm",
        norm_eps=get("norm_epsilon", 1e-5),
        **shape,
        **_mixer(get("ssm_cfg", None) or {}, get("bimamba", True)),
    )
    shared = dict(kind=kind, encoder=encoder, channels=get("channels", 3))
    if kind != "pretrain":
        classes = get("num_classes", 1000)
        get.finish()
        if classes < 1:
            raise UserError(
                f"constructor argument num_classes={classes} is not supported: no head, no logits"
            )
        return Spec(**shared, classes=classes)
    return _pretraining(get, shared, bool(fused))


def _mixer(given: MappingType[str, Any], bidirectional: bool) -> dict[str, Any]:
    """The arguments of the original's Mamba module, `ssm_cfg`."""
    get = Arguments(given, MIXER_IDLE)
    only(
        "ssm_cfg.use_fast_path",
        get("use_fast_path", True) or not bidirectional,
        True,
        "without it the original leaves out the backward direction that its parameters are for",
    )
    rank = get("dt_rank", "auto")
    mixer = dict(
        d_state=get("d_state", 16),
        d_conv=get("d_conv", 4),
        expand=get("expand", 2),
        dt_rank=0 if rank == "auto" else rank,
        conv_bias=get("conv_bias", True),
        proj_bias=get("bias", False),
        bidirectional=get("bimamba", bidirectional),
    )
    get.finish()
    return mixer


def _pretraining(get: Arguments, shared: dict[str, Any], fused: bool) -> Spec:
    width, depth = shared["encoder"]["width"], shared["encoder"]["depth"]
    only(
        "clip_decoder_embed_dim",
        get("clip_decoder_embed_dim", 768),
        width,
        "it has to be the encoder's width",
    )
    unit = get("clip_norm_type", "l2")
    if unit not in ("l2", "none"):
        raise UserError(f"constructor argument clip_norm_type={unit!r} is not supported: expected l2 or none")
    count, interval = get("clip_return_layer", 1), get("clip_student_return_interval", 1)
    layers = tuple(sorted(depth - 1 - int(i * interval) for i in range(count)))
    if not layers or layers[0] < -1 or len(set(layers)) < count:
        raise UserError(
            f"constructor arguments clip_return_layer={count}, clip_student_return_interval={interval} are not "
            f"supported: they ask for layers {list(layers)} of {depth}"
        )
    teacher = get("clip_output_dim", 512)
    get("num_classes", 0)  # accepted by factories, without effect
    get.finish()
    return Spec(**shared, layers=layers, teacher_width=teacher, unit=unit == "l2", fused=fused)

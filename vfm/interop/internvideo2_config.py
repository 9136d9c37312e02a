"""InternVideo2's constructor arguments in our words.

What a file holds (pretraining, distillation, classifier, vision tower, teacher, the video-text model) is told by
its tensors and arguments.
"""

from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any

from vfm.errors import UserError
from vfm.interop.arguments import Arguments, only, pair, square

# Arguments without effect on names, shapes or evaluation-mode numbers.
IDLE = set(
    "drop_path_rate head_drop_path_rate fc_drop_rate init_scale use_checkpoint checkpoint_num layerscale_no_force_fp32 "
    "use_flash_attn use_fused_rmsnorm pretrained clip_norm_type mae_norm_type".split()
)
SIZES = {  # of factories: width, depth, heads, MLP ratio
    "small": (384, 12, 6, 4),
    "base": (768, 12, 12, 4),
    "large": (1024, 24, 16, 4),
    "1B": (1408, 40, 16, 48 / 11),
    "6B": (3200, 48, 25, 4),
}
MERGES = {  # of the linear probe: whether frames' means are taken with the class token, the pooled vector is joined
    "cls_avg1": False,
    "cls_avg1_proj": True,
}
NORMS = ("LN", "kaiming_BN")


@dataclass(frozen=True)
class Aligned:
    """One alignment head: the layers it takes, its predictor and what it is called."""

    layers: int
    interval: float
    part: dict[str, Any]  # of `vfm.models`


@dataclass(frozen=True)
class Spec:
    """An original's constructor arguments in our words."""

    encoder: dict[str, Any]  # parts of `vfm.models`
    pool: dict[str, Any]
    channels: int = 3
    clip: Aligned | None = None
    mae: Aligned | None = None
    final_width: int = 0  # of the teacher's pooled vector; 0 = none
    classes: int = 0
    extra: bool = False  # a residual MLP on the pooled vector (attentive probe)
    merge: str = ""  # how a linear probe joins vectors
    merge_norm: str = "LN"
    teacher_layers: int = 0  # of a teacher that runs frame by frame


def spec_of(config: MappingType[str, Any], names: Iterable[str]) -> Spec:
    """Our words for the arguments of a vision model; `names` are those of its tensors.

    Raises:
      UserError: a model or an argument that is not supported.
    """
    heads = {name.partition(".")[0] for name in names}
    if "factory" in config:
        config = _factory_arguments(config)
    get = Arguments(config, IDLE)
    width, depth, ratio = get("embed_dim", 1408), get("depth", 40), get("mlp_ratio", 48 / 11)
    only("qk_normalization", get("qk_normalization", True), True, "published models have it")
    only("qkv_bias", get("qkv_bias", False), False, "published models have none")
    patch, tubelet = square("patch_size", get("patch_size", 14)), get("tubelet_size", 1)
    separate = bool(get("sep_pos_embed", False))
    own_image = bool(get("sep_image_video_pos_embed", False))
    teacher = "num_frames" not in config  # it is run frame by frame
    frames = tubelet if teacher else get("num_frames", 8)
    positions = "learned_separable" if separate else "learned"
    images = "own" if own_image else "mean"
    encoder = dict(
        name="vit",
        width=width,
        depth=depth,
        heads=get("num_heads", 16),
        mlp_dim=int(width * ratio),
        frames=frames,
        image_size=pair(get("img_size", 224)),
        tubelet=tubelet,
        patch=patch,
        positions=positions,
        image_positions=images,
        cls_token=True,
        cls_position=True,
        norm="rmsnorm",
        norm_eps=1e-6,
        qkv_bias="none",
        qk_norm=True,
        qk_norm_over="all",
        layer_scale=get("init_values", 1e-5),
        # The fused MLP, which made the published weights, has the tanh form; the plain one the exact.
        activation="gelu_tanh" if get("use_fused_mlp", True) else "gelu",
        final_norm=False,
    )
    pooled = get("clip_embed_dim", 768)
    pool = dict(name="attention_pool", width=pooled, heads=get("attn_pool_num_heads", 16))
    shared = dict(encoder=encoder, pool=pool, channels=get("in_chans", 3))

    def aligned(prefix: str, default: int, **part: Any) -> Aligned:
        layers, interval = get(f"{prefix}_return_layer", 1), get(f"{prefix}_student_return_interval", 1)
        part = dict(
            name="align", out_dim=get(f"{prefix}_teacher_embed_dim", default), positions=positions, **part
        )
        return Aligned(layers, interval, part)

    if teacher:
        shared["teacher_layers"] = get("clip_return_layer", 1)
    elif "clip_decoder" in heads:
        shared["clip"] = aligned("clip", 3200, cls=True, images=images)
        shared["final_width"] = get("clip_teacher_final_dim", 768)
    if "mae_decoder" in heads:
        shared["mae"] = aligned("mae", 1408, head="mlp")
    if "head" in heads:
        shared["classes"] = get("num_classes", 1000)
        merge, norm = get("merge_method", ""), get("merge_norm", "LN")
        if merge and merge not in MERGES or norm not in NORMS:
            raise UserError(
                f"constructor arguments merge_method={merge!r}, merge_norm={norm!r} are not supported: expected one of "
                f"{', '.join(MERGES)} with one of {', '.join(NORMS)}"
            )
        shared |= dict(merge=merge, merge_norm=norm, extra="extra_mlp" in heads)
    get("num_classes", 0)
    get.finish()
    return Spec(**shared)


def _factory_arguments(config: MappingType[str, Any]) -> dict[str, Any]:
    """Constructor arguments that a named model factory of the original sets, then those given to it."""
    size = next((s for s in SIZES if f"internvideo2_{s}_" in str(config["factory"])), None)
    if size is None:
        raise UserError(f"unknown factory '{config['factory']}': sizes are {', '.join(SIZES)}")
    width, depth, heads, ratio = SIZES[size]
    arguments = dict(embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=ratio)
    return arguments | {key: value for key, value in config.items() if key != "factory"}

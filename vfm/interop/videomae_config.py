"""VideoMAE's constructor arguments, of the original code and of transformers, in our words.

An argument that nothing here maps is an error: it could change numbers silently.
"""

import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any

from vfm.errors import UserError
from vfm.interop.arguments import Arguments, only, pair, square

# Arguments without effect on names, shapes or evaluation-mode numbers.
ORIGINAL_IDLE = set(
    "class norm_layer factory drop_rate attn_drop_rate drop_path_rate fc_drop_rate use_checkpoint init_scale "
    "mask_ratio window_size pretrained".split()
)
HF_IDLE = set(
    "model_type hidden_dropout_prob attention_probs_dropout_prob initializer_range architectures dtype torch_dtype "
    "transformers_version id2label label2id output_attentions output_hidden_states return_dict "
    "chunk_size_feed_forward is_encoder_decoder _name_or_path tie_word_embeddings".split()
)
HF_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
SIZES = {  # of factories: the encoder's width, depth, heads; the decoder's width, heads
    "small": (384, 12, 6, 192, 3),
    "base": (768, 12, 12, 384, 6),
    "large": (1024, 24, 16, 512, 8),
    "huge": (1280, 32, 16, 640, 8),
}


@dataclass(frozen=True)
class Spec:
    """An original's constructor arguments in our words."""

    kind: str  # pretrain | classify | encoder
    encoder: dict[str, Any]  # parts of `vfm.models`
    decoder: dict[str, Any] | None = None
    head: dict[str, Any] | None = None  # arguments of Classifier
    target_norm: str = "channel"
    channels: int = 3
    problem: str = ""  # transformers' problem_type of a classifier's loss


def original_spec(config: MappingType[str, Any]) -> Spec:
    """Arguments of modeling_pretrain.PretrainVisionTransformer or modeling_finetune.VisionTransformer."""
    if "factory" in config:
        config = _factory_arguments(config)
    get = Arguments(config, ORIGINAL_IDLE)
    name = str(config.get("class", ""))
    pretrain = name.endswith("PretrainVisionTransformer") or (not name and "encoder_embed_dim" in config)
    prefix = "encoder_" if pretrain else ""
    width = get(f"{prefix}embed_dim", 768)
    ratio, scale, initial = get("mlp_ratio", 4.0), get("qk_scale", None), get("init_values", 0.0) or 0.0
    eps = _norm_eps(str(config.get("norm_layer", "LayerNorm")))
    shared = dict(
        qkv_bias="qv" if get("qkv_bias", False) else "none",
        qk_scale=scale or 0.0,
        layer_scale=max(initial, 0.0),
        norm_eps=eps,
    )
    encoder = dict(
        name="vit",
        width=width,
        depth=get(f"{prefix}depth", 12),
        heads=get(f"{prefix}num_heads", 12),
        mlp_dim=int(width * ratio),
        frames=16 if pretrain else get("all_frames", 16),  # the pretraining code assumes 16
        image_size=pair(get("img_size", 224)),
        tubelet=get("tubelet_size", 2),
        patch=square("patch_size", get("patch_size", 16)),
        **shared,
    )
    channels = get(f"{prefix}in_chans", 3)
    learned = get("use_learnable_pos_emb", False)
    if pretrain:
        only("use_learnable_pos_emb", learned, False, "the original fails with it (one position too many)")
        only("encoder_num_classes", get("encoder_num_classes", 0), 0, "pretraining has no classifier")
        get("num_classes", 0)  # accepted by the original for its factories' sake, without effect
        get("in_chans", 0)
        width = get("decoder_embed_dim", 512)
        decoder = dict(
            name="decoder",
            out_dim=get("decoder_num_classes", 1536),
            width=width,
            depth=get("decoder_depth", 8),
            heads=get("decoder_num_heads", 8),
            mlp_dim=int(width * ratio),
            **shared,
        )
        norm = "channel" if get("normlize_target", True) else "none"
        get.finish()
        return Spec("pretrain", encoder, decoder, target_norm=norm, channels=channels)
    classes, mean = get("num_classes", 1000), get("use_mean_pooling", True)
    get.finish()
    if classes < 1:
        raise UserError(
            f"constructor argument num_classes={classes} is not supported: the head needs a class"
        )
    encoder |= dict(positions="learned" if learned else "sincos1d", final_norm=not mean)
    head = dict(classes=classes, pooling="mean" if mean else "first", norm=bool(mean), norm_eps=eps)
    return Spec("classify", encoder, head=head, channels=channels)


def _factory_arguments(config: MappingType[str, Any]) -> dict[str, Any]:
    """Constructor arguments that a named model factory of the original sets, then those given to it."""
    match = re.fullmatch(r"(pretrain_videomae|vit)_([a-z]+)_patch(\d+)_(\d+)", str(config["factory"]))
    if match is None or match[2] not in SIZES:
        raise UserError(f"unknown factory '{config['factory']}': sizes are {', '.join(SIZES)}")
    width, depth, heads, decoder_width, decoder_heads = SIZES[match[2]]
    arguments = dict(patch_size=int(match[3]), img_size=int(match[4]), mlp_ratio=4, qkv_bias=True)
    arguments["norm_layer"] = "LayerNorm eps=1e-6"
    if match[1] == "vit":
        arguments |= dict(embed_dim=width, depth=depth, num_heads=heads)
        arguments["class"] = "VisionTransformer"
    else:
        arguments |= dict(encoder_embed_dim=width, encoder_depth=depth, encoder_num_heads=heads)
        arguments |= dict(decoder_embed_dim=decoder_width, decoder_num_heads=decoder_heads)
        arguments["class"] = "PretrainVisionTransformer"
    return arguments | {key: value for key, value in config.items() if key != "factory"}


def hf_spec(config: MappingType[str, Any], model: str) -> Spec:
    """Arguments of transformers' VideoMAEConfig; `model` is the class that they belong to."""
    kinds = {
        "VideoMAEForPreTraining": "pretrain",
        "VideoMAEForVideoClassification": "classify",
        "VideoMAEModel": "encoder",
    }
    if model not in kinds:
        raise UserError(f"class '{model}' is not supported: expected one of {', '.join(kinds)}")
    kind = kinds[model]
    get = Arguments(config, HF_IDLE)
    only("model_type", config.get("model_type", "videomae"), "videomae", "another family")
    activation = get("hidden_act", "gelu")
    if activation not in HF_ACTIVATIONS:
        raise UserError(
            f"constructor argument hidden_act='{activation}' is not supported: {', '.join(HF_ACTIVATIONS)}"
        )
    mean, eps = get("use_mean_pooling", True), get("layer_norm_eps", 1e-12)
    shared = dict(
        qkv_bias="qv" if get("qv_bias", True) else "none",
        norm_eps=eps,
        activation=HF_ACTIVATIONS[activation],
    )
    channels, patch, tubelet = get("num_channels", 3), get("patch_size", 16), get("tubelet_size", 2)
    encoder = dict(
        name="vit",
        width=get("hidden_size", 768),
        depth=get("num_hidden_layers", 12),
        heads=get("num_attention_heads", 12),
        mlp_dim=get("intermediate_size", 3072),
        frames=get("num_frames", 16),
        image_size=pair(get("image_size", 224)),
        tubelet=tubelet,
        patch=square("patch_size", patch),
        final_norm=not mean,
        **shared,
    )
    decoder = dict(
        name="decoder",
        out_dim=channels * tubelet * encoder["patch"] ** 2,
        width=get("decoder_hidden_size", 384),
        depth=get("decoder_num_hidden_layers", 4),
        heads=get("decoder_num_attention_heads", 6),
        mlp_dim=get("decoder_intermediate_size", 1536),
        final_norm_eps=1e-5,  # torch's default: these two norms do not follow layer_norm_eps
        **shared,
    )
    classes = get("num_labels", len(config.get("id2label") or {}) or 2)
    head = dict(classes=classes, pooling="mean" if mean else "first", norm=bool(mean), norm_eps=1e-5)
    norm, problem = ("channel" if get("norm_pix_loss", True) else "none"), get("problem_type", None) or ""
    get.finish()
    return Spec(
        kind,
        encoder,
        decoder if kind == "pretrain" else None,
        head if kind == "classify" else None,
        norm,
        channels,
        problem,
    )


def _norm_eps(norm: str) -> float:
    match = re.fullmatch(r"LayerNorm(?: eps=([-+.\de]+))?", norm)
    if match is None:
        raise UserError(f"constructor argument norm_layer={norm!r} is not supported: only LayerNorm is")
    return float(match[1] or 1e-5)

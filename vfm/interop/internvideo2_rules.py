"""Tensor names of InternVideo2's vision models, and tables that it stores in two pieces where ours is one."""

from collections.abc import Mapping as MappingType

import numpy as np

from vfm import models
from vfm.interop.golden import Tensors
from vfm.interop.internvideo2_config import Aligned, Spec
from vfm.interop.mapping import Mapping, Rule, Shape
from vfm.models.alignment import AlignmentDecoder

CLS, SPACE = "pos_embed_cls", "pos_embed_spatial"


def aligner(spec: Spec, aligned: Aligned) -> AlignmentDecoder:
    """The predictor of one alignment."""
    return models.build(aligned.part, native=models.build(spec.encoder).native)


def dense(name: str, path: str) -> list[Rule]:
    """A linear layer."""
    return [(rf"{name}\.weight", f"{path}/kernel", "linear"), (rf"{name}\.bias", f"{path}/bias", "same")]


def norm(name: str, path: str) -> list[Rule]:
    """A LayerNorm."""
    return [(rf"{name}\.weight", f"{path}/scale", "same"), (rf"{name}\.bias", f"{path}/bias", "same")]


def vision_rules(prefix: str = "") -> list[Rule]:
    """Rules of the encoder, its pool and the alignment heads; `prefix` is a pattern in front of all names."""
    rules: list[Rule] = [("cls_token", "encoder/cls_token", "first")]
    for theirs, ours in (("", "encoder"), ("clip_", "clip"), ("mae_", "mae")):
        rules += [
            (f"{theirs}pos_embed", f"{ours}/pos", "first"),
            (f"{theirs}pos_embed_spatial", f"{ours}/space_pos", "first"),
            (f"{theirs}pos_embed_temporal", f"{ours}/time_pos", "first"),
            (f"{theirs}img_pos_embed", f"{ours}/image_pos", "first"),
        ]
    rules += [
        (r"patch_embed\.proj\.weight", "encoder/patch_embed/kernel", "conv"),
        (r"patch_embed\.proj\.bias", "encoder/patch_embed/bias", "same"),
    ]
    block, ours = r"blocks\.(\d+)\.", "encoder/blocks/"
    for name in ("norm1", "norm2", "attn.q_norm", "attn.k_norm"):
        rules.append((rf"{block}{name}\.weight", rf"{ours}{name.replace('.', '/')}/scale[\1]", "same"))
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        path = name.replace(".", "/")
        rules.append((rf"{block}{name}\.weight", rf"{ours}{path}/kernel[\1]", "linear"))
        rules.append((rf"{block}{name}\.bias", rf"{ours}{path}/bias[\1]", "same"))
    rules += [(rf"{block}ls{i}\.gamma", rf"{ours}ls{i}/gamma[\1]", "same") for i in (1, 2)]
    for name in "qkv":
        rules += norm(rf"clip_projector\.norm1_{name}", f"pool/norm_{name}")
        rules.append((rf"clip_projector\.cross_attn\.{name}\.weight", f"pool/{name}/kernel", "linear"))
        rules.append((rf"clip_projector\.cross_attn\.{name}_bias", f"pool/{name}/bias", "same"))
    rules += dense(r"clip_projector\.cross_attn\.proj", "pool/proj")
    rules += dense(r"final_clip_decoder\.head", "final/head") + norm(
        r"final_clip_decoder\.norm", "final/norm"
    )
    for theirs, path in (
        (r"clip_decoder\.(\d+)\.head", "clip/projection/head"),
        (r"mae_decoder\.(\d+)\.head\.0", "mae/projection/fc1"),
        (r"mae_decoder\.(\d+)\.head\.2", "mae/projection/fc2"),
    ):
        rules.append((rf"{theirs}\.weight", rf"{path}/kernel[\1]", "linear"))
        rules.append((rf"{theirs}\.bias", rf"{path}/bias[\1]", "same"))
    for name in ("clip", "mae"):
        rules.append((rf"{name}_decoder\.(\d+)\.norm\.weight", rf"{name}/projection/norm/scale[\1]", "same"))
        rules.append((rf"{name}_decoder\.(\d+)\.norm\.bias", rf"{name}/projection/norm/bias[\1]", "same"))
    return [(prefix + pattern, target, transform) for pattern, target, transform in rules]


def mapping(spec: Spec, shapes: MappingType[str, Shape]) -> Mapping:
    """The mapping of a vision model's tensors to {"encoder", "pool", "clip", "mae", "final", ...}."""
    rules = vision_rules() + norm("fc_norm", "fc_norm") + dense("head", "head")
    rules += norm(r"extra_mlp\.0", "extra/norm")
    rules += dense(r"extra_mlp\.1\.fc1", "extra/mlp/fc1") + dense(r"extra_mlp\.1\.fc2", "extra/mlp/fc2")
    rules += norm("down_norm", "down_norm") if spec.merge_norm == "LN" else _batch_norm()
    return Mapping(rules, shapes)


def _batch_norm() -> list[Rule]:
    """Statistics of a batch norm without parameters; how many batches made them is of no use here."""
    return [
        (r"down_norm\.running_mean", "down_norm/mean", "same"),
        (r"down_norm\.running_var", "down_norm/variance", "same"),
        (r"down_norm\.num_batches_tracked", None, "same"),
    ]


def join(tensors: Tensors) -> Tensors:
    """Tables of space in one piece, the class token's row in front, where they are stored in two."""
    joined = dict(tensors)
    for name in tensors:
        if name.endswith(CLS):
            space = name.removesuffix(CLS) + SPACE
            joined[space] = np.concatenate([joined.pop(name), tensors[space]], axis=1)
    return joined


def split(joined: Tensors, names: MappingType[str, np.ndarray]) -> Tensors:
    """The inverse of `join`, for the tensors `names`."""
    tensors = dict(joined)
    for name in names:
        if name.endswith(CLS):
            space = name.removesuffix(CLS) + SPACE
            tensors[name], tensors[space] = np.split(joined[space], [1], axis=1)
    return tensors

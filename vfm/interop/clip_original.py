"""Tensor names of OpenAI's CLIP, as the models that were built on its code keep them.

Letters: D width, E shared space.
"""

from vfm.interop.mapping import Rule

MATRIX = "same"  # projections that are stored as the matrix of `x @ matrix`


def layer_rules(theirs: str, ours: str) -> list[Rule]:
    """A stack of residual blocks; `theirs` is a pattern, `ours` a path."""
    block = rf"{theirs}transformer\.resblocks\.(\d+)\."
    rules: list[Rule] = [
        (rf"{block}attn\.in_proj_weight", rf"{ours}/blocks/attn/qkv/kernel[\1]", "linear"),
        (rf"{block}attn\.in_proj_bias", rf"{ours}/blocks/attn/qkv/bias[\1]", "same"),
    ]
    for name, path in (
        (r"attn\.out_proj", "attn/proj"),
        (r"mlp\.c_fc", "mlp/fc1"),
        (r"mlp\.c_proj", "mlp/fc2"),
    ):
        rules.append((rf"{block}{name}\.weight", rf"{ours}/blocks/{path}/kernel[\1]", "linear"))
        rules.append((rf"{block}{name}\.bias", rf"{ours}/blocks/{path}/bias[\1]", "same"))
    for name, path in (("ln_1", "norm1"), ("ln_2", "norm2")):
        rules.append((rf"{block}{name}\.weight", rf"{ours}/blocks/{path}/scale[\1]", "same"))
        rules.append((rf"{block}{name}\.bias", rf"{ours}/blocks/{path}/bias[\1]", "same"))
    return rules


def vision_rules(prefix: str = "", space: str = "pos") -> list[Rule]:
    """The vision tower -> "encoder" and "video_proj"; `space` is what our encoder calls its table of places."""
    rules: list[Rule] = [
        (rf"{prefix}class_embedding", "encoder/cls_token[0]", "same"),
        (rf"{prefix}positional_embedding", f"encoder/{space}", "same"),
        (rf"{prefix}temporal_positional_embedding", "encoder/time_pos", "first"),
        (rf"{prefix}conv1\.weight", "encoder/patch_embed/kernel", "conv"),
        (rf"{prefix}proj", "video_proj/kernel", MATRIX),
    ]
    for name, path in (("ln_pre", "pre_norm"), ("ln_post", "norm")):
        rules.append((rf"{prefix}{name}\.weight", f"encoder/{path}/scale", "same"))
        rules.append((rf"{prefix}{name}\.bias", f"encoder/{path}/bias", "same"))
    return rules + layer_rules(prefix, "encoder")


def text_rules(prefix: str = "") -> list[Rule]:
    """The text tower -> "text" and "text_proj"."""
    return [
        (rf"{prefix}token_embedding\.weight", "text/words/embedding", "same"),
        (rf"{prefix}positional_embedding", "text/pos", "same"),
        (rf"{prefix}ln_final\.weight", "text/norm/scale", "same"),
        (rf"{prefix}ln_final\.bias", "text/norm/bias", "same"),
        (rf"{prefix}text_projection", "text_proj/kernel", MATRIX),
        *layer_rules(prefix, "text"),
    ]


def vision_part(width: int, depth: int, heads: int, patch: int, image_size: int, **changes) -> dict:
    """CLIP's vision tower as a part of `vfm.models`."""
    return (
        dict(
            name="vit",
            width=width,
            depth=depth,
            heads=heads,
            mlp_dim=4 * width,
            frames=1,
            image_size=image_size,
            tubelet=1,
            patch=patch,
            patch_bias=False,
            positions="learned",
            cls_token=True,
            cls_position=True,
            pre_norm=True,
            norm_eps=1e-5,
            qkv_bias="qkv",
            activation="quick_gelu",
        )
        | changes
    )

"""InternVideo2: pretraining, distillation, classifiers, the vision tower of CLIP and the frame-wise teacher.

Sources: Wang et al. 2024 (arXiv 2403.15377); OpenGVLab/InternVideo (InternVideo2). The video-text model of the second
stage is in `internvideo2_stage2`, the heads of classifiers in `internvideo2_heads`.

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens after the class token, D width,
K aligned layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from vfm.interop import internvideo2_heads, internvideo2_stage2
from vfm.interop.golden import Golden, Names, Tensors, keyed
from vfm.interop.internvideo2_align import align, distance, encode, parameter_shapes, visible
from vfm.interop.internvideo2_config import Spec, spec_of
from vfm.interop.internvideo2_rules import join, mapping, split
from vfm.interop.mapping import Mapping
from vfm.models.alignment import last_layers, unit
from vfm.models.layers import Attention, Norm
from vfm.ops import positions

FAMILIES = ("internvideo2",)


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    if "vision_encoder" in names.config:
        return internvideo2_stage2.parts(names)
    spec = spec_of(names.config, names.tensors)
    return {"encoder": spec.encoder, "pool": spec.pool}


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    if "vision_encoder" in names.config:
        return internvideo2_stage2.template(names)
    spec = spec_of(names.config, names.tensors)
    return mapping(spec, names.tensors), parameter_shapes(spec)


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, losses and gradients of our model on a golden file's weights and inputs."""
    if "orig_t" in golden.config:
        return _interpolate(golden)
    if "vision_encoder" in golden.config:
        return internvideo2_stage2.evaluate(golden)
    spec = spec_of(golden.config, golden.weights)
    weights = join(golden.weights)
    tensors = mapping(spec, {name: w.shape for name, w in weights.items()})
    params = tensors.to_ours(weights, parameter_shapes(spec))
    video = rearrange(jnp.asarray(golden.inputs["video"]), "b c t h w -> b t h w c")

    if spec.teacher_layers:
        return keyed(output=jax.jit(lambda params: _teach(spec, params, video))(params))

    def run(params):
        if spec.clip:
            return _pretrain(spec, params, video, golden.inputs)
        if spec.classes:
            return _classify(spec, params, video, golden.inputs["labels"])
        return _embed(spec, params, video)

    gradients, outputs = jax.jit(jax.grad(run, has_aux=True))(params)
    return keyed(output=outputs, grad=split(tensors.to_theirs(gradients), golden.weights))


def _pretrain(spec: Spec, params, video, inputs: Tensors) -> tuple[Array, dict[str, Array]]:
    ids = visible(inputs["mask"])
    features, seen, pooled, _ = encode(spec, params, video, ids[:, 1:] - 1)
    blocks = seen["blocks"]["output"][0]
    aligned = align(spec, params, blocks, pooled, ids, features.grid)
    targets = {"clip": np.take_along_axis(inputs["teacher_clip_middle"], ids[None, :, :, None], axis=2)}
    targets["final"] = inputs["teacher_clip_final"]
    if spec.mae:
        targets["mae"] = np.take_along_axis(inputs["teacher_mae"], ids[None, :, 1:, None] - 1, axis=2)
    losses = {name: distance(aligned[name], targets[name]) for name in aligned}
    loss = sum(losses.values())
    return loss, dict(
        visible_tokens_pos=seen["embed"][0],
        block0_attn=_first_attention(spec, params, seen["embed"][0]),
        block0_out=blocks[0],
        last_block_out=blocks[-1],
        pooled=pooled,
        clip_middle=aligned["clip"],
        clip_final=aligned["final"],
        mae=aligned.get("mae"),
        loss_clip_middle=losses["clip"],
        loss_clip_final=losses["final"],
        loss_mae=losses.get("mae"),
        loss=loss,
    )


def _first_attention(spec: Spec, params, x) -> Float[Array, "B N D"]:
    """The first layer's attention branch, before its gain."""
    first = jax.tree.map(lambda leaf: leaf[0], params["encoder"]["blocks"])
    e = spec.encoder
    x = Norm(e["norm"], e["norm_eps"]).apply({"params": first["norm1"]}, x)
    attend = Attention(
        e["heads"], "none", qk_norm=True, norm=e["norm"], norm_eps=e["norm_eps"], qk_norm_over="all"
    )
    return attend.apply({"params": first["attn"]}, x)


def optional(golden: Golden, name: str) -> str:
    """Why an output may be left out; "" if it may not."""
    of_loss = name == "output/loss" or name.startswith("grad/")
    return (
        "the file does not say which loss of the targets it is"
        if golden.variant == "teacher_internvl" and of_loss
        else ""
    )


def _teach(spec: Spec, params, video) -> dict[str, Array]:
    """The teacher's targets, frame by frame."""
    frames = video.shape[1]
    folded = rearrange(video, "b t h w c -> (b t) 1 h w c")
    _, seen, pooled, weights = encode(spec, params, folded)
    chosen = np.array(last_layers(spec.encoder["depth"], spec.teacher_layers))
    layers = rearrange(seen["blocks"]["output"][0][chosen], "k (b t) n d -> k b t n d", t=frames)
    middle = jnp.concatenate(
        [layers[:, :, :, 0].mean(2)[:, :, None], rearrange(layers[:, :, :, 1:], "k b t n d -> k b (t n) d")],
        axis=2,
    )
    final = unit(rearrange(pooled, "(b t) p -> b t p", t=frames).mean(1))
    middle = unit(middle)
    return dict(middle=middle, final=final, attn=weights[:, 1:])


def _classify(spec: Spec, params, video, labels) -> tuple[Array, dict[str, Array]]:
    features, seen, pooled, _ = encode(spec, params, video)
    before, logits = internvideo2_heads.apply(spec, params, features, pooled)
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
    blocks = seen["blocks"]["output"][0]
    return loss, dict(
        tokens_pos=seen["embed"][0],
        block0_out=blocks[0],
        pooled=pooled,
        pre_head=before,
        logits=logits,
        loss=loss,
    )


def _embed(spec: Spec, params, video) -> tuple[Array, dict[str, Array]]:
    _, seen, pooled, _ = encode(spec, params, video)
    _, _, image, _ = encode(spec, params, video[:, :1])
    loss = jnp.square(pooled).mean()
    return loss, dict(
        tokens_pos=seen["embed"][0],
        last_block_out=seen["blocks"]["output"][0][-1],
        feature=pooled,
        feature_image=image,
        loss=loss,
    )


def _interpolate(golden: Golden) -> dict[str, Any]:
    c, side = golden.config, (golden.config["orig_hw"],) * 2
    table = positions.adapt(
        golden.inputs["pos_embed"][0], (c["orig_t"], *side), (c["new_t"], c["new_hw"], c["new_hw"])
    )
    return {"output/pos_embed": table[None]}

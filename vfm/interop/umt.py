"""Unmasked Teacher, first stage: the student, its CLIP teacher and the fine-tuned classifier.

Sources: Li et al. 2023 (arXiv 2303.16058); OpenGVLab/unmasked_teacher (single_modality).

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens, D width, K aligned layers.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from vfm import losses, models
from vfm.errors import UserError
from vfm.interop.golden import Golden, Names, Tensors, keyed
from vfm.interop.mapping import Mapping, Shape
from vfm.interop.umt_config import Spec, mapping, spec_of
from vfm.models.alignment import AlignmentDecoder, last_layers
from vfm.models.classifier import Classifier
from vfm.models.layers import Attention, Dense, Norm
from vfm.ops import positions
from vfm.ops.resize import resize

FAMILIES = ("umt", "umt.student", "umt.clip_teacher", "umt.finetune")
TABLE = (8, 14, 14)  # the grid that the original's sinusoids are for


def networks(spec: Spec) -> tuple[Any, Any]:
    """(encoder, alignment decoder), (encoder, projection) or (classifier, None)."""
    encoder = models.build(spec.encoder)
    if spec.kind == "finetune":
        return Classifier(encoder, spec.classes), None
    if spec.kind == "teacher":
        return encoder, Dense(spec.width, use_bias=False)
    return encoder, AlignmentDecoder(spec.width, encoder.native, norm_eps=1e-6)


def parameter_shapes(spec: Spec) -> dict[str, Any]:
    """The tree of shapes of the parameters, without any memory."""
    network, head = networks(spec)
    height, width = spec.encoder["image_size"]
    video = jnp.zeros((1, spec.encoder["frames"], height, width, 3))

    def init(rng):
        params = network.init(rng, video)["params"]
        if spec.kind == "finetune":
            return params
        if spec.kind == "teacher":
            return {"encoder": params, "video_proj": head.init(rng, jnp.zeros((1, network.width)))["params"]}
        layers = jnp.zeros((spec.layers, 1, 1, network.width))
        return {"encoder": params, "clip": head.init(rng, layers, jnp.zeros((1, 1), jnp.int32))["params"]}

    return jax.eval_shape(init, jax.random.key(0))


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    return {"encoder": spec_of(names.config, names.tensors).encoder}


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    spec = spec_of(names.config, names.tensors)
    return mapping(spec, names.tensors), parameter_shapes(spec)


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, losses and gradients of our model on a golden file's weights and inputs."""
    spec = spec_of(golden.config, golden.weights)
    shapes: MappingType[str, Shape] = {name: w.shape for name, w in golden.weights.items()}
    tensors = mapping(spec, shapes)
    params = tensors.to_ours(golden.weights, parameter_shapes(spec))
    video = rearrange(jnp.asarray(golden.inputs["video"]), "b c t h w -> b t h w c")
    if spec.kind == "teacher":
        ratio = golden.config["mask_ratio"]
        outputs = jax.jit(lambda params: _teach(spec, params, video))(params)
        outputs["mask_from_importance"] = _mask(golden.inputs["importance"], ratio, len(video))
        return keyed(output=outputs)

    def run(params):
        if spec.kind == "student":
            return _align(spec, params, video, golden.inputs)
        return _classify(spec, params, video, golden.inputs["labels"], golden.groups["output"])

    gradients, outputs = jax.jit(jax.grad(run, has_aux=True))(params)
    return keyed(output=outputs, grad=tensors.to_theirs(gradients))


def _align(spec: Spec, params, video, inputs: Tensors) -> tuple[Array, dict[str, Array]]:
    """The last layers, each through the one final norm, projected and compared with the teacher's."""
    encoder, decoder = networks(spec)
    keep = _ids(inputs["mask"] == 0)
    variables = {"params": params["encoder"]}
    _, seen = encoder.apply(variables, video, keep, mutable=["intermediates"])
    _, everything = encoder.apply(variables, video, mutable=["intermediates"])
    blocks = seen["intermediates"]["blocks"]["output"][0]
    chosen = np.array(last_layers(spec.encoder["depth"], spec.layers, spec.interval))
    student = Norm(eps=spec.encoder["norm_eps"]).apply({"params": params["encoder"]["norm"]}, blocks[chosen])
    aligned = decoder.apply({"params": params["clip"]}, student, keep)
    target = np.take_along_axis(inputs["norm_clip"], keep[None, :, :, None], axis=2)
    loss = (2 - 2 * (aligned * target).sum(-1)).mean()
    return loss, dict(
        tokens_after_pos=everything["intermediates"]["embed"][0],
        block0=blocks[0],
        x_clip_vis=student,
        outputs_clip=aligned,
        targets_clip=target,
        loss_mse=losses.mse()(aligned, target).mean(),
        loss_smooth_l1=losses.smooth_l1()(aligned, target).mean(),
        loss=loss,
    )


def _ids(chosen: np.ndarray) -> np.ndarray:
    """Sorted ids of the true entries of each row."""
    rows = [np.flatnonzero(row) for row in chosen]
    if len({len(row) for row in rows}) != 1:
        raise UserError("input mask: every sample must show equally many tokens")
    return np.stack(rows).astype(np.int32)


def _teach(spec: Spec, params, video) -> dict[str, Array]:
    """The teacher, frame by frame: the last layers' patches in the shared space, and what the class token looks at."""
    encoder, project = networks(spec)
    e = spec.encoder
    batch, frames = video.shape[:2]
    height, width = e["image_size"]
    video = resize(video, {2: height, 3: width}, "cubic")
    folded = rearrange(video, "b t h w c -> (b t) 1 h w c")
    tree = params["encoder"]
    _, seen = encoder.apply({"params": tree}, folded, mutable=["intermediates"])
    seen = seen["intermediates"]
    stream = jnp.concatenate([seen["embed"][0][None], seen["blocks"]["output"][0]])
    norm = Norm(eps=e["norm_eps"])
    chosen = 1 + np.array(last_layers(e["depth"], spec.layers, spec.interval))
    patches = norm.apply({"params": tree["norm"]}, stream[chosen][:, :, 1:])
    patches = project.apply({"params": params["video_proj"]}, patches)
    patches /= jnp.linalg.norm(patches, axis=-1, keepdims=True)
    last = jax.tree.map(lambda leaf: leaf[-1], tree["blocks"])
    attend = Attention(e["heads"], weights=True)
    looks = attend.apply({"params": last["attn"]}, norm.apply({"params": last["norm1"]}, stream[-2]))
    return dict(
        clip_videos=rearrange(video, "b t h w c -> b c t h w"),
        ln_pre=seen["embed"][0],
        block0_LND=rearrange(stream[1], "b n d -> n b d"),
        norm_clip=rearrange(patches, "k (b t) n d -> k b (t n) d", b=batch),
        attn=looks[:, 1:],
    )


def _mask(importance: np.ndarray, ratio: float, batch: int) -> np.ndarray:
    """0 for the first places of each frame's order, 1 for the others."""
    shown = importance.shape[1] - int(importance.shape[1] * ratio)
    mask = np.ones_like(importance)
    np.put_along_axis(mask, importance[:, :shown], 0, axis=1)
    return mask.reshape(batch, -1)


def _classify(
    spec: Spec, params, video, labels, wanted: Iterable[str]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The classifier; the file holds every so many-th token only, as the names of its outputs say."""
    model, _ = networks(spec)
    logits, seen = model.apply({"params": params}, video, mutable=["intermediates"])
    seen = seen["intermediates"]
    table = positions.sincos1d(int(np.prod(TABLE)), spec.encoder["width"])
    tokens = dict(
        pos_embed_init=positions.interpolate(table, TABLE, model.encoder.native)[None],
        tokens_after_pos=seen["encoder"]["embed"][0],
        block0=seen["encoder"]["blocks"]["output"][0][0],
    )
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
    outputs = dict(features=seen["features"][0], logits=logits, loss=loss)
    for name in wanted:
        if found := re.fullmatch(r"(.+)_every(\d+)", name):
            outputs[name] = tokens[found[1]][:, :: int(found[2])]
    return loss, outputs

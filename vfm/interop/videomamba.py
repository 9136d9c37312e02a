"""VideoMamba: the original code's image and video classifiers and its masked pretraining.

Sources: Li et al. 2024 (arXiv 2403.06977); OpenGVLab/VideoMamba.

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens after the class token, D width,
L layers, K classes.
"""

from collections.abc import Mapping as MappingType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array

from vfm import models
from vfm.errors import UserError
from vfm.interop.golden import Golden, Names, keyed
from vfm.interop.mapping import Mapping, Rule, Shape, Transform
from vfm.interop.videomamba_config import Spec, spec_of
from vfm.models.alignment import AlignmentDecoder
from vfm.models.classifier import Classifier
from vfm.models.layers import Norm

FAMILIES = ("videomamba",)
# torch's depthwise Conv1d [E, 1, taps] -> kernel [taps, E]
TAPS = Transform(lambda x: rearrange(x, "e 1 w -> w e"), lambda x, shape: rearrange(x, "w e -> e 1 w"))


def mapping(spec: Spec, shapes: MappingType[str, Shape]) -> Mapping:
    """The mapping of a model's tensors to {"encoder", "head"} or {"encoder", "decoder"}."""
    rules: list[Rule] = [
        ("cls_token", "encoder/cls_token", "first"),
        ("pos_embed", f"encoder/{'pos' if spec.kind == 'image' else 'space_pos'}", "first"),
        ("temporal_pos_embedding", "encoder/time_pos", "first"),
        (r"patch_embed\.proj\.weight", "encoder/patch_embed/kernel", "conv"),
        (r"patch_embed\.proj\.bias", "encoder/patch_embed/bias", "same"),
        (r"norm(?:_f)?\.weight", "encoder/norm/scale", "same"),
        (r"norm(?:_f)?\.bias", "encoder/norm/bias", "same"),
        (r"head\.weight", "head/kernel", "linear"),
        (r"head\.bias", "head/bias", "same"),
        (r"layers\.(\d+)\.norm\.weight", r"encoder/blocks/norm/scale[\1]", "same"),
        (r"layers\.(\d+)\.norm\.bias", r"encoder/blocks/norm/bias[\1]", "same"),
    ]
    for name in ("in_proj", "out_proj"):
        rules += [
            (rf"layers\.(\d+)\.mixer\.{name}\.weight", rf"encoder/blocks/mixer/{name}/kernel[\1]", "linear"),
            (rf"layers\.(\d+)\.mixer\.{name}\.bias", rf"encoder/blocks/mixer/{name}/bias[\1]", "same"),
        ]
    for direction, mark in enumerate(("", "_b")):
        rules += [
            (rf"layers\.(\d+)\.mixer\.{name}", rf"encoder/blocks/mixer/{path}[\1][{direction}]", transform)
            for name, path, transform in (
                (rf"conv1d{mark}\.weight", "conv/kernel", TAPS),
                (rf"conv1d{mark}\.bias", "conv/bias", "same"),
                (rf"x_proj{mark}\.weight", "x_proj/kernel", "linear"),
                (rf"dt_proj{mark}\.weight", "dt_proj/kernel", "linear"),
                (rf"dt_proj{mark}\.bias", "dt_bias", "same"),
                (rf"A{mark}_log", "A_log", "same"),
                (rf"D{mark}", "D", "same"),
            )
        ]
    projection = "decoder/projection"
    rules += [
        (r"clip_decoder\.(\d+)\.head\.weight", rf"{projection}/head/kernel[\1]", "linear"),
        (r"clip_decoder\.(\d+)\.head\.bias", rf"{projection}/head/bias[\1]", "same"),
        (r"clip_decoder\.(\d+)\.norm\.weight", rf"{projection}/norm/scale[\1]", "same"),
        (r"clip_decoder\.(\d+)\.norm\.bias", rf"{projection}/norm/bias[\1]", "same"),
    ]
    return Mapping(rules, shapes)


def networks(spec: Spec) -> tuple[Any, Any]:
    """(encoder, alignment decoder), or (classifier, None)."""
    encoder = models.build(spec.encoder)
    if spec.kind != "pretrain":
        return Classifier(encoder, spec.classes, pooling="cls", norm=False), None
    return encoder, AlignmentDecoder(spec.teacher_width, encoder.native, rows=1, unit=spec.unit)


def parameter_shapes(spec: Spec) -> dict[str, Any]:
    """The tree of shapes of the parameters, without any memory."""
    network, decoder = networks(spec)
    height, width = spec.encoder["image_size"]
    video = jnp.zeros((1, spec.encoder["frames"], height, width, spec.channels))

    def init(rng):
        params = network.init(rng, video)["params"]
        if decoder is None:
            return params
        layers = jnp.zeros((len(spec.layers), 1, 1, network.width))
        return {
            "encoder": params,
            "decoder": decoder.init(rng, layers, jnp.zeros((1, 1), jnp.int32))["params"],
        }

    return jax.eval_shape(init, jax.random.key(0))


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    return {"encoder": spec_of(names.config, names.tensors).encoder}


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    spec = spec_of(names.config, names.tensors)
    return mapping(spec, names.tensors), parameter_shapes(spec)


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, loss and gradients of our model on a golden file's weights and inputs."""
    spec = spec_of(golden.config, golden.weights)
    tensors = mapping(spec, {name: w.shape for name, w in golden.weights.items()})
    params = tensors.to_ours(golden.weights, parameter_shapes(spec))
    inputs = golden.inputs
    if spec.kind == "image":
        video = rearrange(inputs["image"], "b c h w -> b 1 h w c")
    else:
        video = rearrange(inputs["video"], "b c t h w -> b t h w c")

    def run(params):
        if spec.kind == "pretrain":
            return _align(spec, params, video, _visible(inputs["mask"]), inputs["teacher_clip"])
        return _classify(spec, params, video, inputs["labels"])

    # One compiled program: a stack of layers run outside of jit is compiled piece by piece.
    gradients, outputs = jax.jit(jax.grad(run, has_aux=True))(params)
    return keyed(output=outputs, grad=tensors.to_theirs(gradients))


def _visible(mask: np.ndarray) -> np.ndarray:
    """Rows of visible positions (0), the class token's position 0 among them."""
    mask = mask.astype(bool)
    counts = set(np.count_nonzero(~mask, axis=1))
    if len(counts) != 1 or mask[:, 0].any():
        raise UserError(
            f"input mask: every sample must show its class token and equally many tokens, found counts {sorted(counts)}"
        )
    return np.stack([np.flatnonzero(~row) for row in mask]).astype(np.int32)


def _classify(spec: Spec, params, video, labels) -> tuple[Array, dict[str, Array]]:
    model, _ = networks(spec)
    logits, seen = model.apply({"params": params}, video, mutable=["intermediates"])
    inner = seen["intermediates"]["encoder"]
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
    return loss, dict(
        tokens_pos=inner["embed"][0],
        block0_residual=inner["embed"][0],
        block0_mixer=inner["blocks"]["branch"][0][0],
        block0_hidden=inner["blocks"]["branch"][0][0],
        last_block_hidden=inner["blocks"]["branch"][0][-1],
        features=seen["intermediates"]["features"][0],
        logits=logits,
        loss=loss,
    )


def _align(spec: Spec, params, video, visible, teacher) -> tuple[Array, dict[str, Array]]:
    """Alignment of returned layers with a teacher's tokens (Unmasked Teacher's l2 loss on unit vectors).

    Layers below the last pass the final norm; the last one does not, and on the original's fused path (which made
    the published weights) it is the stream before the last mixer's output is added.
    """
    encoder, decoder = networks(spec)
    _, seen = encoder.apply(
        {"params": params["encoder"]}, video, visible[:, 1:] - 1, mutable=["intermediates"]
    )
    seen = seen["intermediates"]
    mixed = seen["blocks"]["branch"][0]
    stream = jnp.concatenate([seen["embed"][0][None], seen["blocks"]["output"][0]])  # [L + 1, B, 1 + N, D]
    last = stream[-2] if spec.fused else stream[-1]
    norm = Norm(spec.encoder["norm"], spec.encoder["norm_eps"]).bind({"params": params["encoder"]["norm"]})
    depth = spec.encoder["depth"]
    student = jnp.stack([last if i == depth - 1 else norm(stream[i + 1]) for i in spec.layers])
    aligned = decoder.apply({"params": params["decoder"]}, student, visible)
    teacher = jnp.take_along_axis(teacher, visible[None, :, :, None], axis=2)
    loss = (2 - 2 * (aligned * teacher).sum(-1)).mean()
    return loss, dict(
        visible_tokens_pos=seen["embed"][0],
        block0_residual=seen["embed"][0],
        block0_hidden=mixed[0],
        last_hidden=mixed[-1],
        last_residual=stream[-2],
        student_features_before_pos=student,
        clip_aligned=aligned,
        loss=loss,
    )

"""VideoMAE: the original code's checkpoints (`videomae`) and transformers' (`videomae_hf`).

Sources: Tong et al. 2022 (arXiv 2203.12602); MCG-NJU/VideoMAE; huggingface/transformers, model `videomae`.
The two differ in tensor names, input axes and norm epsilons; fixed position tables are never stored.

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens, K classes.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from vfm import losses, models
from vfm.errors import UserError
from vfm.interop.golden import Golden, Names, keyed
from vfm.interop.mapping import Mapping, Rule, Shape
from vfm.interop.videomae_config import Spec, hf_spec, original_spec
from vfm.models.classifier import Classifier
from vfm.targets import pixels

FAMILIES = ("videomae", "videomae_hf")
MEAN, STD = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)


def _block_rules(theirs: str, ours: str) -> list[Rule]:
    """Tensors of one stack of the original's blocks; `theirs` is a pattern, `ours` a path."""

    def rule(name: str, path: str, transform: str = "same") -> Rule:
        return rf"{theirs}\.(\d+)\.{name}", rf"{ours}/{path}[\1]", transform

    rules = [rule(rf"attn\.{b}_bias", f"attn/{b}_bias") for b in "qv"]
    rules += [rule(rf"gamma_{i}", f"ls{i}/gamma") for i in (1, 2)]
    for norm in ("norm1", "norm2"):
        rules += [rule(rf"{norm}\.weight", f"{norm}/scale"), rule(rf"{norm}\.bias", f"{norm}/bias")]
    for dense in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        name, path = re.escape(dense), dense.replace(".", "/")
        rules += [
            rule(rf"{name}\.weight", f"{path}/kernel", "linear"),
            rule(rf"{name}\.bias", f"{path}/bias"),
        ]
    return rules


def _hf_block_rules(theirs: str, ours: str, qkv_bias: str) -> list[Rule]:
    """Tensors of one stack of transformers' layers."""

    def rule(name: str, path: str, transform: str = "same") -> Rule:
        tail = path.partition("#")
        return rf"{theirs}\.(\d+)\.{name}", rf"{ours}/{tail[0]}[\1]{tail[1]}{tail[2]}", transform

    attention = r"attention\.attention"
    rules = [
        rule(rf"{attention}\.{name}\.weight", f"attn/qkv/kernel#{i}/3", "linear")
        for i, name in enumerate(("query", "key", "value"))
    ]
    if qkv_bias == "qv":  # published files have either spelling
        rules += [rule(rf"{attention}\.(?:q_bias|query\.bias)", "attn/q_bias")]
        rules += [rule(rf"{attention}\.(?:v_bias|value\.bias)", "attn/v_bias")]
    else:
        rules += [
            rule(rf"{attention}\.{name}\.bias", f"attn/qkv/bias#{i}/3")
            for i, name in enumerate(("query", "key", "value"))
        ]
    for name, path in (("layernorm_before", "norm1"), ("layernorm_after", "norm2")):
        rules += [rule(rf"{name}\.weight", f"{path}/scale"), rule(rf"{name}\.bias", f"{path}/bias")]
    for name, path in (
        (r"attention\.output\.dense", "attn/proj"),
        (r"intermediate\.dense", "mlp/fc1"),
        (r"output\.dense", "mlp/fc2"),
    ):
        rules += [
            rule(rf"{name}\.weight", f"{path}/kernel", "linear"),
            rule(rf"{name}\.bias", f"{path}/bias"),
        ]
    return rules


def _norm_rules(name: str, path: str) -> list[Rule]:
    return [(rf"{name}\.weight", f"{path}/scale", "same"), (rf"{name}\.bias", f"{path}/bias", "same")]


def _dense_rules(name: str, path: str, transform: str = "linear") -> list[Rule]:
    return [(rf"{name}\.weight", f"{path}/kernel", transform), (rf"{name}\.bias", f"{path}/bias", "same")]


def mapping(spec: Spec, shapes: MappingType[str, Shape], family: str) -> Mapping:
    """The mapping of a model's tensors to {"encoder", "predictor"}, or to a Classifier's tree."""
    bias = spec.encoder["qkv_bias"]
    decoder = [(r"encoder_to_decoder\.weight", "predictor/embed/kernel", "linear")]
    decoder += [("mask_token", "predictor/mask_token", "first")]
    decoder += _norm_rules(r"decoder\.norm", "predictor/norm")
    decoder += _dense_rules(r"decoder\.head", "predictor/head")
    if family == "videomae":
        prefix = r"encoder\." if spec.kind == "pretrain" else ""
        rules = _dense_rules(rf"{prefix}patch_embed\.proj", "encoder/patch_embed", "conv")
        rules += [(rf"{prefix}pos_embed", "encoder/pos", "first")]
        rules += _norm_rules(rf"{prefix}norm", "encoder/norm")
        rules += _block_rules(rf"{prefix}blocks", "encoder/blocks")
        decoder += _block_rules(r"decoder\.blocks", "predictor/blocks")
        head = "head"
    else:
        prefix = "" if spec.kind == "encoder" else r"videomae\."
        rules = _dense_rules(
            rf"{prefix}embeddings\.patch_embeddings\.projection", "encoder/patch_embed", "conv"
        )
        rules += _norm_rules(rf"{prefix}layernorm", "encoder/norm")
        rules += _hf_block_rules(rf"{prefix}encoder\.layer", "encoder/blocks", bias)
        decoder += _hf_block_rules(r"decoder\.decoder_layers", "predictor/blocks", bias)
        head = "classifier"
    if spec.kind == "pretrain":
        rules += decoder
    if spec.kind == "classify":
        rules += _norm_rules("fc_norm", "norm") + _dense_rules(head, "head")
    return Mapping(rules, shapes)


def spec_of(family: str, config: MappingType[str, Any], model: str, names: Iterable[str]) -> Spec:
    """Our words for constructor arguments; `names` of the tensors tell how the attention biases are stored."""
    spec = original_spec(config) if family == "videomae" else hf_spec(config, model)
    if any(name.endswith(("attn.qkv.bias", "attention.key.bias")) for name in names):
        # Some converters store one bias for queries, keys and values, with zeros for the keys.
        spec = replace(spec, encoder=spec.encoder | {"qkv_bias": "qkv"})
        if spec.decoder:
            spec = replace(spec, decoder=spec.decoder | {"qkv_bias": "qkv"})
    return spec


def networks(spec: Spec) -> tuple[Any, Any]:
    """(encoder, predictor), (classifier, None) or (encoder, None)."""
    encoder = models.build(spec.encoder)
    if spec.kind == "classify":
        return Classifier(encoder, **spec.head), None
    return encoder, models.build(spec.decoder) if spec.kind == "pretrain" else None


def parameter_shapes(spec: Spec) -> dict[str, Any]:
    """The tree of shapes of the parameters, without any memory."""
    network, predictor = networks(spec)
    height, width = spec.encoder["image_size"]
    video = jnp.zeros((1, spec.encoder["frames"], height, width, spec.channels))

    def init(rng):
        if spec.kind == "classify":
            return network.init(rng, video)["params"]
        tree = {"encoder": network.init(rng, video)["params"]}
        if predictor is not None:
            grid = network.grid_of(video.shape)
            ids, tokens = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, network.width))
            tree["predictor"] = predictor.init(rng, tokens, ids, ids, grid)["params"]
        return tree

    return jax.eval_shape(init, jax.random.key(0))


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    spec = spec_of(names.family, names.config, names.metadata.get("class", ""), names.tensors)
    return {"encoder": spec.encoder}


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    spec = spec_of(names.family, names.config, names.metadata.get("class", ""), names.tensors)
    return mapping(spec, names.tensors, names.family), parameter_shapes(spec)


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, loss and gradients of our model on a golden file's weights and inputs."""
    original = golden.family == "videomae"
    spec = spec_of(golden.family, golden.config, golden.metadata.get("class", ""), golden.weights)
    tensors = mapping(spec, {name: w.shape for name, w in golden.weights.items()}, golden.family)
    params = tensors.to_ours(golden.weights, parameter_shapes(spec))
    inputs = {name: jnp.asarray(value) for name, value in golden.inputs.items()}
    if original:
        video, mask = rearrange(inputs["video"], "b c t h w -> b t h w c"), golden.inputs.get("mask")
    else:
        video = rearrange(inputs["pixel_values"], "b t c h w -> b t h w c")
        mask = golden.inputs.get("bool_masked_pos")
    keep, masked = (None, None) if mask is None else _ids(mask)
    if spec.kind == "pretrain":
        names = ORIGINAL_PRETRAIN if original else HF_PRETRAIN

        def run(params):
            return _pretrain(spec, params, video, keep, masked)
    elif spec.kind == "classify":
        names = ORIGINAL_CLASSIFY if original else HF_CLASSIFY

        def run(params):
            return _classify(spec, params, video, inputs)
    else:
        names = HF_ENCODER

        def run(params):
            return _encode(spec, params, video, keep, inputs.get("cotangent"))

    # Run once, so most of the time is compilation: one program, with little optimisation.
    compiled = jax.jit(jax.grad(run, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    gradients, outputs = compiled(params)
    outputs = {theirs: outputs[ours] for theirs, ours in names.items() if ours in outputs}
    return keyed(output=outputs, grad=tensors.to_theirs(gradients))


# Names of outputs: the file's -> ours.
ORIGINAL_PRETRAIN = dict(
    tokens_after_pos="all_tokens",
    enc_block0="block0",
    enc_out="encoded",
    dec_block0="decoder_block0",
    pred="prediction",
    labels_first12="target_first12",
    loss="loss",
)
HF_PRETRAIN = dict(
    embeddings="tokens",
    block0="block0",
    encoder="encoded",
    decoder_block0="decoder_block0",
    logits="prediction",
    loss="loss",
)
ORIGINAL_CLASSIFY = dict(
    tokens_after_pos="tokens",
    block0="block0",
    last_block="last_block",
    features="features",
    logits="logits",
    ce="cross_entropy",
    smooth_ce="smooth_cross_entropy",
    loss="soft_cross_entropy",
)
HF_CLASSIFY = dict(
    embeddings="tokens",
    block0="block0",
    last_hidden_state="encoded",
    pre_head="features",
    logits="logits",
    loss="loss",
)
HF_ENCODER = dict(embeddings="tokens", block0="block0", last_hidden_state="encoded", loss="loss")


def _ids(mask: np.ndarray) -> tuple[Int[Array, "B K"], Int[Array, "B M"]]:
    """Sorted ids of visible (0) and masked (1) tokens."""
    counts = set(np.count_nonzero(mask, axis=1))
    if len(counts) != 1:
        raise UserError(f"input mask: every sample must mask equally many tokens, found {sorted(counts)}")
    rows = [np.stack([np.flatnonzero(row == value) for row in mask.astype(np.int64)]) for value in (0, 1)]
    return jnp.asarray(rows[0], jnp.int32), jnp.asarray(rows[1], jnp.int32)


def _pretrain(spec: Spec, params, video, keep, masked) -> tuple[Array, dict[str, Array]]:
    if spec.channels != 3:
        raise UserError(f"pretraining on {spec.channels} channels is not supported: pixel targets are RGB")
    encoder, predictor = networks(spec)
    variables = {"params": params["encoder"]}
    features, seen = encoder.apply(variables, video, keep, mutable=["intermediates"])
    _, everything = encoder.apply(variables, video, mutable=["intermediates"])
    prediction, decoded = predictor.apply(
        {"params": params["predictor"]},
        features.tokens, keep, masked, features.grid, mutable=["intermediates"],
    )  # fmt: skip
    # The originals standardise pixels in [0, 1], not the normalised ones that the encoder sees.
    batch = {"video": video * STD + MEAN}
    target = pixels(norm=spec.target_norm, eps=1e-6)(batch, masked, encoder, {})
    loss = losses.mse()(prediction, target).mean()
    return loss, dict(
        all_tokens=_embedded(everything),
        tokens=_embedded(seen),
        block0=_blocks(seen)[0],
        encoded=features.tokens,
        decoder_block0=_blocks(decoded)[0],
        prediction=prediction,
        target_first12=target[:, :12],
        loss=loss,
    )


def _encode(spec: Spec, params, video, keep, cotangent) -> tuple[Array, dict[str, Array]]:
    encoder, _ = networks(spec)
    features, seen = encoder.apply({"params": params["encoder"]}, video, keep, mutable=["intermediates"])
    loss = jnp.zeros(()) if cotangent is None else (features.tokens * cotangent).sum()
    return loss, dict(tokens=_embedded(seen), block0=_blocks(seen)[0], encoded=features.tokens, loss=loss)


def _classify(spec: Spec, params, video, inputs) -> tuple[Array, dict[str, Array]]:
    model, _ = networks(spec)
    logits, seen = model.apply({"params": params}, video, mutable=["intermediates"])
    inner = {"intermediates": seen["intermediates"]["encoder"]}
    outputs = dict(
        tokens=_embedded(inner),
        block0=_blocks(inner)[0],
        last_block=_blocks(inner)[-1],
        encoded=seen["intermediates"]["tokens"][0],
        features=seen["intermediates"]["features"][0],
        logits=logits,
    )
    labels, soft = inputs.get("labels"), inputs.get("soft_targets")
    log_probabilities = jax.nn.log_softmax(logits)
    if soft is not None:
        outputs["soft_cross_entropy"] = -(soft * log_probabilities).sum(-1).mean()
    if labels is not None and (spec.problem or soft is None):
        outputs["loss"] = _hf_loss(spec, logits, labels)
    if labels is not None and soft is not None:
        right = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()
        outputs["cross_entropy"] = right
        outputs["smooth_cross_entropy"] = 0.9 * right - 0.1 * log_probabilities.mean()
    # The originals' gradients are of the soft cross entropy, transformers' of its loss.
    loss = outputs.get("soft_cross_entropy", outputs.get("loss", jnp.zeros(())))
    return loss, outputs


def _hf_loss(spec: Spec, logits: Float[Array, "B K"], labels: Array) -> Float[Array, ""]:
    """The loss that transformers chooses by problem_type, or else by number of labels and their dtype."""
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    several = "single_label_classification" if integer else "multi_label_classification"
    problem = spec.problem or ("regression" if logits.shape[-1] == 1 else several)
    if problem == "regression":
        return jnp.square(logits.reshape(labels.shape) - labels).mean()
    if problem == "multi_label_classification":
        return (jax.nn.softplus(logits) - logits * labels).mean()
    if problem == "single_label_classification":
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
    raise UserError(f"constructor argument problem_type='{problem}' is not supported")


def _embedded(state: dict[str, Any]) -> Float[Array, "B N D"]:
    return state["intermediates"]["embed"][0]


def _blocks(state: dict[str, Any]) -> Float[Array, "L B N D"]:
    return state["intermediates"]["blocks"]["output"][0]

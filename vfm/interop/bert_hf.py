"""BERT as transformers stores it (`bert_hf`): the encoder with its pooler, and the masked language model.

Sources: Devlin et al. 2019 (arXiv 1810.04805); huggingface/transformers, model `bert`.

Letters: B batch, L tokens of a text, D width, V vocabulary.
"""

from collections.abc import Mapping as MappingType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vfm import models
from vfm.errors import UserError
from vfm.interop import clip_hf
from vfm.interop.arguments import Arguments, only
from vfm.interop.golden import Golden, Names, keyed
from vfm.interop.mapping import Mapping, Rule, Shape

FAMILIES = ("bert_hf",)
CLASSES = {"BertModel": False, "BertForMaskedLM": True}  # whether it is a language model
IDLE = clip_hf.IDLE | {"use_cache", "classifier_dropout", "position_embedding_type"}


def bert_part(config: MappingType[str, Any], pooler: bool) -> dict[str, Any]:
    """The part of `vfm.models` for transformers' BertConfig."""
    get = Arguments(config, IDLE)
    for key in ("is_decoder", "add_cross_attention"):
        only(key, get(key, False), False, "published encoders have none")
    only("pad_token_id", get("pad_token_id", 0), 0, "padding is told by the mask")
    part = dict(
        name="bert",
        vocab_size=get("vocab_size", 30522),
        length=get("max_position_embeddings", 512),
        width=get("hidden_size", 768),
        depth=get("num_hidden_layers", 12),
        heads=get("num_attention_heads", 12),
        mlp_dim=get("intermediate_size", 3072),
        token_types=get("type_vocab_size", 2),
        pooler=pooler,
        norm_eps=get("layer_norm_eps", 1e-12),
        activation=clip_hf.activation(get, "gelu"),
    )
    get.finish()
    return part


def language_model(name: str) -> bool:
    """Whether a class of transformers has a head for masked words."""
    if name not in CLASSES:
        raise UserError(f"class '{name}' is not supported: expected one of {', '.join(CLASSES)}")
    return CLASSES[name]


def _norm_rules(name: str, path: str, index: str = "") -> list[Rule]:
    """A LayerNorm; old files say gamma and beta."""
    return [
        (rf"{name}\.LayerNorm\.(?:weight|gamma)", f"{path}/scale{index}", "same"),
        (rf"{name}\.LayerNorm\.(?:bias|beta)", f"{path}/bias{index}", "same"),
    ]


def mapping(shapes: MappingType[str, Shape], lm: bool) -> Mapping:
    """The mapping of a model's tensors to ours; files of a language model hold heads that it leaves out."""
    prefix, head = r"(?:bert\.)?", r"cls\.predictions\."
    layer = rf"{prefix}encoder\.layer\.(\d+)\."
    rules: list[Rule] = [
        (rf"{prefix}embeddings\.position_ids", None, "same"),
        (rf"{prefix}embeddings\.word_embeddings\.weight", "words/embedding", "same"),
        (rf"{prefix}embeddings\.position_embeddings\.weight", "positions/pos", "same"),
        (rf"{prefix}embeddings\.token_type_embeddings\.weight", "positions/types", "same"),
        *_norm_rules(rf"{prefix}embeddings", "positions/norm"),
    ]
    for theirs, path, part in (
        (r"attention\.self\.query", "attn/qkv", "#0/3"),
        (r"attention\.self\.key", "attn/qkv", "#1/3"),
        (r"attention\.self\.value", "attn/qkv", "#2/3"),
        (r"attention\.output\.dense", "attn/proj", ""),
        (r"intermediate\.dense", "mlp/fc1", ""),
        (r"output\.dense", "mlp/fc2", ""),
    ):
        rules += [
            (rf"{layer}{theirs}\.weight", rf"blocks/{path}/kernel[\1]{part}", "linear"),
            (rf"{layer}{theirs}\.bias", rf"blocks/{path}/bias[\1]{part}", "same"),
        ]
    rules += _norm_rules(rf"{layer}attention\.output", "blocks/norm1", r"[\1]")
    rules += _norm_rules(rf"{layer}output", "blocks/norm2", r"[\1]")
    if lm:
        rules += [
            *clip_hf.dense_rules(rf"{head}transform\.dense", "mlm/dense"),
            *_norm_rules(rf"{head}transform", "mlm/norm"),
            (rf"{head}bias", "mlm/bias", "same"),
            (rf"{head}decoder\.(?:weight|bias)", None, "same"),  # copies of the words' table and the bias
            (rf"cls\.seq_relationship\..*|{prefix}pooler\..*", None, "same"),  # of another task
        ]
    else:
        rules += [*clip_hf.dense_rules(rf"{prefix}pooler\.dense", "pool"), (r"cls\..*", None, "same")]
    return Mapping(rules, shapes)


def parameter_shapes(model, lm: bool) -> dict[str, Any]:
    """The tree of shapes of the parameters, without any memory."""
    method = "everything" if lm else None
    ids = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(lambda rng: model.init(rng, ids, method=method), jax.random.key(0))["params"]


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    lm = language_model(names.metadata.get("class", ""))
    return {"text": bert_part(names.config, pooler=not lm)}


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    lm = language_model(names.metadata.get("class", ""))
    model = models.build(bert_part(names.config, pooler=not lm))
    return mapping(names.tensors, lm), parameter_shapes(model, lm)


def masked_word_loss(logits: Float[Array, "B L V"], labels: Int[Array, "B L"]) -> Float[Array, ""]:
    """Cross-entropy, averaged over positions with a label; -100 is none."""
    chosen = labels != -100
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    right = jnp.take_along_axis(log_p, jnp.where(chosen, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.where(chosen, right, 0.0).sum() / jnp.maximum(chosen.sum(), 1)


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, loss and gradients of our model on a golden file's weights and inputs."""
    lm = language_model(golden.metadata.get("class", ""))
    model = models.build(bert_part(golden.config, pooler=not lm))
    tensors = mapping({name: w.shape for name, w in golden.weights.items()}, lm)
    params = tensors.to_ours(golden.weights, parameter_shapes(model, lm))
    inputs = {name: jnp.asarray(value) for name, value in golden.inputs.items()}
    ids, mask, types = inputs["input_ids"], inputs["attention_mask"] != 0, inputs["token_type_ids"]

    def run(params):
        variables = {"params": params}
        features, seen = model.apply(variables, ids, mask, token_types=types, mutable=["intermediates"])
        seen = seen["intermediates"]
        outputs = dict(embeddings=seen["embed"][0], block0=seen["blocks"]["output"][0][0])
        if lm:
            outputs["logits"] = model.apply(variables, features.tokens, method="predict")
            outputs["loss"] = masked_word_loss(outputs["logits"], inputs["labels"])
        else:
            outputs |= dict(last_hidden_state=features.tokens, pooler_output=features.pooled)
            outputs["loss"] = (features.pooled * inputs["cotangent"]).sum()
        return outputs["loss"], outputs

    gradients, outputs = jax.jit(jax.grad(run, has_aux=True))(params)
    return keyed(output=outputs, grad=tensors.to_theirs(gradients))

"""LLaMA as transformers stores it (`llama_hf`); Qwen2 shares all of it but its biases.

Sources: Touvron et al. 2023 (arXiv 2302.13971); huggingface/transformers, model `llama`.

Letters: B batch, L positions of the text.
"""

from collections.abc import Mapping as MappingType
from typing import Any

import jax
import jax.numpy as jnp

from vfm.interop.arguments import Arguments, only
from vfm.interop.golden import Golden, Names, keyed
from vfm.interop.mapping import Mapping, Rule, Shape
from vfm.models.lm import LM, lm
from vfm.ops.vocabulary import token_cross_entropy

FAMILIES = ("llama_hf",)
IDLE = {  # without effect on names, shapes or numbers without a cache
    "model_type", "num_labels", "initializer_range", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id",
    "max_position_embeddings", "attention_dropout", "pretraining_tp",
}  # fmt: skip


def llama_keys(config: MappingType[str, Any]) -> dict[str, Any]:
    """The language model's keys for constructor arguments of `LlamaForCausalLM`."""
    get = Arguments(config, IDLE)
    keys = shared_keys(get) | dict(qkv_bias=False, head_dim=get("head_dim", 0))
    why = "LLaMA's published models have none"
    only("attention_bias", get("attention_bias", False), False, why)
    only("mlp_bias", get("mlp_bias", False), False, why)
    get.finish()
    return keys


def shared_keys(get: Arguments) -> dict[str, Any]:
    """The keys of what all models of this form have."""
    turning = get("rope_parameters", None) or {"rope_theta": get("rope_theta", 10_000.0)}
    kind = turning.get("rope_type", "default")
    only("rope_parameters.rope_type", kind, "default", "positions are not stretched")
    heads = get("num_attention_heads", 32)
    return dict(
        vocab_size=get("vocab_size", 32_000),
        width=get("hidden_size", 4096),
        depth=get("num_hidden_layers", 32),
        heads=heads,
        kv_heads=get("num_key_value_heads", None) or heads,
        mlp_dim=get("intermediate_size", 11_008),
        rope_theta=float(turning["rope_theta"]),
        norm_eps=get("rms_norm_eps", 1e-6),
        tied=get("tie_word_embeddings", False),
        activation=get("hidden_act", "silu"),
    )


def mapping(shapes: MappingType[str, Shape], prefix: str = "", ours: str = "") -> Mapping:
    """The mapping of a causal language model's tensors to our tree."""
    return Mapping(rules(prefix, ours), shapes)


def rules(prefix: str = "", ours: str = "") -> list[Rule]:
    """Mapping rules; `prefix` is a pattern in front of the original's names, `ours` a path in front of ours."""
    layer, found = rf"{prefix}model\.layers\.(\d+)\.", []
    for theirs, path in (
        (r"self_attn\.q_proj", "attn/q"),
        (r"self_attn\.k_proj", "attn/k"),
        (r"self_attn\.v_proj", "attn/v"),
        (r"self_attn\.o_proj", "attn/proj"),
        (r"mlp\.gate_proj", "mlp/gate"),
        (r"mlp\.up_proj", "mlp/fc1"),
        (r"mlp\.down_proj", "mlp/fc2"),
    ):
        found += [
            (rf"{layer}{theirs}\.weight", rf"{ours}blocks/{path}/kernel[\1]", "linear"),
            (rf"{layer}{theirs}\.bias", rf"{ours}blocks/{path}/bias[\1]", "same"),
        ]
    for theirs, path in (("input_layernorm", "norm1"), ("post_attention_layernorm", "norm2")):
        found += [(rf"{layer}{theirs}\.weight", rf"{ours}blocks/{path}/scale[\1]", "same")]
    return [
        *found,
        (rf"{prefix}model\.embed_tokens\.weight", f"{ours}words/embedding", "same"),
        (rf"{prefix}model\.norm\.weight", f"{ours}norm/scale", "same"),
        (rf"{prefix}lm_head\.weight", f"{ours}head/kernel", "linear"),
    ]


def parameter_shapes(model: LM) -> dict[str, Any]:
    """The tree of shapes of the parameters, without any memory."""
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    return {"lm": dict(name="lm", **llama_keys(names.config))}


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    return mapping(names.tensors), parameter_shapes(lm(**llama_keys(names.config)))


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, loss and gradients of our model on a golden file's weights and inputs."""
    return evaluate_model(golden, lm(**llama_keys(golden.config)))


def evaluate_model(golden: Golden, model: LM) -> dict[str, Any]:
    """As `evaluate`, of a language model whose tensors have LLaMA's names."""
    tensors = mapping({name: w.shape for name, w in golden.weights.items()})
    params = tensors.to_ours(golden.weights, parameter_shapes(model))
    inputs = {name: jnp.asarray(value) for name, value in golden.inputs.items()}
    ids, labels = inputs["input_ids"], inputs["labels"]
    # The original counts padding as positions.
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)

    def run(params):
        (hidden, _), seen = model.apply(
            {"params": params}, ids, inputs["attention_mask"] != 0, positions=positions,
            method="hidden", mutable=["intermediates"],
        )  # fmt: skip
        kernel = model.apply({"params": params}, method="output_kernel")
        counted = labels[:, 1:] != -100
        scores = token_cross_entropy(hidden[:, :-1], kernel, jnp.where(counted, labels[:, 1:], 0), chunk=5)
        loss = (scores.loss * counted).sum() / counted.sum()
        return loss, dict(
            embed=model.apply({"params": params}, ids, method="embed"),
            block0=seen["intermediates"]["blocks"]["output"][0][0],
            norm=hidden,
            logits=model.apply({"params": params}, hidden, method="logits"),
            loss=loss,
        )

    compiled = jax.jit(jax.grad(run, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    gradients, outputs = compiled(params)
    return keyed(output=outputs, grad=tensors.to_theirs(gradients))

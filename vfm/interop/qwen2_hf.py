"""Qwen2 and Qwen2.5 as transformers stores them (`qwen2_hf`): LLaMA with biases of queries, keys and values.

Sources: Qwen team 2024 (arXiv 2407.10671); huggingface/transformers, model `qwen2`.
"""

from collections.abc import Mapping as MappingType
from typing import Any

from vfm.interop import llama_hf
from vfm.interop.arguments import Arguments, only
from vfm.interop.golden import Golden, Names
from vfm.interop.mapping import Mapping
from vfm.models.lm import lm

FAMILIES = ("qwen2_hf",)
IDLE = llama_hf.IDLE | {"sliding_window", "max_window_layers"}  # of a window that is refused


def qwen2_keys(config: MappingType[str, Any]) -> dict[str, Any]:
    """The language model's keys for constructor arguments of `Qwen2ForCausalLM`."""
    get = Arguments(config, IDLE)
    keys = llama_hf.shared_keys(get) | dict(qkv_bias=True)
    why = "attention is over the whole text"
    only("use_sliding_window", get("use_sliding_window", False), False, why)
    only("layer_types", set(get("layer_types", ())) - {"full_attention"}, set(), why)
    get.finish()
    return keys


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    return {"lm": dict(name="lm", **qwen2_keys(names.config))}


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    return llama_hf.mapping(names.tensors), llama_hf.parameter_shapes(lm(**qwen2_keys(names.config)))


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, loss and gradients of our model on a golden file's weights and inputs."""
    return llama_hf.evaluate_model(golden, lm(**qwen2_keys(golden.config)))

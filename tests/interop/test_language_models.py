"""LLaMA and Qwen2 give the originals' numbers; arguments that we do not have are refused."""

import pytest

from vfm.errors import UserError
from vfm.interop.llama_hf import llama_keys
from vfm.interop.qwen2_hf import qwen2_keys
from vfm.interop.verify import verify

FILES = (
    "llama_hf.gqa.safetensors",
    "qwen2_hf.gqa.safetensors",
    "llama_hf.llama3_8b.names.json",
    "qwen2_hf.0.5b.names.json",
)


@pytest.mark.parametrize("name", FILES)
def test_the_originals_numbers(shared, name):
    checks = list(verify(str(shared / "golden" / name)))
    assert checks
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


@pytest.mark.parametrize(
    ("keys", "config", "named"),
    [
        (llama_keys, dict(rope_parameters=dict(rope_theta=5e5, rope_type="llama3")), "rope_type"),
        (llama_keys, dict(attention_bias=True), "attention_bias"),
        (llama_keys, dict(clip_qkv=3.0), "clip_qkv"),
        (qwen2_keys, dict(use_sliding_window=True), "use_sliding_window"),
        (qwen2_keys, dict(layer_types=["full_attention", "sliding_attention"]), "layer_types"),
    ],
)
def test_what_is_not_mapped_is_refused(keys, config, named):
    with pytest.raises(UserError, match=named):
        keys(config)

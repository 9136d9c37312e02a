"""CLIP, SigLIP and BERT give the originals' numbers; arguments that we do not have are refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from vfm.errors import UserError
from vfm.interop import bert_hf, clip_hf, siglip_bigvision, siglip_hf
from vfm.interop.golden import read
from vfm.interop.verify import verify

FILES = (
    "clip_hf.masked.safetensors",
    "siglip_hf.base.safetensors",
    "siglip2_hf.naflex.safetensors",
    "siglip_bigvision.two_towers_scan.safetensors",
    "siglip_bigvision.naflex.safetensors",
    "siglip_bigvision.vit_tok.safetensors",
    "bert_hf.encoder.safetensors",
    "bert_hf.mlm.safetensors",
    "clip_hf.vit_b32.names.json",
    "siglip_hf.so400m_p14_384.names.json",
    "siglip2_hf.base_p16_naflex.names.json",
    "siglip_bigvision.so400m14_384.names.json",
    "siglip_bigvision.siglip2_g-opt16_256.names.json",
    "bert_hf.base_uncased.names.json",
    "bert_hf.base_uncased_mlm.names.json",
)
FAMILIES = ("clip_hf", "siglip_hf", "siglip2_hf", "siglip_bigvision", "bert_hf")


def all_pass(path):
    checks = list(verify(str(path)))
    assert checks
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


@pytest.mark.parametrize("name", FILES)
def test_the_originals_numbers(shared, name):
    all_pass(shared / "golden" / name)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_originals_numbers_of_every_file(shared, family):
    for path in sorted((shared / "golden").glob(f"{family}.*")):
        if path.name not in FILES:
            all_pass(path)


@pytest.mark.parametrize(
    "name, mapping",
    [
        ("siglip_hf.base", lambda shapes: siglip_hf.mapping(shapes, naflex=False)),
        ("clip_hf.base", clip_hf.mapping),
        ("siglip_bigvision.two_towers_scan", lambda shapes: siglip_bigvision.mapping(shapes, naflex=False)),
        ("siglip_bigvision.naflex", lambda shapes: siglip_bigvision.mapping(shapes, naflex=True)),
        ("bert_hf.mlm", lambda shapes: bert_hf.mapping(shapes, lm=True)),
    ],
)
def test_weights_come_back_bit_for_bit(shared, name, mapping):
    weights = read(shared / "golden" / f"{name}.safetensors").weights
    tensors = mapping({key: weight.shape for key, weight in weights.items()})
    back = tensors.to_theirs(tensors.to_ours(weights))
    assert back.keys() == weights.keys()
    for key, weight in weights.items():
        np.testing.assert_array_equal(back[key], weight)


def test_old_spellings_of_bert_and_heads_of_other_tasks(shared):
    weights = read(shared / "golden" / "bert_hf.mlm.safetensors").weights
    shapes = {}
    for name, weight in weights.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        shapes[name] = weight.shape
    shapes |= {"bert.pooler.dense.weight": (48, 48), "cls.seq_relationship.bias": (2,)}
    shapes["cls.predictions.decoder.weight"] = (64, 48)
    found = bert_hf.mapping(shapes, lm=True)
    assert len(found.unused) == 3
    assert found.ours == bert_hf.mapping({n: w.shape for n, w in weights.items()}, lm=True).ours


def test_the_end_of_a_text_is_its_highest_id_or_its_first_end_token():
    ids = jnp.asarray([[5, 9, 3, 9, 0], [7, 3, 0, 0, 0]])
    np.testing.assert_array_equal(clip_hf.up_to_end(ids, 2).sum(1), [2, 1])
    np.testing.assert_array_equal(clip_hf.up_to_end(ids, 3).sum(1), [3, 2])


@pytest.mark.parametrize(
    "build, named",
    [
        (lambda: clip_hf.towers_of(dict(vision_config=dict(hidden_act="mish")), False), "hidden_act='mish'"),
        (lambda: clip_hf.towers_of(dict(vision_config=dict(rope=True)), False), "rope=True"),
        (lambda: clip_hf.towers_of(dict(vision_config=dict(num_channels=1)), False), "num_channels=1"),
        (lambda: clip_hf.towers_of(dict(model_type="clipseg"), False), "clipseg"),
        (
            lambda: siglip_hf.towers_of(dict(vision_config=dict(vision_use_head=False)), False, False),
            "vision_use_head=False",
        ),
        (
            lambda: siglip_bigvision.towers_of(
                dict(image=dict(variant="B/16", pool_type="gap"), text={}), {}
            ),
            "pool_type='gap'",
        ),
        (lambda: siglip_bigvision.vit_part(dict(variant="XL/16"), 224), "variant 'XL/16'.*So400m"),
        (lambda: bert_hf.bert_part(dict(is_decoder=True), pooler=True), "is_decoder=True"),
        (lambda: bert_hf.language_model("BertForQuestionAnswering"), "BertForQuestionAnswering"),
    ],
)
def test_what_is_not_mapped_is_refused(build, named):
    with pytest.raises(UserError, match=named):
        build()

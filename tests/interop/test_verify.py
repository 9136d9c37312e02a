"""Original models map strictly and give the original's numbers; what does not is told apart and named."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from vfm.interop.golden import Golden, read
from vfm.interop.mapping import Mapping
from vfm.interop.verify import main, verify
from vfm.interop.videomae import mapping, parameter_shapes, spec_of
from vfm.interop.videomae_config import hf_spec, original_spec

FILES = (
    "videomae.pretrain.safetensors",
    "videomae.pretrain_ls_rawpix.safetensors",
    "videomae.finetune.safetensors",
    "videomae.finetune_eps.safetensors",
    "videomae.finetune_opts.safetensors",
    "videomae.pretrain_base.names.json",
    "videomae.finetune_huge_k400.names.json",
    "videomae_hf.pretrain.safetensors",
    "videomae_hf.pretrain_rawpix.safetensors",
    "videomae_hf.classify.safetensors",
    "videomae_hf.encoder.safetensors",
    "videomae_hf.encoder_masked.safetensors",
    "videomae_hf.small.pretrain.names.json",
    "videomae_hf.base.classify_k400.names.json",
)
TINY = dict(
    image_size=16, patch_size=8, num_frames=2, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=32, decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=1,
    decoder_intermediate_size=16,
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_videomae_gives_the_originals_numbers(shared, name):
    checks = list(verify(str(shared / "golden" / name)))
    assert checks
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


def tensors_of(golden: Golden):
    spec = spec_of(golden.family, golden.config, golden.metadata.get("class", ""), golden.weights)
    return spec, mapping(spec, {n: w.shape for n, w in golden.weights.items()}, golden.family)


@pytest.mark.parametrize(
    "name", ["videomae.pretrain_ls_rawpix.safetensors", "videomae_hf.pretrain.safetensors"]
)
def test_weights_come_back_bit_for_bit(shared, name):
    golden = read(shared / "golden" / name)
    spec, tensors = tensors_of(golden)
    back = tensors.to_theirs(tensors.to_ours(golden.weights, parameter_shapes(spec)))
    assert back.keys() == golden.weights.keys()
    for key, weight in golden.weights.items():
        np.testing.assert_array_equal(back[key], weight)


def rewrite(golden: Golden, path, *, weights=None, config=None):
    """A copy of a golden file with other weights or another config."""
    groups = golden.groups | ({"weights": weights} if weights is not None else {})
    tensors = {f"{g}/{n}": np.array(t, order="C") for g, named in groups.items() for n, t in named.items()}
    metadata = golden.metadata | ({"config": json.dumps(config)} if config is not None else {})
    save_file(tensors, path, metadata)
    return str(path)


def test_a_wrong_weight_fails_and_is_counted(shared, tmp_path, capsys):
    golden = read(shared / "golden" / "videomae.finetune_eps.safetensors")
    weights = dict(golden.weights)
    weights["head.bias"] = weights["head.bias"] + 1e-2
    path = rewrite(golden, tmp_path / "videomae.wrong.safetensors", weights=weights)
    assert main([path]) == 1
    out = capsys.readouterr().out
    assert "FAIL  output/logits" in out
    assert "ok    output/features" in out
    assert out.strip().split("\n")[-1].endswith("failed")


def test_a_wrong_epsilon_fails(shared, tmp_path):
    golden = read(shared / "golden" / "videomae.finetune_eps.safetensors")
    config = golden.config | {"norm_layer": "LayerNorm eps=1e-5"}
    path = rewrite(golden, tmp_path / "videomae.wrong.safetensors", config=config)
    failed = {check.name for check in verify(path) if not check.passed}
    assert "output/logits" in failed


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_mapping_is_strict_both_ways(shared, tmp_path, change):
    golden = read(shared / "golden" / "videomae_hf.classify.safetensors")
    weights = dict(golden.weights)
    name = "videomae.encoder.layer.1.attention.attention.v_bias"
    if change == "missing":
        del weights[name]
    elif change == "extra":
        weights["videomae.pooler.weight"] = np.zeros(3, np.float32)
    else:
        weights["classifier.weight"] = weights["classifier.weight"][:-1]
    path = rewrite(golden, tmp_path / "videomae_hf.wrong.safetensors", weights=weights)
    (check,) = verify(path)
    named = dict(missing="v_bias", extra="videomae.pooler.weight", shape="head/kernel")[change]
    assert not check.passed
    assert named in check.text


def test_other_spellings_of_the_attention_biases_mean_the_same(shared, tmp_path):
    golden = read(shared / "golden" / "videomae_hf.classify.safetensors")
    weights = {}
    for name, weight in golden.weights.items():
        name = name.replace("attention.q_bias", "attention.query.bias")
        weights[name.replace("attention.v_bias", "attention.value.bias")] = weight
        if name.endswith("query.bias"):  # some converters write the keys' zeros too
            weights[name.replace("query", "key")] = np.zeros_like(weight)
    for keys in (False, True):
        chosen = {n: w for n, w in weights.items() if keys or not n.endswith("key.bias")}
        path = rewrite(golden, tmp_path / "videomae_hf.spelled.safetensors", weights=chosen)
        assert all(check.passed for check in verify(path))


@pytest.mark.parametrize(
    "config, expected",
    [
        (dict(hidden_act="gelu_new"), ("activation", "gelu_tanh")),
        (dict(hidden_act="relu"), ("activation", "relu")),
        (dict(image_size=[16, 24]), ("image_size", (16, 24))),
        (dict(qv_bias=False), ("qkv_bias", "none")),
        (dict(use_mean_pooling=False), ("final_norm", True)),
        (dict(num_frames=6, tubelet_size=3), ("tubelet", 3)),
        (dict(layer_norm_eps=1e-6), ("norm_eps", 1e-6)),
    ],
)
def test_every_argument_of_transformers_reaches_the_encoder(config, expected):
    spec = hf_spec(TINY | config, "VideoMAEForPreTraining")
    assert spec.encoder[expected[0]] == expected[1]
    assert parameter_shapes(spec)["predictor"]["head"]["kernel"].shape[0] == 8


def test_arguments_of_the_original():
    config = dict(
        img_size=[16, 32], patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=3.5, qkv_bias=True, qk_scale=0.3,
        init_values=0.1, all_frames=6, tubelet_size=3, use_learnable_pos_emb=True, num_classes=5, in_chans=1,
    )  # fmt: skip
    config["class"] = "modeling_finetune.VisionTransformer"
    spec = original_spec(config)
    shapes = parameter_shapes(spec)
    assert shapes["encoder"]["pos"].shape == (2 * 2 * 4, 16)
    assert shapes["encoder"]["patch_embed"]["kernel"].shape == (3 * 8 * 8 * 1, 16)
    assert shapes["encoder"]["blocks"]["mlp"]["fc1"]["kernel"].shape == (2, 16, 56)
    assert (spec.encoder["qk_scale"], spec.encoder["norm_eps"]) == (0.3, 1e-5)


@pytest.mark.parametrize(
    "build, named",
    [
        (lambda: hf_spec(TINY | dict(hidden_act="mish"), "VideoMAEModel"), "hidden_act='mish'"),
        (lambda: hf_spec(TINY | dict(use_rope=True), "VideoMAEModel"), "use_rope=True"),
        (lambda: hf_spec(TINY, "VideoMAEForDetection"), "VideoMAEForDetection"),
        (lambda: original_spec({"class": "VisionTransformer", "cos_attn": True}), "cos_attn=True"),
        (lambda: original_spec({"class": "VisionTransformer", "norm_layer": "RMSNorm"}), "RMSNorm"),
        (lambda: original_spec({"factory": "vit_tiny_patch16_224"}), "vit_tiny_patch16_224"),
        (
            lambda: original_spec({"class": "PretrainVisionTransformer", "use_learnable_pos_emb": True}),
            "use_learnable_pos_emb=True",
        ),
    ],
)
def test_arguments_that_are_not_mapped_are_errors(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_bad_files_are_failures_with_a_reason(tmp_path, capsys):
    garbage = tmp_path / "videomae.garbage.safetensors"
    garbage.write_bytes(b"no tensors")
    names = tmp_path / "videomae.x.names.json"
    names.write_text("{}")
    other = tmp_path / "viedomae.x.names.json"
    other.write_text(json.dumps(dict(config={}, tensors={}, params=0)))
    paths = [
        str(p) for p in (garbage, names, other, tmp_path / "absent.safetensors", tmp_path / "weights.pth")
    ]
    (tmp_path / "weights.pth").write_bytes(b"pickle")
    assert main(paths) == 1
    out = capsys.readouterr().out
    assert out.count("FAIL") == 5
    for reason in (
        "not a readable golden file",
        "not a names file",
        "did you mean 'videomae'?",
        "no such file",
    ):
        assert reason in out
    assert out.strip().endswith("0 passed, 5 failed")


def test_places_are_filled_once_and_completely():
    rules = [
        (r"a\.(\d)\.w", r"a/w[\1]", "linear"),
        (r"b\.(\d)\.w", r"a/w[\1]", "linear"),
        (r"q(\d)", r"q#\1/2", "same"),
    ]
    with pytest.raises(ValueError, match="'a.0.w' and 'b.0.w' both map to 'a/w'"):
        Mapping(rules, {"a.0.w": (2, 3), "b.0.w": (2, 3)})
    with pytest.raises(ValueError, match="'a/w' needs 3 tensors, found 2"):
        Mapping(rules, {"a.0.w": (2, 3), "a.2.w": (2, 3)})
    with pytest.raises(ValueError, match="no rule maps: c"):
        Mapping(rules, {"c": (1,)})
    with pytest.raises(ValueError, match="'q' needs 2 tensors"):
        Mapping(rules, {"q1": (4,)})

"""VideoMamba and its operations reproduce the original's numbers, and refuse what they cannot."""

import pytest

from vfm.errors import UserError
from vfm.interop.golden import read
from vfm.interop.verify import verify
from vfm.interop.videomamba_config import spec_of

FILES = [  # one of each kind; the others are slow only because they are many
    *(f"selective_scan.{v}.safetensors" for v in ("L7_grouped", "L64_const_BC", "L1000_tiny_delta")),
    "causal_conv1d.L19_W4.safetensors",
    "videomamba.cls_ln_k2.safetensors",
    "videomamba.image.safetensors",
    "videomamba.pretrain_fused_2layers.safetensors",
    "videomamba.small_k400_f8.names.json",
    "videomamba.image_base_in1k_224.names.json",
    "videomamba.middle_pretrain_f8.names.json",
]
REST = [
    *(
        f"selective_scan.{v}.safetensors"
        for v in ("L1", "L7", "L64", "L1000", "L64_extreme", "L1000_extreme")
    ),
    "selective_scan.L33_plain_no_D_z_bias_softplus.safetensors",
    "causal_conv1d.L1_W4.safetensors",
    *(f"videomamba.cls_{v}.safetensors" for v in ("fused_rms_k1", "unidirectional")),
    *(f"videomamba.pretrain_{v}.safetensors" for v in ("fused_1layer", "nonfused_2layers")),
    *(f"videomamba.{v}.names.json" for v in ("tiny_k400_f8", "middle_k400_f16", "middle_ssv2_f8")),
    *(f"videomamba.image_{v}_in1k_224.names.json" for v in ("tiny", "small", "middle")),
]
VIDEO = ("temporal_pos_embedding", "head.weight")
PRETRAIN = ("temporal_pos_embedding", "clip_decoder.0.head.weight")


@pytest.mark.parametrize("name", [*FILES, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_every_number_of_a_file_is_met(shared, name):
    checks = list(verify(shared / "golden" / name))
    assert checks and not [check for check in checks if not check.passed]


@pytest.mark.parametrize("name", ["mm_clsavg.safetensors", "umt_middle_bert_base_f8.names.json"])
def test_models_of_later_work_are_refused_by_name(shared, name):
    (check,) = verify(shared / "golden" / f"videomamba.{name}")
    assert not check.passed
    assert check.text.startswith("not supported yet: the ")


@pytest.mark.parametrize(
    ("config", "names", "named"),
    [
        (dict(embed_dmi=48), VIDEO, "does not map: embed_dmi=48"),
        (dict(ssm_cfg=dict(d_stat=4)), VIDEO, "not map: d_stat=4"),
        (dict(ssm_cfg=dict(use_fast_path=False)), VIDEO, "use_fast_path=False is not supported"),
        (dict(patch_size=[16, 8]), VIDEO, r"patch_size=\[16, 8\] is not supported"),
        (dict(num_classes=0), VIDEO, "num_classes=0 is not supported"),
        (dict(factory="videomamba_huge"), VIDEO, "unknown factory 'videomamba_huge'"),
        (dict(num_frames=5, kernel_size=2), VIDEO, "num_frames=5 is not supported"),
        (dict(clip_decoder_embed_dim=512), PRETRAIN, "clip_decoder_embed_dim=512 is not supported"),
        (
            dict(clip_decoder_embed_dim=192, clip_norm_type="l1"),
            PRETRAIN,
            "clip_norm_type='l1' is not supported",
        ),
        (
            dict(clip_decoder_embed_dim=192, depth=2, clip_return_layer=4),
            PRETRAIN,
            r"layers \[-2, -1, 0, 1\] of 2",
        ),
        ({}, ("distill_head.0.weight",), "not supported yet: the self-distilled image student"),
    ],
)
def test_arguments_that_are_not_supported_are_named(config, names, named):
    with pytest.raises(UserError, match=named):
        spec_of(config, names)


def test_all_arguments_of_the_mixer_reach_our_encoder():
    mixer = dict(d_state=8, d_conv=3, expand=1, dt_rank=5, bias=True, conv_bias=False, dt_init="constant")
    spec = spec_of(dict(ssm_cfg=mixer, bimamba=False, rms_norm=False, norm_epsilon=1e-6), VIDEO)
    expected = dict(
        d_state=8, d_conv=3, expand=1, dt_rank=5, proj_bias=True, conv_bias=False, bidirectional=False
    )
    assert expected.items() <= spec.encoder.items()
    assert (spec.encoder["norm"], spec.encoder["norm_eps"]) == ("layernorm", 1e-6)


def test_an_image_model_s_stride_is_the_published_one_unless_given():
    assert spec_of(dict(patch_size=8), ("head.weight",)).encoder["stride"] == 16
    assert spec_of(dict(patch_size=8, stride=4), ("head.weight",)).encoder["stride"] == 4


def test_a_file_without_its_family_s_tensors_names_them(shared, tmp_path):
    names = read(shared / "golden" / "videomamba.tiny_k400_f8.names.json")
    assert names.params == 7_033_744
    path = tmp_path / "videomamba.changed.names.json"
    text = names.path.read_text().replace("layers.3.mixer.A_b_log", "layers.3.mixer.A_c_log")
    path.write_text(text)
    (check,) = verify(path)
    assert "1 tensors that no rule maps: layers.3.mixer.A_c_log" in check.text

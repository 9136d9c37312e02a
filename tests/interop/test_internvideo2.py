"""InternVideo2, Unmasked Teacher and ViCLIP give their originals' numbers, and every published name has its place."""

import importlib

import numpy as np
import pytest

from vfm import models
from vfm.errors import UserError
from vfm.interop.golden import read
from vfm.interop.internvideo2_align import parameter_shapes
from vfm.interop.internvideo2_config import spec_of
from vfm.interop.internvideo2_rules import join, mapping, split
from vfm.interop.umt_config import spec_of as umt_spec_of
from vfm.interop.verify import verify

NAMES = (
    "internvideo2.stage1_1B",
    "internvideo2.stage1_6B",
    "internvideo2.stage2_1B_f4",
    "internvideo2.stage2_6B_f4",
    "internvideo2.distill_small",
    "internvideo2.cls_base_k400_f8",
    "internvideo2.clip_1B_vision",
    "umt.student_base",
    "umt.clip_teacher_l14_res196",
    "umt.finetune_base_384_f8_mitv1",
    "umt.finetune_large_f8_ssv2",
    "viclip.B",
    "viclip.L",
)
QUICK = (
    "internvideo2.stage1_fused_emulated",
    "internvideo2.stage2_naive",
    "umt.clip_teacher_eps",
    "viclip.tiny",
)
SLOW = (
    "internvideo2.stage1_naive_joint_pos",
    "internvideo2.stage1_naive_sep_pos",
    "internvideo2.stage2_fused_emulated_shared_pos",
    "internvideo2.distill_naive",
    "internvideo2.cls_naive",
    "internvideo2.cls_fused_emulated_sep",
    "internvideo2.cls_ap_extra_mlp",
    "internvideo2.cls_cat_avg1_kaimingBN",
    "internvideo2.cls_cat_avg1_proj_LN",
    "internvideo2.clip_vision",
    "internvideo2.posinterp_t4h4_to_t8h6",
    "internvideo2.posinterp_t8h4_to_t4h4",
    "umt.clip_teacher",
    "umt.student",
    "umt.finetune_f8",
    "umt.finetune_interp",
)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_originals_numbers(shared, name):
    checks = list(verify(str(shared / "golden" / f"{name}.safetensors")))
    assert checks
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


@pytest.mark.parametrize("name", NAMES)
def test_the_published_names(shared, name):
    checks = list(verify(str(shared / "golden" / f"{name}.names.json")))
    assert len(checks) == 2
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


def test_weights_come_back_bit_for_bit_also_where_tables_are_joined(shared):
    golden = read(shared / "golden" / "internvideo2.stage1_naive_sep_pos.safetensors")
    spec, weights = spec_of(golden.config, golden.weights), join(golden.weights)
    tensors = mapping(spec, {name: w.shape for name, w in weights.items()})
    back = split(tensors.to_theirs(tensors.to_ours(weights, parameter_shapes(spec))), golden.weights)
    assert back.keys() == golden.weights.keys()
    for name, weight in golden.weights.items():
        np.testing.assert_array_equal(back[name], weight)


@pytest.mark.parametrize(
    "spec, config, names, named",
    [
        (spec_of, dict(qkv_bias=True, num_frames=8), (), "qkv_bias=True"),
        (spec_of, dict(num_frames=8, rope=True), (), "rope=True"),
        (spec_of, dict(factory="internvideo2_7B_patch14_224"), (), "unknown factory"),
        (spec_of, dict(num_frames=8, merge_method="avg9"), ("head.weight",), "merge_method='avg9'"),
        (umt_spec_of, dict(clip_norm_type="none"), (), "clip_norm_type='none'"),
        (umt_spec_of, dict(use_learnable_pos_emb=True), (), "use_learnable_pos_emb=True"),
    ],
)
def test_arguments_that_change_numbers_are_never_ignored(spec, config, names, named):
    with pytest.raises(UserError, match=named):
        spec(config, names)


@pytest.mark.parametrize(
    ("size", "factory"), [("s", "small"), ("b", "base"), ("l", "large"), ("1b", "1B"), ("6b", "6B")]
)
def test_published_weights_fit_the_recipes(size, factory):
    """The encoder of configs/internvideo2.py is the one that a published checkpoint is read as."""
    names = ("clip_decoder", "mae_decoder")
    spec = spec_of({"factory": f"pretrain_internvideo2_{factory}_patch14_224", "num_frames": 8}, names)
    ours = importlib.import_module("configs.internvideo2").get_config(f"stage1,{size}")
    there, here = models.build(spec.encoder), models.build(ours.model.encoder)
    initial = (
        "positions",
        "drop_path",
        "parent",
        "name",
    )  # of learned positions only the initial values differ
    differing = {
        field: (getattr(there, field), getattr(here, field))
        for field in type(here).__dataclass_fields__
        if field not in initial and getattr(there, field) != getattr(here, field)
    }
    assert not differing and here.positions.startswith("learned") and there.positions == "learned"
    assert spec.pool == ours.objective.pool.to_dict()

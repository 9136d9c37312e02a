"""Mixup and CutMix mix clips and labels by the same share, drawn as timm draws it."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm.errors import UserError
from vfm.ops import mixing

ROWS, CLASSES = 6, 6
VIDEO = np.random.default_rng(0).normal(size=(ROWS, 2, 12, 10, 3)).astype(np.float32)
LABELS = mixing.soft_labels(jnp.arange(ROWS), CLASSES, 0.0)
MIX = jax.jit(mixing.mix, static_argnames=("mixup", "cutmix", "probability", "switch", "mode"))


def mixed(seed: int, **options):
    video, labels = MIX(jax.random.key(seed), VIDEO, LABELS, **options)
    return np.asarray(video), np.asarray(labels)


def shares(labels: np.ndarray) -> np.ndarray:
    """Each row's share of itself."""
    return labels[np.arange(ROWS), np.arange(ROWS)]


@pytest.mark.parametrize("mode", mixing.MODES)
def test_mixup_fades_clips_and_labels_alike(mode):
    for seed in range(5):
        video, labels = mixed(seed, cutmix=0.0, mode=mode)
        share = shares(labels)
        weight = share[:, None, None, None, None]
        np.testing.assert_allclose(video, VIDEO * weight + VIDEO[::-1] * (1 - weight), atol=1e-5)
        np.testing.assert_allclose(
            labels, LABELS * share[:, None] + LABELS[::-1] * (1 - share[:, None]), atol=1e-6
        )
        distinct = {"batch": 1, "pair": ROWS // 2, "elem": ROWS}[mode]
        assert len(set(np.round(share, 6))) == distinct


@pytest.mark.parametrize("mode", mixing.MODES)
def test_cutmix_puts_a_box_of_one_clip_into_the_other(mode):
    for seed in range(8):
        video, labels = mixed(seed, mixup=0.0, mode=mode)
        for row in range(ROWS):
            theirs = (video[row] == VIDEO[ROWS - 1 - row]).all(-1)
            ours = (video[row] == VIDEO[row]).all(-1)
            assert (theirs ^ ours).all() and (theirs == theirs[:1]).all()  # through all frames
            rows, columns = theirs[0].any(1), theirs[0].any(0)
            assert (theirs[0] == rows[:, None] & columns).all()  # a box
            assert (
                np.abs(np.diff(rows.astype(int))).sum() <= 2
                and np.abs(np.diff(columns.astype(int))).sum() <= 2
            )
            np.testing.assert_allclose(labels[row, row], 1 - theirs[0].mean(), atol=1e-6)


def test_boxes_have_timms_size_and_place():
    share = jnp.linspace(0, 1, 400)
    inside = np.asarray(mixing._inside(jax.random.key(0), 40, share))
    half = (40 * np.sqrt(1 - np.asarray(share))).astype(int) // 2
    assert (inside.sum(1) <= 2 * half).all()
    free = [i for i, row in enumerate(inside) if row.any() and not row[0] and not row[-1]]
    assert len(free) > 50 and (inside.sum(1)[free] == 2 * half[free]).all()  # those that no edge cuts off
    assert inside[share > 0.999].sum() == 0


def test_shares_and_choices_follow_their_distributions():
    draw = jax.jit(
        jax.vmap(lambda key: mixing._draw(key, (2, 1, 8, 8, 3), 0.8, 1.0, 0.75, 0.3, "batch")[:2]),
    )
    share, (_, boxed) = draw(jax.random.split(jax.random.key(1), 4000))
    share, boxed = np.asarray(share)[:, 0], np.asarray(boxed)[:, 0]
    assert abs((share < 1).mean() - 0.75) < 0.03
    assert abs(boxed.mean() - 0.3) < 0.03
    faded = share[(share < 1) & ~boxed]
    assert (
        abs(faded.mean() - 0.5) < 0.02 and abs(faded.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.01
    )  # Beta(.8, .8)
    assert abs(share[(share < 1) & boxed].var() - 1 / 12) < 0.01  # Beta(1, 1)


def test_labels_stay_distributions_and_smoothing_is_timms():
    soft = np.asarray(mixing.soft_labels(jnp.array([1, 3]), 5, 0.1))
    assert np.allclose(soft[0], [0.02, 0.92, 0.02, 0.02, 0.02])
    smooth = mixing.soft_labels(jnp.arange(ROWS), CLASSES)
    for seed in range(6):
        video, labels = MIX(jax.random.key(seed), VIDEO, smooth, mode="elem")
        np.testing.assert_allclose(np.asarray(labels).sum(1), 1, atol=1e-6)
        assert np.isfinite(video).all() and video.dtype == VIDEO.dtype


def test_nothing_is_mixed_where_the_probability_is_zero():
    video, labels = mixed(0, probability=0.0)
    assert (video == VIDEO).all() and (labels == np.asarray(LABELS)).all()


DEVICES = """
    import sys
    import jax
    import numpy as np
    sys.path.insert(0, "tests/ops")
    from test_mixing import LABELS, MIX, VIDEO, mixed

    rows = jax.sharding.NamedSharding(jax.make_mesh((3,), ("data",)), jax.sharding.PartitionSpec("data"))
    alone = mixed(3, mode="elem")
    split = MIX(jax.random.key(3), *jax.device_put((VIDEO, LABELS), rows), mode="elem")
    assert len(split[0].sharding.device_set) == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), split, alone)
    print("equal")
"""


def test_a_batch_split_over_devices_is_mixed_as_one():
    """The step runs on the global array: devices see rows of one mix, not mixes of their own."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DEVICES)], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


def test_impossible_options_are_refused():
    with pytest.raises(UserError, match="mode 'row'"):
        mixed(0, mode="row")
    with pytest.raises(ValueError, match="video of uint8: expected floats"):  # shares would be rounded to 0
        MIX(jax.random.key(0), VIDEO.astype(np.uint8), LABELS)
    with pytest.raises(UserError, match="one of them above 0"):
        mixed(0, mixup=0.0, cutmix=0.0)

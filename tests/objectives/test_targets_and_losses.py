"""Targets equal their closed forms; losses equal torch's definitions."""

import jax
import numpy as np
import pytest

from vfm import losses, targets
from vfm.errors import UserError
from vfm.ops.patches import patchify, take, unpatchify


class Encoder:
    tubelet, patch = 2, 4


VIDEO = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3), np.uint8)
IDS = np.array([[0, 3, 7], [1, 2, 4]], np.int32)


def tubelet(video, token):
    t, h, w = token // 4, token // 2 % 2, token % 2
    return video[2 * t : 2 * t + 2, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4].astype(np.float64) / 255


def test_channel_targets_are_videomaes_closed_form():
    target = np.asarray(targets.pixels("channel", 1e-6)({"video": VIDEO}, IDS, Encoder, {}))
    assert target.shape == (2, 3, 96)
    for b in range(2):
        for m in range(3):
            x = tubelet(VIDEO[b], IDS[b, m]).reshape(-1, 3)
            expected = (x - x.mean(0)) / (x.std(0, ddof=1) + 1e-6)
            np.testing.assert_allclose(target[b, m], expected.reshape(-1), atol=2e-5)


def test_patch_targets_put_eps_inside_the_root():
    target = np.asarray(targets.pixels("patch", 0.1)({"video": VIDEO}, IDS, Encoder, {}))
    x = tubelet(VIDEO[1], IDS[1, 2])
    expected = (x - x.mean()) / np.sqrt(x.var(ddof=1) + 0.1)
    np.testing.assert_allclose(target[1, 2], expected.reshape(-1), atol=1e-5)


@pytest.mark.parametrize("norm", ["channel", "patch", "none"])
def test_pictures_undo_the_standardisation(norm):
    target = targets.pixels(norm, 0.05)
    batch = {"video": VIDEO}
    pixels = target.to_pixels(target(batch, IDS, Encoder, {}), batch, IDS, Encoder)
    expected = take(patchify(VIDEO / np.float32(255), 2, 4), IDS)
    np.testing.assert_allclose(np.asarray(pixels), expected, atol=1e-5)


def test_an_unknown_norm_names_the_choices():
    with pytest.raises(UserError, match="'channel', 'patch' or 'none'"):
        targets.pixels("chanel")


def test_patches_and_back():
    patches = patchify(VIDEO, 2, 4)
    assert patches.shape == (2, 8, 96)
    np.testing.assert_array_equal(np.asarray(patches[0, 5]), (tubelet(VIDEO[0], 5) * 255).round().reshape(-1))
    np.testing.assert_array_equal(np.asarray(unpatchify(patches, (2, 2, 2), 2, 4)), VIDEO)


def test_losses():
    a, b = (jax.random.normal(jax.random.key(i), (2, 3, 16)) for i in (0, 1))
    x, y = np.asarray(a), np.asarray(b)
    d = np.abs(x - y)
    expected = {
        "mse": (d**2).mean(-1),
        "l1": d.mean(-1),
        "smooth_l1": np.where(d < 1, d**2 / 2, d - 0.5).mean(-1),
        "cosine": 2 - 2 * (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(getattr(losses, name)()(a, b)), value, rtol=1e-5, atol=1e-6)

"""Augmentations are Pillow's where Pillow has them, alike for all frames, and functions of the generator."""

from dataclasses import replace

import numpy as np
import pytest

from input_pipeline import augment, image_ops, train_batches, write_mp4
from input_pipeline.augment import Augment, RandAugment
from input_pipeline.clips import Recipe, examples, training_clips
from input_pipeline.normalise import NORMALISATIONS
from vfm.errors import UserError

RANDAUG = "rand-m7-n4-mstd0.5-inc1"


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Noise, ramps and flat parts: 4 frames of 30 x 41 pixels."""
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (4, 30, 41, 3), dtype=np.uint8)
    clip[1] = np.arange(41)[None, :, None] * 5 + np.arange(3) * 10
    clip[2, :10] = 200
    clip[3] = clip[3] // 3 + 40
    return clip


def pillow(name: str):
    return pytest.importorskip(f"PIL.{name}", reason="needs Pillow to compare with")


def below_each_other(clip):
    """All frames as one Pillow image."""
    return pillow("Image").fromarray(clip.reshape(-1, *clip.shape[2:]))


def equal(ours, theirs) -> bool:
    return (ours == np.asarray(theirs).reshape(ours.shape)).all()


def test_tables_are_pillows(clip):
    ops, image = pillow("ImageOps"), below_each_other(clip)
    assert equal(image_ops.invert(clip), ops.invert(image))
    assert equal(image_ops.autocontrast(clip), ops.autocontrast(image))
    assert equal(image_ops.equalize(clip), ops.equalize(image))
    for threshold in (0, 1, 77, 128, 256):
        assert equal(image_ops.solarize(clip, threshold), ops.solarize(image, threshold))
    for bits in range(1, 9):
        assert equal(image_ops.posterize(clip, bits), ops.posterize(image, bits))
    assert (image_ops.posterize(clip, 0) == 0).all()
    for amount in (0, 30, 110):
        table = [min(255, i + amount) if i < 128 else i for i in range(256)]
        assert equal(image_ops.solarize_add(clip, amount), image.point(table * 3))


@pytest.mark.parametrize("shade", [0, 77, 255])
def test_statistics_of_flat_and_narrow_clips_are_pillows(shade):
    ops = pillow("ImageOps")
    flat = np.full((2, 5, 6, 3), shade, np.uint8)
    narrow = flat.copy()
    narrow[0, 0, 0] = 100
    for clip in (flat, narrow):
        image = below_each_other(clip)
        assert equal(image_ops.autocontrast(clip), ops.autocontrast(image))
        assert equal(image_ops.equalize(clip), ops.equalize(image))


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.37, 0.999, 1.0, 1.3, 1.9, 3.0])
def test_blends_are_pillows(clip, factor):
    enhance, image = pillow("ImageEnhance"), below_each_other(clip)
    assert equal(image_ops.brightness(clip, factor), enhance.Brightness(image).enhance(factor))
    assert equal(image_ops.contrast(clip, factor), enhance.Contrast(image).enhance(factor))
    assert equal(image_ops.saturation(clip, factor), enhance.Color(image).enhance(factor))
    for frame, ours in zip(clip, image_ops.sharpness(clip, factor), strict=True):
        theirs = enhance.Sharpness(pillow("Image").fromarray(frame)).enhance(factor)
        assert equal(ours, theirs)


def test_grey_is_pillows(clip):
    assert equal(image_ops.greyscale(clip), below_each_other(clip).convert("L").convert("RGB"))


def test_affine_maps_are_pillows_within_rounding(clip):
    images = [pillow("Image").fromarray(frame) for frame in clip]
    kind, bilinear = pillow("Image").Transform.AFFINE, pillow("Image").Resampling.BILINEAR
    fill = (128, 128, 128)
    for places in (
        image_ops.shear_x(0.3),
        image_ops.shear_y(-0.21),
        image_ops.translate(-7.4, 0),
        image_ops.translate(0, 45),  # all outside
        image_ops.rotate(17.0, 30, 41),
        image_ops.rotate(-30.0, 30, 41),
    ):
        ours = image_ops.affine(clip, places).astype(int)
        theirs = [
            np.asarray(i.transform(i.size, kind, tuple(places), bilinear, fillcolor=fill)) for i in images
        ]
        assert np.abs(ours - np.stack(theirs)).max() <= 2
    turned = [np.asarray(image.rotate(17.0, bilinear, fillcolor=fill), int) for image in images]
    assert np.abs(image_ops.affine(clip, image_ops.rotate(17.0, 30, 41)) - np.stack(turned)).max() <= 2
    assert equal(image_ops.affine(clip, image_ops.translate(0, 0)), clip)
    moved = image_ops.affine(clip, image_ops.translate(3, -2))
    assert (moved[:, 2:, :-3] == clip[:, :-2, 3:]).all() and (moved[:, :2] == 128).all()


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian(clip, sigma):
    filters = pytest.importorskip("scipy.ndimage")
    theirs = filters.gaussian_filter(
        clip.astype(float), (0, sigma, sigma, 0), mode="nearest", truncate=3.0, radius=None
    )
    assert np.abs(image_ops.blur(clip, sigma) - theirs).max() <= 3
    for shade in (0, 255):
        flat = np.full((1, 4, 5, 3), shade, np.uint8)
        assert (image_ops.blur(flat, sigma) == shade).all()


@pytest.mark.parametrize("sigma", [0.3, 1.7, 6.0, 20.0, 41.35])
def test_a_line_is_blurred_to_a_bell(sigma):
    line = np.zeros((1, 3, 301, 3), np.uint8)
    line[:, :, 150] = 255
    bell = np.exp(-0.5 * ((np.arange(301) - 150) / sigma) ** 2)
    bell[np.abs(np.arange(301) - 150) > np.ceil(3 * sigma)] = 0
    assert np.abs(image_ops.blur(line, sigma)[0, 1, :, 0] - 255 * bell / bell.sum()).max() < 2


def test_a_turn_of_hue_keeps_greys_and_comes_back(clip):
    greys = np.broadcast_to(np.arange(40, 200, dtype=np.uint8)[None, None, :, None], (1, 1, 160, 3))
    assert np.abs(image_ops.hue(greys, 0.3).astype(int) - greys).max() <= 1
    muted = (clip // 4 + 96).astype(np.uint8)
    assert np.abs(image_ops.hue(image_ops.hue(muted, 0.2), -0.2).astype(int) - muted).max() <= 2
    red = np.array([180, 60, 60], np.uint8).reshape(1, 1, 1, 3)
    turned = image_ops.hue(red, 1 / 3)[0, 0, 0]
    assert turned.argmax() != 0 and abs(int(image_ops.greyscale(red)[0, 0, 0, 0]) - 96) < 1


def test_no_operation_changes_what_it_is_given(clip):
    before = clip.copy()
    level = augment._Level(0.7, -1.0, True, *clip.shape[1:3])
    for name, operation in augment.OPERATIONS.items():
        changed = operation(clip, level)
        assert (clip == before).all(), name
        assert changed.shape == clip.shape and changed.dtype == np.uint8, name


@pytest.mark.parametrize("name", list(augment.OPERATIONS))
def test_frames_that_are_alike_stay_alike(clip, name):
    still = np.repeat(clip[:1], 3, 0)
    changed = augment.OPERATIONS[name](still, augment._Level(0.7, 1.0, True, *clip.shape[1:3]))
    assert (changed == changed[:1]).all()


def test_randaugment_reads_timms_notation():
    assert RandAugment.from_text(RANDAUG) == RandAugment(7.0, 4, 0.5, True)
    assert RandAugment.from_text("rand-m9") == RandAugment(9.0, 2, 0.0, False)
    assert RandAugment.from_text("rand-n3-p1-inc0") == RandAugment(10.0, 3, 0.0, False, 1.0)
    for text in ("rand-m11", "rand-m7-q3", "augmix-m3", "rand-m7-m8", "rand-n0", "m7", "rand-", "rand-m"):
        with pytest.raises(UserError, match="data.augment.randaug="):
            RandAugment.from_text(text)


def test_magnitudes_mean_what_they_mean_in_timm(monkeypatch):
    seen = {}
    for name in ("solarize", "posterize", "solarize_add", "saturation"):
        monkeypatch.setattr(
            image_ops, name, lambda clip, value, name=name: seen.setdefault(name, []).append(value) or clip
        )
    for name in ("shear_x", "translate"):
        monkeypatch.setattr(
            image_ops, name, lambda *values, name=name: seen.setdefault(name, []).append(values)
        )
    monkeypatch.setattr(image_ops, "affine", lambda clip, places: clip)
    clip = np.zeros((1, 20, 40, 3), np.uint8)
    for increasing in (False, True):
        level = augment._Level(0.7, -1.0, increasing, 20, 40)
        for name in (
            "solarize",
            "posterize",
            "solarize_add",
            "color",
            "shear_x",
            "translate_x",
            "translate_y",
        ):
            augment.OPERATIONS[name](clip, level)
    assert seen["solarize"] == [int(0.7 * 256), 256 - int(0.7 * 256)]
    assert seen["posterize"] == [2, 2] and seen["solarize_add"] == [77, 77]
    assert np.allclose(seen["saturation"], [0.1 + 0.7 * 1.8, 1 - 0.7 * 0.9])
    assert np.allclose(seen["shear_x"], -0.21)
    assert np.allclose(seen["translate"], [(-0.45 * 0.7 * 40, 0), (0, -0.45 * 0.7 * 20)] * 2)


def test_randaugment_draws_operations_and_magnitudes_as_it_says(clip, monkeypatch):
    calls = []
    for name in augment.OPERATIONS:
        record = lambda clip, level, name=name: calls.append((name, level)) or clip  # noqa: E731
        monkeypatch.setitem(augment.OPERATIONS, name, record)
    rng = np.random.default_rng(0)
    policy = RandAugment.from_text(RANDAUG)
    for _ in range(2000):
        policy(clip, rng)
    names, levels = zip(*calls, strict=True)
    assert abs(len(calls) / 8000 - 0.5) < 0.02  # each applied with probability one half
    counts = np.array([names.count(name) for name in augment.OPERATIONS])
    assert (np.abs(counts / len(calls) - 1 / 15) < 0.015).all()
    magnitudes = np.array([10 * level.share for level in levels])
    assert abs(magnitudes.mean() - 7) < 0.05 and abs(magnitudes.std() - 0.5) < 0.03
    assert abs(np.mean([level.sign for level in levels])) < 0.06
    assert all(level.increasing for level in levels)


def configured(data, **keys):
    with data.unlocked():
        for key, value in keys.items():
            data.augment[key] = value
    return Augment.from_config(data)


def test_everything_is_off_by_default_and_older_configs_have_no_such_keys(data):
    assert Augment.from_config(data) is None
    with data.unlocked():
        del data["augment"], data["fps"], data["resize"]
    assert Recipe.from_config(data).augment is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("jitter", 1.5), ("hue", 0.6), ("erase_mode", "black"), ("erase_area", (0.5, 2.0)), ("erase_boxes", 0)],
)
def test_impossible_values_are_refused_by_key(data, key, value):
    with pytest.raises(UserError, match=f"data.augment.{key}="):
        configured(data, **{key: value})


def test_erasing_fills_one_box_through_all_frames(data):
    grey = np.full((6, 40, 50, 3), 7, np.uint8)
    for mode in augment.ERASURES:
        change = configured(data, erase=1.0, erase_mode=mode)
        areas = []
        for seed in range(100):
            erased = change(grey, np.random.default_rng(seed))
            touched = (erased != 7).any(-1)
            rows, columns = touched.any((0, 2)).nonzero()[0], touched.any((0, 1)).nonzero()[0]
            box = erased[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            areas.append(len(rows) * len(columns) / 2000)
            assert touched[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.98
            if mode == "const":
                assert (box == np.rint(255 * np.array(NORMALISATIONS["imagenet"][0]))).all()
            if mode == "color":
                assert (box == box[0, 0, 0]).all()
            if mode == "pixel" and box.shape[1] * box.shape[2] > 100:
                assert not (box[0] == box[1]).all() and 30 < box.std() < 80
        assert 0.015 < min(areas) and max(areas) < 0.345 and 0.12 < np.mean(areas) < 0.23
    assert (grey == 7).all()


def test_probabilities_are_those_of_the_keys(data):
    coloured = np.tile(np.array([200, 30, 90], np.uint8), (2, 8, 8, 1))
    change = configured(data, grey=0.3)
    rng = np.random.default_rng(0)
    grey = np.mean([len(set(change(coloured, rng)[0, 0, 0].tolist())) == 1 for _ in range(1000)])
    assert abs(grey - 0.3) < 0.05


def test_jitter_draws_its_factors_around_one(data, monkeypatch):
    seen = {}
    for name in ("brightness", "contrast", "saturation", "hue"):
        monkeypatch.setattr(
            image_ops, name, lambda clip, value, name=name: seen.setdefault(name, []).append(value) or clip
        )
    change = configured(data, jitter=1.0, contrast=2.0, saturation=0.0)
    for seed in range(300):
        change(np.zeros((1, 2, 2, 3), np.uint8), np.random.default_rng(seed))
    assert "saturation" not in seen
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.0, 3.0), ("hue", -0.1, 0.1)):
        assert low <= min(seen[name]) < low + 0.05 * (high - low)
        assert high >= max(seen[name]) > high - 0.05 * (high - low)


class Frames:
    """An open video of given frames."""

    damage, fps, times = "", 8.0, None

    def __init__(self, frames: np.ndarray):
        self._frames, self.num_frames = frames, len(frames)

    def read(self, indices, window_of=None):
        from input_pipeline import transforms

        frames = self._frames[np.asarray(indices)]
        return transforms.resize(frames, window_of(*frames.shape[1:3])) if window_of else frames


def test_a_clip_is_a_function_of_its_generator_alone(data, clip):
    with data.unlocked():
        data.augment.randaug, data.augment.jitter, data.augment.erase = RANDAUG, 0.8, 0.5
        data.augment.grey = data.augment.blur = 0.3
        data.flip = True
    recipe, video = Recipe.from_config(data), Frames(np.tile(clip, (3, 1, 1, 1)))

    def made(seeds):
        return training_clips(
            video, replace(recipe, clips_per_video=1), [np.random.default_rng(s) for s in seeds]
        )

    together = made(range(6))
    alone = [made([seed])[0] for seed in range(6)]
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))
    assert any((a != b).any() for a, b in zip(together[:-1], together[1:], strict=True))
    shown = list(examples(video, recipe, seed=1, count=3))
    assert len(shown) == 3 and all(c.shape == (4, 16, 16, 3) and c.dtype == np.uint8 for c in shown)


def test_augmenting_does_not_change_which_frames_and_window_are_drawn(data, clip):
    """So that switching it on or off leaves everything else of a run as it was."""
    recipe, video = Recipe.from_config(data), Frames(np.tile(clip, (5, 1, 1, 1)))
    with data.unlocked():
        data.augment.erase, data.augment.erase_mode = 1.0, "const"
    erasing = Recipe.from_config(data)
    for seed in range(20):
        plain = training_clips(video, recipe, [np.random.default_rng(seed)])[0]
        erased = training_clips(video, erasing, [np.random.default_rng(seed)])[0]
        box = (erased == np.rint(255 * np.array(NORMALISATIONS["imagenet"][0]))).all(-1)
        assert (plain == erased)[~box].all() and box.any()


def batches(data, workers=0, rows=None, start=0):
    with data.unlocked():
        data.workers = workers
    with train_batches(data, batch_size=8, seed=3, start_step=start, rows=rows) as source:
        return [next(source)["video"] for _ in range(3)]


def switched_on(data):
    with data.unlocked():
        data.augment.randaug, data.augment.jitter, data.augment.erase = RANDAUG, 0.5, 0.5


def test_augmented_batches_depend_neither_on_workers_nor_hosts_nor_where_a_run_resumes(data):
    plain = batches(data)
    switched_on(data)
    expected = batches(data)
    assert all((a != b).any() for a, b in zip(plain, expected, strict=True))
    for workers in (1, 2):
        assert all((a == b).all() for a, b in zip(expected, batches(data, workers), strict=True))
    hosts = [batches(data, rows=slice(first, first + 4)) for first in (0, 4)]
    assert all(
        (a == np.concatenate(b)).all() for a, b in zip(expected, zip(*hosts, strict=True), strict=True)
    )
    assert (batches(data, start=2)[0] == expected[2]).all()


def test_cached_whole_videos_are_augmented_too(data, video_set, tmp_path):
    with data.unlocked():
        data.cache, data.cache_size, data.crop, data.stride = True, 16, "resize", 1
        data.frames, data.size = 10, 16
    lines = (video_set / "train.csv").read_text().splitlines()
    for i in range(len(lines) - 1):
        write_mp4(tmp_path / f"{i}.mp4", np.full((10, 16, 16, 3), 20 * i, np.uint8), 8, 12)
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    data.train = str(tmp_path / "train.csv")
    plain = batches(data)
    switched_on(data)
    changed = batches(data)
    assert all((a != b).any() for a, b in zip(plain, changed, strict=True))

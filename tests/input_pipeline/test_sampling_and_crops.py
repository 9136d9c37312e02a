"""Every clip and crop stays inside its video, has the size asked for, and is what its definition says."""

import math

import numpy as np
import pytest

from input_pipeline import sampling, transforms
from input_pipeline.clips import Recipe
from vfm.errors import UserError

LENGTHS = [1, 2, 3, 7, 15, 16, 17, 61, 64, 65, 300]
SHAPES = [(1, 1), (48, 48), (240, 320), (640, 360), (33, 1000), (224, 226)]


@pytest.mark.parametrize("num_frames", LENGTHS)
@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (16, 1), (16, 4), (5, 7)])
def test_indices_stay_inside_the_video(num_frames, frames, stride):
    rng = np.random.default_rng(num_frames)
    clips = [sampling.random_dense(num_frames, frames, stride, rng) for _ in range(20)]
    clips += [sampling.random_sparse(num_frames, frames, rng) for _ in range(20)]
    clips += list(sampling.dense_clips(num_frames, frames, stride, 3))
    clips += list(sampling.sparse_clips(num_frames, frames, 2))
    for clip in clips:
        assert clip.shape == (frames,)
        assert clip.min() >= 0 and clip.max() < num_frames
        assert (np.diff(clip) >= 0).all()


def test_dense_clips_have_their_stride_and_repeat_the_last_reachable_frame():
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(200):
        clip = sampling.random_dense(70, 16, 4, rng)
        assert (np.diff(clip) == 4).all()
        starts.add(int(clip[0]))
    assert starts == set(range(7))  # 70 - 64 + 1 windows
    assert sampling.random_dense(10, 6, 3, rng).tolist() == [0, 3, 6, 9, 9, 9]
    assert sampling.random_dense(16, 16, 1, rng).tolist() == list(range(16))


def test_sparse_clips_take_one_frame_of_each_segment():
    rng = np.random.default_rng(0)
    drawn = np.stack([sampling.random_sparse(32, 8, rng) for _ in range(200)])
    assert (drawn // 4 == np.arange(8)).all()
    assert all(len(set(column)) == 4 for column in drawn.T)
    assert sampling.sparse_clips(32, 8, 1).tolist() == [[2, 6, 10, 14, 18, 22, 26, 30]]
    assert sampling.sparse_clips(32, 4, 2).tolist() == [[0, 8, 16, 24], [4, 12, 20, 28]]  # interleaved


def test_evaluation_clips_reach_from_the_first_to_the_last_frame():
    clips = sampling.dense_clips(100, 16, 4, 5)
    assert clips[0][0] == 0 and clips[-1][-1] == 99
    assert np.ptp(np.diff(clips[:, 0])) <= 1
    assert sampling.dense_clips(100, 16, 4, 1)[0, 0] == 19  # (100 - 61) // 2


def inside(window: transforms.Window) -> bool:
    vertical = 0 <= window.top and window.top + window.rows <= window.height
    return vertical and 0 <= window.left and window.left + window.columns <= window.width


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("size", [1, 16, 224])
def test_windows_stay_inside_the_frame_and_have_the_size_asked_for(height, width, size):
    rng = np.random.default_rng(0)
    windows = transforms.view_windows(height, width, size, 3)
    for _ in range(50):
        windows.append(transforms.multiscale_window(height, width, size, (1, 0.875, 0.75, 0.66), rng))
        windows.append(
            transforms.random_resized_window(height, width, size, (0.08, 1.0), (3 / 4, 4 / 3), rng)
        )
    for window in windows:
        assert inside(window)
        assert (window.rows, window.columns) == (size, size)


def test_multiscale_crops_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    height, width, size, scales = 240, 320, 100, (1, 0.875, 0.75, 0.66)
    sides = [240, 210, 180, 158]
    pairs, places = set(), set()
    for _ in range(4000):
        window = transforms.multiscale_window(height, width, size, scales, rng)
        box = round(height * size / window.height), round(width * size / window.width)
        pair = tuple(min(range(4), key=lambda i: abs(sides[i] - side)) for side in box)
        pairs.add(pair)
        if pair == (2, 2):
            places.add(
                (round(window.top / 8.33), round(window.left / 19.44))
            )  # quarters of the room, resized
    assert pairs == {(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    assert len(places) == 13


def test_random_resized_crops_have_the_area_and_aspect_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(300):
        window = transforms.random_resized_window(300, 400, 1000, (0.3, 0.6), (0.75, 4 / 3), rng)
        height, width = 300 * 1000 / window.height, 400 * 1000 / window.width
        assert 0.28 < height * width / (300 * 400) < 0.62
        assert 0.73 < width / height < 1.36


def test_three_views_are_left_centre_right():
    left, centre, right = transforms.view_windows(240, 480, 120, 3)
    assert [w.left for w in (left, centre, right)] == [0, 60, 120]
    assert transforms.view_windows(240, 480, 120, 1) == [centre]
    assert [w.top for w in transforms.view_windows(480, 240, 120, 3)] == [0, 60, 120]


def test_resizing_keeps_constants_and_ramps_and_means():
    constant = np.full((2, 9, 13, 3), 77, np.uint8)
    assert (transforms.resize(constant, transforms.whole_window(31, 5)) == 77).all()
    ramp = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8)[None, None, :, None], (1, 4, 20, 3))
    doubled = transforms.resize(ramp, transforms.whole_window(4, 40))[0, 0, :, 0]
    assert doubled[1:-1].tolist() == [round(10 * ((i + 0.5) / 2 - 0.5) - 1e-6 + 0.01) for i in range(1, 39)]
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    halved = transforms.resize(noise, transforms.whole_window(8, 8))
    assert abs(halved.mean() - noise.mean()) < 2 and halved.std() < 30  # antialias averages


def test_resizing_equals_pillow():
    image = pytest.importorskip("PIL.Image", reason="needs Pillow to compare with")
    frames = np.random.default_rng(0).integers(0, 256, (2, 50, 77, 3), dtype=np.uint8)
    for height, width in [(20, 20), (33, 150), (100, 99), (50, 31), (1, 1)]:
        ours = transforms.resize(frames, transforms.whole_window(height, width)).astype(int)
        theirs = [np.asarray(image.fromarray(f).resize((width, height), image.BILINEAR), int) for f in frames]
        assert np.abs(ours - np.stack(theirs)).max() <= 1


def test_a_window_of_a_resize_is_a_cut_of_the_whole():
    frames = np.random.default_rng(0).integers(0, 256, (2, 50, 77, 3), dtype=np.uint8)
    window = transforms.Window(30, 90, 3, 50, 16, 20)
    whole = transforms.resize(frames, transforms.whole_window(30, 90))
    assert (transforms.resize(frames, window) == window.cut(whole)).all()


def test_impossible_recipes_are_refused_by_key(data):
    assert Recipe.from_config(data).frames == 4
    for key, value in [
        ("crop", "centre"),
        ("sampling", "randomly"),
        ("frames", 0),
        ("stride", 0),
        ("crop_area", (0.5, 2.0)),
        ("crop_scales", (0.0,)),
        ("workers", -1),
        ("max_bad_fraction", 7.0),
    ]:
        with data.unlocked():
            before, data[key] = data[key], value
            with pytest.raises(UserError, match=f"data.{key}="):
                Recipe.from_config(data)
            data[key] = before


def test_frames_shared_by_several_crops_are_large_enough_for_each(data):
    recipe = Recipe.from_config(data)
    window = recipe.shared_window(1080, 1920)
    assert window.height == math.ceil(16 / 0.66) and window.width == round(1920 * window.height / 1080)
    assert recipe.shared_window(10, 20)[:2] == (10, 20)  # never enlarged

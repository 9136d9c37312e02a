"""Resizing is torch's bit for bit, where evaluation asks for that; normalisations have names."""

import hashlib

import numpy as np
import pytest

from input_pipeline import normalise, resize, sampling, transforms
from input_pipeline.clips import Recipe, evaluation_views, training_clips
from input_pipeline.decode import Video
from vfm.errors import UserError

METHODS = resize.METHODS[1:]
SHAPES = [((7, 10), (3, 4)), ((7, 10), (4, 13)), ((120, 161), (64, 80)), ((33, 50), (90, 64))]
# torch.nn.functional.interpolate(uint8, align_corners=False) of torch 2.13 on `picture`: the first result of SHAPES
# whole, SHA-256 of the others.
TORCH = {
    "bilinear": (
        "5d8fc14375a7686f8c4d3f7194c6387fb1a36a9cce5587b9c2747c88ba57a45688959c39",
        "708423dcbc4426c3",
        "2957762116983581",
        "4c4680a2d8dee26f",
    ),
    "bicubic": (
        "47a7e22372c855529d31236aa7d92a8cbead5ca9e4418ec0d75f7c8ec93abe4377a2ac1f",
        "224db620b858947f",
        "08fadb8324b12c1e",
        "1945337cc64bacaa",
    ),
    "bilinear_antialias": (
        "737691768284808f7e6d687f7c8c726c97797f868b86798c96867a7e9978826f8b957e54",
        "7ecfd18da2b73a13",
        "4358f19111cf75b0",
        "4c4680a2d8dee26f",
    ),
    "bicubic_antialias": (
        "72739177818482947c6a65817d8b73689a767f868c8a788d96857a7d9d77806a92997e4e",
        "0d0e2d7c01c2c994",
        "7891440cc82ba0d3",
        "9798c16f792dfec0",
    ),
}


def picture(height: int, width: int) -> np.ndarray:
    i, j, c = np.ogrid[:height, :width, :3]
    return ((i * i * 37 + j * (i + 91) + c * 50) % 256).astype(np.uint8)


@pytest.mark.parametrize("method", METHODS)
def test_resizing_gives_the_bytes_that_torch_gave(method):
    for (source, target), expected in zip(SHAPES, TORCH[method], strict=True):
        ours = resize.resize(picture(*source)[None], transforms.whole_window(*target), method).tobytes()
        assert expected in (ours.hex(), hashlib.sha256(ours).hexdigest()[:16]), (source, target)


@pytest.mark.parametrize("method", METHODS)
def test_resizing_equals_torch_where_it_is_installed(method):
    torch = pytest.importorskip("torch", reason="needs torch to compare with")
    kernel, _, antialias = method.partition("_")
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width, *size = (int(n) for n in rng.integers(2, 90, 4))
        frames = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(frames).permute(0, 3, 1, 2), size=size, mode=kernel, antialias=bool(antialias)
        )
        ours = resize.resize(frames, transforms.whole_window(*size), method)
        assert (ours == theirs.permute(0, 2, 3, 1).numpy()).all(), (height, width, size)


def test_resizing_with_antialias_equals_pillow_within_one():
    image = pytest.importorskip("PIL.Image", reason="needs Pillow to compare with")
    # No sum leaves 0 ... 255: which axis comes first does not matter then.
    frame = np.random.default_rng(0).integers(80, 176, (50, 77, 3), dtype=np.uint8)
    for method, kind in (("bilinear_antialias", image.BILINEAR), ("bicubic_antialias", image.BICUBIC)):
        for height, width in [(20, 20), (33, 150), (100, 99), (1, 1)]:
            ours = resize.resize(frame[None], transforms.whole_window(height, width), method)[0].astype(int)
            theirs = np.asarray(image.fromarray(frame).resize((width, height), kind), int)
            assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_window_is_a_cut_of_the_whole(method):
    frames = np.random.default_rng(0).integers(0, 256, (2, 50, 77, 3), dtype=np.uint8)
    for window in (
        transforms.Window(30, 90, 3, 50, 16, 20),
        transforms.Window(50, 90, 3, 50, 16, 20),
        transforms.Window(30, 77, 3, 50, 16, 20),
        transforms.Window(50, 77, 3, 50, 16, 20),
    ):
        whole = resize.resize(frames, transforms.whole_window(*window[:2]), method)
        assert (resize.resize(frames, window, method) == window.cut(whole)).all()


def test_an_evaluation_with_torchs_resizing_sees_whole_decoded_frames(video_set, data):
    with data.unlocked():
        data.crop, data.resize = "resize", "bicubic_antialias"
    recipe = Recipe.from_config(data)
    with Video(video_set / "3.mp4") as video:
        views = evaluation_views(video, recipe, 2, 1)
        whole = video.read(range(video.num_frames))
        again = evaluation_views(video, recipe, 2, 1)
        trained = training_clips(video, recipe, [np.random.default_rng(0)])[0]
    expected = resize.resize(whole, transforms.whole_window(16, 16), "bicubic_antialias")
    assert (views[0] == expected[0:8:2]).all() and (views == again).all()  # 7 of 10 frames: starts 0 and 3
    assert (views[1] == expected[3:10:2]).all()
    assert any((trained == expected[start : start + 8 : 2]).all() for start in range(3))


def test_several_crops_are_cuts_of_one_resize(video_set, data):
    with data.unlocked():
        data.crop, data.resize = "center", "bilinear"
    recipe = Recipe.from_config(data)
    with Video(video_set / "3.mp4") as video:
        left, centre, right = evaluation_views(video, recipe, 1, 3)
        whole = video.read(range(video.num_frames))
    frames = resize.resize(whole, transforms.whole_window(16, 21), "bilinear")[1:9:2]
    assert (left == frames[:, :, :16]).all() and (right == frames[:, :, 5:]).all()
    assert (centre == frames[:, :, 2:18]).all()


def test_several_clips_of_a_video_are_each_resized_from_its_frames(video_set, data):
    with data.unlocked():
        data.crop, data.resize, data.clips_per_video = "center", "bicubic", 2
    recipe = Recipe.from_config(data)
    with Video(video_set / "3.mp4") as video:
        pair = training_clips(video, recipe, [np.random.default_rng(i) for i in (1, 2)])
        single = [training_clips(video, recipe, [np.random.default_rng(i)])[0] for i in (1, 2)]
    assert (np.stack(pair) == np.stack(single)).all()


def test_frames_at_a_rate_come_from_the_videos_own_times(video_set, data):
    with data.unlocked():
        data.sampling, data.fps, data.crop = "fps", 4.0, "center"
    recipe = Recipe.from_config(data)
    with Video(video_set / "3.mp4") as video:  # 10 frames at 8 a second
        shown = [
            evaluation_views(video, recipe, 1, 1)[0],
            training_clips(video, recipe, [np.random.default_rng(7)])[0],
        ]
        whole = video.read(range(video.num_frames), lambda h, w: recipe.evaluation_windows(h, w, 1)[0])
    for clip in shown:
        assert (clip == whole[[0, 2, 6, 8]]).all()  # 5 frames at 4 a second: 0 2 4 6 8, four of them evenly


def test_a_real_video_of_variable_rate_is_looked_at_by_its_times(shared, data):
    with data.unlocked():
        data.sampling, data.fps, data.crop, data.frames = "fps", 4.0, "center", 9
    with Video(shared / "data/intel_asl/brother.mkv") as video:  # a frame is missing near its beginning
        shown = sampling.clock(video.fps, video.times)
        clip = evaluation_views(video, Recipe.from_config(data), 1, 1)[0]
        picked = sampling.at_rate(video.num_frames, 4.0, shown)
        by_index = np.arange(0, video.num_frames, round(video.fps / 4))
        expected = video.read(picked, lambda h, w: transforms.view_windows(h, w, 16, 1)[0])
    assert len(picked) == 9 and (clip == expected).all()
    assert (picked != by_index[:9]).any()
    looks = np.arange(9) / 4
    assert (shown.times[picked] <= looks + 1e-6).all() and (shown.times[picked + 1] > looks).all()


@pytest.mark.parametrize(("key", "value"), [("resize", "lanczos"), ("fps", 0.0), ("fps", -1.0)])
def test_impossible_values_are_refused_by_key(data, key, value):
    with data.unlocked():
        data.sampling, data.fps = "fps", 1.0
        data[key] = value
    with pytest.raises(UserError, match=f"data.{key}="):
        Recipe.from_config(data)


def test_frames_at_a_rate_need_times_which_the_cache_lacks(data):
    with data.unlocked():
        data.fps, data.cache = 4.0, True
    with pytest.raises(UserError, match="data.cache=False"):
        Recipe.from_config(data)


def test_windows_of_published_evaluations():
    # torchvision: Resize(256) gives int(256 * 427 / 240) = 455, CenterCrop(224) round((455 - 224) / 2) = 116 (to even)
    assert transforms.view_windows(240, 427, 224, 1, 256, True) == [(256, 455, 16, 116, 224, 224)]
    assert transforms.view_windows(427, 240, 224, 1, 256, True) == [(455, 256, 116, 16, 224, 224)]
    assert transforms.view_windows(240, 427, 224, 1, 256) == [(256, 455, 16, 115, 224, 224)]
    assert transforms.view_windows(240, 426, 224, 1) == [(224, 398, 0, 87, 224, 224)]  # 397.6 is rounded
    assert transforms.view_windows(240, 426, 224, 1, published=True) == [(224, 397, 0, 86, 224, 224)]
    # VideoMAE: three crops at int(i * (397 - 224) / 2)
    assert [w.left for w in transforms.view_windows(240, 426, 224, 3, published=True)] == [0, 86, 173]
    # The short side is cut in its middle, whichever crop of the long side.
    assert [w[2:4] for w in transforms.view_windows(480, 240, 224, 3, 256)] == [(0, 16), (144, 16), (288, 16)]


def test_frames_are_resized_to_the_short_side_before_the_central_crop(video_set, data):
    with data.unlocked():
        data.crop, data.short_side, data.resize = "center", 20, "bilinear_antialias"
    recipe = Recipe.from_config(data)
    with Video(video_set / "3.mp4") as video:
        view = evaluation_views(video, recipe, 1, 1)[0]
        whole = video.read(range(video.num_frames))
    frames = resize.resize(whole, transforms.whole_window(20, 26), "bilinear_antialias")[1:9:2]
    assert (view == frames[:, 2:18, 5:21]).all()
    for changes in ({"short_side": 15}, {"crop": "resize"}):
        with data.unlocked():
            data.update(changes)
        with pytest.raises(UserError, match="data.short_side="):
            Recipe.from_config(data)


def test_a_recipe_knows_when_it_changes_nothing(data):
    with data.unlocked():
        data.crop, data.stride = "center", 1
        assert Recipe.from_config(data).keeps(4, 16, 16)
        assert not Recipe.from_config(data).keeps(5, 16, 16)
        data.augment.grey = 0.5
        assert not Recipe.from_config(data).keeps(4, 16, 16)


def test_normalisations_have_names_and_numbers(data):
    assert normalise.statistics(data) == normalise.NORMALISATIONS["imagenet"]
    assert normalise.values("openai", 0, "mean") == (0.48145466, 0.4578275, 0.40821073)
    assert normalise.values("half", 1, "std") == (0.5, 0.5, 0.5)
    assert normalise.values([0, 0.25, 1], 0, "mean") == (0.0, 0.25, 1.0)
    for given in ("image_net", (0.5, 0.5), 0.5, ("a", "b", "c")):
        with pytest.raises(UserError, match="data.mean=.*imagenet"):
            normalise.values(given, 0, "data.mean")
    with pytest.raises(UserError, match="above 0"):
        normalise.values((0.5, 0.0, 0.5), 1, "data.std")

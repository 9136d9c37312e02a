"""Kinds of sampling beside dense and sparse: their published formulas, and what holds for all of them."""

import numpy as np
import pytest

from input_pipeline import sampling
from vfm.errors import UserError

EVEN = [kind for kind in sampling.KINDS if kind.startswith("uniform")]


def cases(count: int = 300):
    """Numbers of frames, clip lengths, strides and rates, the same at every run."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        num_frames = int(rng.choice([1, 2, 3, rng.integers(1, 40), rng.integers(40, 5000)]))
        yield num_frames, int(rng.integers(1, 40)), int(rng.integers(1, 9)), float(rng.uniform(0.2, 60)), rng


@pytest.mark.parametrize("kind", sampling.KINDS)
def test_every_kind_gives_frames_of_the_video_in_order(kind):
    for num_frames, frames, stride, fps, rng in cases():
        times = np.cumsum(rng.exponential(1 / 30, num_frames))
        for shown in (None, sampling.Clock(30.0), sampling.clock(30.0, times)):
            clip = sampling.training_indices(kind, num_frames, frames, stride, rng, fps, shown)
            views = sampling.evaluation_indices(kind, num_frames, frames, stride, 3, fps, shown)
            assert clip.shape == (frames,) and views.shape == (3, frames)
            for indices in (clip, *views):
                assert indices.dtype == np.int64
                assert indices.min() >= 0 and indices.max() < num_frames
                assert (np.diff(indices) >= 0).all()


@pytest.mark.parametrize("kind", sampling.KINDS)
def test_evaluation_is_the_same_every_time_and_a_generator_gives_its_clip_again(kind):
    for num_frames, frames, stride, fps, _ in cases(40):
        shown = sampling.Clock(25.0)
        draws = [
            sampling.training_indices(kind, num_frames, frames, stride, np.random.default_rng(5), fps, shown)
            for _ in range(2)
        ]
        views = [
            sampling.evaluation_indices(kind, num_frames, frames, stride, 2, fps, shown) for _ in range(2)
        ]
        assert (draws[0] == draws[1]).all() and (views[0] == views[1]).all()


@pytest.mark.parametrize("kind", [k for k in sampling.KINDS if k != "dense"])
def test_a_video_of_as_many_frames_as_the_clip_is_the_clip(kind):
    for frames in (1, 2, 7, 16):
        shown = sampling.Clock(10.0)
        clip = sampling.training_indices(kind, frames, frames, 1, np.random.default_rng(0), 10.0, shown)
        assert clip.tolist() == list(range(frames))
        assert (
            sampling.evaluation_indices(kind, frames, frames, 1, 1, 10.0, shown)[0].tolist() == clip.tolist()
        )


@pytest.mark.parametrize("kind", sampling.KINDS)
def test_a_video_without_frames_is_an_error_and_never_a_clip(kind):
    with pytest.raises(ValueError, match="0 frames"):
        sampling.training_indices(kind, 0, 4, 1, np.random.default_rng(0), 1.0)
    with pytest.raises(ValueError, match="0 frames"):
        sampling.evaluation_indices(kind, 0, 4, 1, 1, 1.0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="data.sampling='random'.*segments"):
        sampling.check_kind("random")


def test_segments_have_the_bounds_of_linspace():
    for num_frames, frames, _, _, rng in cases():
        bounds = np.linspace(0, num_frames, frames + 1).astype(int)
        ours = sampling.segment_bounds(num_frames, frames)
        # linspace in floating point may fall one short of a whole number.
        assert ((ours == bounds) | (np.linspace(0, num_frames, frames + 1) % 1 > 1 - 1e-9)).all()
        drawn = sampling.random_segments(num_frames, frames, rng)
        full = bounds[1:] > bounds[:-1]
        assert (drawn >= ours[:-1])[full].all() and (drawn < ours[1:])[full].all()
        middle = (ours[:-1] + ours[1:]) // 2
        assert (sampling.segment_clips(num_frames, frames, 1)[0] == middle).all()


def test_every_frame_of_a_segment_is_drawn():
    rng = np.random.default_rng(0)
    drawn = np.stack([sampling.random_segments(10, 3, rng) for _ in range(300)])  # bounds 0 3 6 10
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


def test_several_clips_of_segments_divide_each_segment():
    # offset len/(clips + 1) * (v + 1) into segments of 9 frames
    assert sampling.segment_clips(36, 4, 2).tolist() == [[3, 12, 21, 30], [6, 15, 24, 33]]


def test_uniform_formulas():
    assert sampling.uniform(100, 8).tolist() == [round(i * 99 / 7) for i in range(8)]
    assert sampling.uniform(3, 8).tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert sampling.uniform(50, 1).tolist() == [0]
    assert sampling.uniform_exclusive(100, 8).tolist() == [0, 12, 25, 37, 50, 62, 75, 87]
    assert sampling.uniform_exclusive(3, 8).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    for num_frames, frames, *_ in cases():
        ours = sampling.uniform(num_frames, frames)
        assert ours[0] == 0 and (frames == 1 or ours[-1] == num_frames - 1)
        if frames > 1:
            assert ours.tolist() == [round(i * (num_frames - 1) / (frames - 1)) for i in range(frames)]
        assert sampling.uniform_exclusive(num_frames, frames).tolist() == [
            i * num_frames // frames for i in range(frames)
        ]


@pytest.mark.parametrize("kind", EVEN)
def test_several_evaluation_clips_are_one_long_clip_dealt_out(kind):
    whole = sampling.evaluation_indices(kind, 100, 16, 1, 1)[0]
    dealt = sampling.evaluation_indices(kind, 100, 8, 1, 2)
    assert dealt[0].tolist() == whole[0::2].tolist() and dealt[1].tolist() == whole[1::2].tolist()


def test_frames_at_a_rate_are_every_so_many_th_of_an_even_video():
    shown = sampling.Clock(29.97)
    assert sampling.at_rate(120, 1.0, shown).tolist() == [0, 30, 60, 90]
    assert sampling.at_rate(120, 2.0, shown).tolist() == list(range(0, 120, 15))
    assert sampling.at_rate(5, 60.0, shown).tolist() == [0, 1, 2, 3, 4]  # never invented
    assert sampling.at_rate(5, 1.0, sampling.Clock(0.0)).tolist() == [0, 1, 2, 3, 4]  # rate not known


def test_fps_then_uniform_thins_out_or_falls_back_to_all_frames():
    shown = sampling.Clock(30.0)
    # 100 seconds at one a second are 100 frames; 5 of them evenly, both ends.
    assert sampling.fps_then_uniform(3000, 5, 1.0, shown).tolist() == [0, 750, 1500, 2220, 2970]
    # 4 seconds give 4 frames, fewer than 8: evenly over all.
    assert sampling.fps_then_uniform(120, 8, 1.0, shown).tolist() == [round(i * 119 / 7) for i in range(8)]
    assert sampling.fps_then_uniform(120, 4, 1.0, shown).tolist() == [0, 30, 60, 90]


@pytest.mark.parametrize("kind", [kind for kind in sampling.KINDS if kind != "fps"])
def test_every_kind_chooses_among_the_frames_at_a_rate(kind):
    """Videos of 60, 30 and 15 frames a second show the same moments at 15 a second."""
    moments = []
    for rate in (60, 30, 15):
        shown, count = sampling.Clock(float(rate)), 10 * rate
        rng = np.random.default_rng(3)
        clip = sampling.training_indices(kind, count, 8, 4, rng, 15.0, shown)
        views = sampling.evaluation_indices(kind, count, 8, 4, 2, 15.0, shown)
        moments.append(np.concatenate([clip[None], views]) / rate)
    assert (moments[0] == moments[1]).all() and (moments[1] == moments[2]).all()
    if kind == "dense":
        assert np.allclose(np.diff(moments[0][0]), 4 / 15)


def test_a_video_of_variable_rate_is_looked_at_by_its_times():
    # One second at 30 frames a second, then one frame that stays for three, then one second at 10.
    times = np.concatenate([np.arange(30) / 30, [1.0], 4.0 + np.arange(11) / 10])
    shown = sampling.clock(30.0, times)
    assert shown.times is not None
    assert sampling.at_rate(len(times), 1.0, shown).tolist() == [0, 30, 30, 30, 31, 41]
    picked = sampling.at_rate(len(times), 2.0, shown)
    assert (times[picked] <= np.arange(len(picked)) / 2 + 1e-6).all()
    for num_frames, _, _, fps, rng in cases(100):
        times = np.cumsum(rng.exponential(0.1, num_frames))
        shown = sampling.clock(10.0, times)
        picked = sampling.at_rate(num_frames, fps, shown)
        assert len(picked) >= 1 and picked[0] == 0
        if shown.times is not None:  # the frame on the screen: its time is past, that of the next is not
            looks = np.arange(len(picked)) / fps
            assert (shown.times[picked] <= looks + 1e-5).all()
            after = np.append(shown.times, np.inf)[picked + 1]
            assert (after > looks - 1e-5).all()


def test_times_that_are_only_rounded_are_an_even_video():
    even = np.arange(100) / 29.97
    assert sampling.clock(29.97, np.round(even, 3)) == sampling.Clock(
        29.97
    )  # milliseconds, as Matroska has them
    assert abs(sampling.clock(15.0, even).rate - 29.97) < 1e-6  # a header that lies
    assert sampling.clock(0.0, even + 7).times is None  # where times begin does not matter
    assert sampling.clock(24.0, None) == sampling.clock(24.0, [0.5]) == sampling.Clock(24.0)

"""Which frames of a video make a clip: pure functions of the number of frames, their times and a random generator.

F frames of the video, T frames of the clip, V clips of one video.

Kinds (data.sampling), N for the number of frames:

dense              T frames `stride` apart; training draws the start among those at which T * stride frames fit
                   (VideoMAE, AVION); evaluation spreads the starts evenly
sparse             one frame of each of T equal segments i N/T ... (i+1) N/T, real numbers (TSN); training draws it
segments           the same with whole bounds b = linspace(0, N, T+1): training draws of b_i ... b_{i+1} - 1, evaluation
                   takes (b_i + b_{i+1}) // 2 (Frozen in Time)
uniform            round(i (N-1) / (T-1)), first and last frame included (Perception Encoder; LanguageBind's
                   code cuts off instead of rounding: at most one frame earlier)
uniform_exclusive  floor(i N / T) (VideoPrism)
fps                frames at `fps` a second; T of them evenly if there are more, all frames evenly if there are fewer
                   (PerceptionLM, LLaVA-Video)

With data.fps, the other kinds too choose among the frames at `fps` a second only, so that videos of different rates
show their motion alike (V-JEPA 2: 4 a second); a video of a lower rate stays as it is.

The last three draw nothing, not in training either. Of several evaluation clips, those of `dense` lie behind each
other, those of the other kinds are interleaved, so that each spans the whole video.

Every index lies in 0 ... N - 1. Where a video is too short, frames are repeated, never invented; a video without frames
is an error.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vfm.errors import UserError

KINDS = ("dense", "sparse", "segments", "uniform", "uniform_exclusive", "fps")
_EVEN = 0.25  # of a frame's duration: times that stray less from an even grid are an even grid, rounded
_ROUNDING = 0.01  # of the rate, as a share: what coarse times of few frames make of it


class Clock(NamedTuple):
    """When frames are shown.

    Attributes:
      rate: frames a second of the video.
      times: seconds of each frame, from the first on; None = at `rate`, evenly.
    """

    rate: float
    times: Float[np.ndarray, "F"] | None = None


def clock(rate: float, times: Sequence[float] | None = None) -> Clock:
    """The clock of a video, by its frames' times where they are not even.

    Args:
      rate: frames a second as the header states it; 0 = not known.
      times: seconds of all frames, in order; None = not known.
    """
    if times is None or len(times) < 2:
        return Clock(rate)
    times = np.asarray(times, np.float64)
    times = times - times[0]
    step = times[-1] / (len(times) - 1)
    if step <= 0:
        return Clock(rate)
    if abs(rate * step - 1) > _ROUNDING:  # headers lie; where this one does not, it is the exact figure
        rate = 1 / step
    if np.abs(times - step * np.arange(len(times))).max() < _EVEN * step:
        return Clock(rate)
    return Clock(rate, times)


def dense(num_frames: int, frames: int, stride: int, start: int) -> Int[np.ndarray, "T"]:
    """`frames` indices from `start` on, `stride` apart.

    Where the video ends first, the index stops advancing: the last one that can be reached is repeated (VideoMAE).
    """
    reachable = (num_frames - 1 - start) // stride
    return start + stride * np.minimum(np.arange(frames), reachable)


def random_dense(num_frames: int, frames: int, stride: int, rng: np.random.Generator) -> Int[np.ndarray, "T"]:
    """A dense clip with a uniformly drawn start, such that `frames * stride` frames fit (VideoMAE's window)."""
    return dense(num_frames, frames, stride, int(rng.integers(max(num_frames - frames * stride, 0) + 1)))


def dense_clips(num_frames: int, frames: int, stride: int, clips: int) -> Int[np.ndarray, "V T"]:
    """`clips` dense clips, their starts spread evenly from the first to the last that fits; one clip: the middle."""
    last = max(num_frames - ((frames - 1) * stride + 1), 0)
    starts = [last // 2] if clips == 1 else [last * i // (clips - 1) for i in range(clips)]
    return np.stack([dense(num_frames, frames, stride, start) for start in starts])


def random_sparse(num_frames: int, frames: int, rng: np.random.Generator) -> Int[np.ndarray, "T"]:
    """One index drawn from each of `frames` equal segments of the video (TSN)."""
    places = (np.arange(frames) + rng.random(frames)) * num_frames / frames
    return np.minimum(places.astype(np.int64), num_frames - 1)


def sparse_clips(num_frames: int, frames: int, clips: int) -> Int[np.ndarray, "V T"]:
    """`clips` interleaved sets of one index of each of `frames` equal segments.

    One clip takes the middle of each segment; of several, clip v takes the place v / clips of each (VideoMAE on
    Something-Something v2: two clips, beginning and middle).
    """
    shares = np.array([0.5]) if clips == 1 else np.arange(clips) / clips
    places = (np.arange(frames)[None] + shares[:, None]) * num_frames / frames
    return np.minimum(places.astype(np.int64), num_frames - 1)


def segment_bounds(num_frames: int, frames: int) -> Int[np.ndarray, "T+1"]:
    """Whole bounds of `frames` segments: floor(linspace(0, num_frames, frames + 1)), in exact integers."""
    return np.arange(frames + 1) * num_frames // frames


def random_segments(num_frames: int, frames: int, rng: np.random.Generator) -> Int[np.ndarray, "T"]:
    """One index drawn from each segment of whole bounds, its first frame to its last; an empty one gives its bound.

    The released code of Frozen in Time never draws the last frame of a segment (and fails on one of a single frame).
    """
    bounds = segment_bounds(num_frames, frames)
    return rng.integers(bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1))


def segment_clips(num_frames: int, frames: int, clips: int) -> Int[np.ndarray, "V T"]:
    """`clips` interleaved sets of one index of each segment of whole bounds.

    Clip v takes the place (v + 1) / (clips + 1) of each segment (UniFormer, Unmasked Teacher), so that one clip takes
    the middle, (b_i + b_{i+1}) // 2. (The released code of Frozen in Time takes the frame before that one in segments
    of an even number of frames.)
    """
    bounds = segment_bounds(num_frames, frames)
    shares = np.arange(1, clips + 1)[:, None]
    return bounds[:-1] + np.diff(bounds) * shares // (clips + 1)


def uniform(num_frames: int, frames: int) -> Int[np.ndarray, "T"]:
    """round(i (num_frames - 1) / (frames - 1)), halves to the even index; one frame: the first."""
    return np.rint(np.arange(frames) * (num_frames - 1) / max(frames - 1, 1)).astype(np.int64)


def uniform_exclusive(num_frames: int, frames: int) -> Int[np.ndarray, "T"]:
    """floor(i num_frames / frames): the beginnings of equal segments."""
    return np.arange(frames) * num_frames // frames


def at_rate(num_frames: int, fps: float, shown: Clock) -> Int[np.ndarray, "n"]:
    """The frames that a video shows when it is looked at `fps` times a second, at least one.

    Of an even video every round(rate / fps)-th frame, from the first on. Of a video of variable rate the frame that is
    on the screen at 0, 1/fps, 2/fps, ... seconds, until the last one appears: its index says nothing about its time.
    Of a video of unknown rate every frame.
    """
    if shown.times is None:
        return np.arange(0, num_frames, max(round(shown.rate / fps), 1))
    times = shown.times[:num_frames]
    looks = np.arange(int(times[-1] * fps + 1e-6) + 1) / fps
    return np.searchsorted(times, looks + 1e-6, "right") - 1


def fps_then_uniform(num_frames: int, frames: int, fps: float, shown: Clock) -> Int[np.ndarray, "T"]:
    """`frames` of the frames at `fps` a second, evenly (both ends included); of all frames where those are fewer."""
    seen = at_rate(num_frames, fps, shown)
    if len(seen) < frames:
        return uniform(num_frames, frames)
    return seen[uniform(len(seen), frames)]


def training_indices(
    kind: str,
    num_frames: int,
    frames: int,
    stride: int,
    rng: np.random.Generator,
    fps: float = 0.0,
    shown: Clock | None = None,
) -> Int[np.ndarray, "T"]:
    """One clip, random where its kind is.

    Args:
      kind: one of KINDS.
      stride: of "dense".
      fps: frames a second that are chosen among; 0 = all ("fps" needs more than 0).
      shown: when frames are shown, where `fps` is given.
    """
    _check(kind, num_frames)
    if kind == "fps":
        return fps_then_uniform(num_frames, frames, fps, shown or Clock(0.0))
    seen = at_rate(num_frames, fps, shown or Clock(0.0)) if fps else np.arange(num_frames)
    if kind == "dense":
        return seen[random_dense(len(seen), frames, stride, rng)]
    if kind == "sparse":
        return seen[random_sparse(len(seen), frames, rng)]
    if kind == "segments":
        return seen[random_segments(len(seen), frames, rng)]
    return seen[_EVENLY[kind](len(seen), frames)]


def evaluation_indices(
    kind: str,
    num_frames: int,
    frames: int,
    stride: int,
    clips: int,
    fps: float = 0.0,
    shown: Clock | None = None,
) -> Int[np.ndarray, "V T"]:
    """The clips of an evaluation: nothing random. Arguments as `training_indices`."""
    _check(kind, num_frames)
    if kind == "fps":
        return _dealt(fps_then_uniform(num_frames, frames * clips, fps, shown or Clock(0.0)), clips)
    seen = at_rate(num_frames, fps, shown or Clock(0.0)) if fps else np.arange(num_frames)
    if kind == "dense":
        return seen[dense_clips(len(seen), frames, stride, clips)]
    if kind == "sparse":
        return seen[sparse_clips(len(seen), frames, clips)]
    if kind == "segments":
        return seen[segment_clips(len(seen), frames, clips)]
    return _dealt(seen[_EVENLY[kind](len(seen), frames * clips)], clips)


_EVENLY = {"uniform": uniform, "uniform_exclusive": uniform_exclusive}


def _dealt(indices: Int[np.ndarray, "N"], clips: int) -> Int[np.ndarray, "V T"]:
    """One long clip, dealt out to several."""
    return indices.reshape(-1, clips).T


def _check(kind: str, num_frames: int) -> None:
    check_kind(kind)
    if num_frames < 1:
        raise ValueError(f"a video of {num_frames} frames: there is nothing to choose from")


def check_kind(kind: str) -> None:
    """Raises UserError for an unknown kind of sampling."""
    if kind not in KINDS:
        raise UserError(f"data.sampling={kind!r}: expected one of {', '.join(KINDS)}")

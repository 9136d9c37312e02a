"""Which frames of a video make a clip: pure functions of the number of frames and a random generator.

F frames of the video, T frames of the clip, V clips of one video.

Every index lies in 0 ... F - 1. Where a video is too short, frames are repeated, never invented.
"""

import numpy as np
from jaxtyping import Int

from vfm.errors import UserError

KINDS = ("dense", "sparse")


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


def training_indices(
    kind: str, num_frames: int, frames: int, stride: int, rng: np.random.Generator
) -> Int[np.ndarray, "T"]:
    """One random clip; `kind` is "dense" or "sparse" (which has no stride)."""
    check_kind(kind)
    if kind == "dense":
        return random_dense(num_frames, frames, stride, rng)
    return random_sparse(num_frames, frames, rng)


def evaluation_indices(
    kind: str, num_frames: int, frames: int, stride: int, clips: int
) -> Int[np.ndarray, "V T"]:
    """The clips of an evaluation: nothing random."""
    check_kind(kind)
    if kind == "dense":
        return dense_clips(num_frames, frames, stride, clips)
    return sparse_clips(num_frames, frames, clips)


def check_kind(kind: str) -> None:
    """Raises UserError for an unknown kind of sampling."""
    if kind not in KINDS:
        raise UserError(f"data.sampling={kind!r}: expected one of {', '.join(KINDS)}")

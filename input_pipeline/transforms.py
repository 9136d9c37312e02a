"""Spatial transforms: which part of a frame is seen, at which size.

T frames, H height, W width in pixels, C = 3 channels; S side of the square that a model sees.

A crop that is resized is expressed the other way round: the frame is resized, then a window is cut out of it. The
decoder can do the first for little, before the pixels are ever copied; the two differ by less than a pixel in
position. Functions that end in `_window` only compute numbers.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

CROPS = ("multiscale", "random_resized", "center", "resize")


class Window(NamedTuple):
    """The size that a whole frame is resized to, and the part of it that is kept; in pixels."""

    height: int
    width: int
    top: int
    left: int
    rows: int
    columns: int

    def cut(self, frames: UInt8[np.ndarray, "*T H W 3"]) -> UInt8[np.ndarray, "*T h w 3"]:
        """The window of frames that have `height` x `width` already (a view)."""
        return frames[..., self.top : self.top + self.rows, self.left : self.left + self.columns, :]


def _box_window(height: int, width: int, box: tuple[float, float, float, float], size: int) -> Window:
    """The window that shows `box` = (top, left, height, width) of a frame as a square of side `size`."""
    top, left, box_height, box_width = box
    full_height = max(round(height * size / box_height), size)
    full_width = max(round(width * size / box_width), size)
    top = min(round(top * size / box_height), full_height - size)
    left = min(round(left * size / box_width), full_width - size)
    return Window(full_height, full_width, top, left, size, size)


def multiscale_window(
    height: int, width: int, size: int, scales: Sequence[float], rng: np.random.Generator
) -> Window:
    """VideoMAE's training crop (from TSN).

    Height and width are drawn from `scales` of the short side, at most one step apart in that list (a side within 2
    pixels of `size` becomes `size`); the place is one of 13 on a fixed grid: corners, middles of the sides, centre,
    centres of the quarters.
    """
    sides = [int(min(height, width) * scale) for scale in scales]
    sides = [size if abs(side - size) < 3 and size <= min(height, width) else max(side, 1) for side in sides]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    box_height, box_width = pairs[int(rng.integers(len(pairs)))]
    row, column = _GRID[int(rng.integers(len(_GRID)))]
    top, left = (height - box_height) // 4 * row, (width - box_width) // 4 * column
    return _box_window(height, width, (top, left, box_height, box_width), size)


_GRID = [(i, j) for i in (0, 2, 4) for j in (0, 2, 4)] + [(i, j) for i in (1, 3) for j in (1, 3)]


def random_resized_window(
    height: int,
    width: int,
    size: int,
    area: Sequence[float],
    aspect: Sequence[float],
    rng: np.random.Generator,
) -> Window:
    """A box of random area and aspect (as torchvision's RandomResizedCrop).

    Args:
      area: smallest and largest share of the frame's area, drawn uniformly.
      aspect: smallest and largest width over height, drawn uniformly in the logarithm.
    """
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(low, high))
        box_width, box_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return _box_window(height, width, (top, left, box_height, box_width), size)
    # No such box fits: the largest central one whose aspect is allowed.
    ratio = min(max(width / height, aspect[0]), aspect[1])
    box_width, box_height = min(width, height * ratio), min(height, width / ratio)
    top, left = (height - box_height) / 2, (width - box_width) / 2
    return _box_window(height, width, (top, left, box_height, box_width), size)


def short_side(height: int, width: int, size: int, truncate: bool = False) -> tuple[int, int]:
    """(height, width) of a frame whose short side becomes `size`, with its aspect kept.

    The long side is rounded, or cut off to a whole number (as torchvision and VideoMAE have it).
    """
    whole = int if truncate else round
    if height <= width:
        return size, max(whole(width * size / height), size)
    return max(whole(height * size / width), size), size


def whole_window(height: int, width: int) -> Window:
    """All of a frame that is resized to `height` x `width`."""
    return Window(height, width, 0, 0, height, width)


def view_windows(
    height: int, width: int, size: int, crops: int, short: int = 0, published: bool = False
) -> list[Window]:
    """Squares of side `size` of a frame whose short side becomes `short`, spread evenly along the long side.

    One crop is the central one; three are the usual left (top), centre and right (bottom).

    Args:
      short: short side of the resized frame; 0 = `size`.
      published: whole numbers as torchvision and VideoMAE make them: the long side is cut off, the middle rounded to
        the even number where it is a half. Otherwise the long side is rounded, and halves of the middle go down.
    """
    height, width = short_side(height, width, short or size, truncate=published)
    whole = round if published and crops == 1 else int
    windows = []
    for share in [0.5] if crops == 1 else [i / (crops - 1) for i in range(crops)]:
        down, right = (share, 0.5) if height > width else (0.5, share)
        windows.append(
            Window(height, width, whole((height - size) * down), whole((width - size) * right), size, size)
        )
    return windows


@functools.lru_cache(maxsize=1024)
def _taps(
    source: int, target: int, start: int, count: int
) -> tuple[Int[np.ndarray, "S K"], Int[np.ndarray, "S K"]]:
    """Places and 22-bit weights of the pixels that make outputs `start` ... `start + count - 1` of an axis."""
    scale = source / target
    reach = max(scale, 1.0)  # the triangle widens where it shrinks the picture (antialias)
    centers = (np.arange(start, start + count) + 0.5) * scale
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + reach + 0.5).astype(np.int64), source)
    places = first[:, None] + np.arange(int((last - first).max()))
    weights = np.maximum(1 - np.abs((places + 0.5 - centers[:, None]) / reach), 0) * (places < last[:, None])
    weights /= weights.sum(1, keepdims=True)
    return np.minimum(places, source - 1), np.floor(weights * 2**22 + 0.5).astype(np.int32)


def weigh(
    frame: UInt8[np.ndarray, "H W 3"],
    axis: int,
    places: Int[np.ndarray, "S K"],
    weights: Int[np.ndarray, "S K"],
    bits: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """Sums along an axis: output s is the pixels at `places[s]` times `weights[s]`, which are in 2**-bits; rounded."""
    total = np.int32(1 << (bits - 1))
    for place, weight in zip(places.T, weights.T, strict=True):
        if weight.any():
            part = frame.take(place, axis, mode="clip").astype(np.int32)
            # Along the width one weight for each number, not each pixel: loops of three are slow.
            part *= weight[:, None, None] if axis == 0 else np.repeat(weight, 3).reshape(-1, 3)
            part += total
            total = part
    total >>= bits
    return np.clip(total, 0, 255, out=total).astype(np.uint8)


def _resample(
    frame: UInt8[np.ndarray, "H W 3"], axis: int, target: int, start: int, count: int
) -> UInt8[np.ndarray, "h w 3"]:
    source = frame.shape[axis]
    if source == target:
        return frame[start : start + count] if axis == 0 else frame[:, start : start + count]
    return weigh(frame, axis, *_taps(source, target, start, count), bits=22)


def resize(frames: UInt8[np.ndarray, "T H W 3"], window: Window) -> UInt8[np.ndarray, "T h w 3"]:
    """Resizes frames to the window's frame and cuts the window out; only that part is computed.

    Bilinear, with antialias where it shrinks, in integers: the same bits everywhere, equal to Pillow's BILINEAR (and
    where it enlarges, to torch's `align_corners=False`, rounded).
    """
    _, height, width, _ = frames.shape
    passes = [(1, window.width, window.left, window.columns), (0, window.height, window.top, window.rows)]
    if window.height * width < height * window.width:  # the axis first that leaves less to do for the other
        passes.reverse()
    out = np.empty((len(frames), window.rows, window.columns, 3), np.uint8)
    for frame, new in zip(frames, out, strict=True):  # one at a time: sums stay in the processor's cache
        for axis, target, start, count in passes:
            frame = _resample(frame, axis, target, start, count)
        new[...] = frame
    return out

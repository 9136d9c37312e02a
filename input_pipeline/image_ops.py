"""Changes of colour and place that treat all frames of a clip alike.

T frames, H height, W width, C = 3 channels (red, green, blue), uint8 in and out; a clip is never changed in place.

What Pillow's ImageOps and ImageEnhance do to an image is done here, bit for bit, to the picture of all frames below
each other: statistics (of `autocontrast`, `equalize`, `contrast`) are those of the clip, so that nothing flickers (in
VideoMAE and torchvision each frame has its own), and neighbours (of `sharpness`, `blur`) are those of the frame.
`affine` and `blur` are within rounding of Pillow and scipy; `hue` turns in YIQ, not in HSV as torchvision's.
Frames are taken one at a time where there are intermediate results, which then stay in the processor's cache.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

Clip = UInt8[np.ndarray, "T H W 3"]
Table = UInt8[np.ndarray, "256"]

FILL = 128  # of places that an affine map brings in from outside
_LUMA = (19595, 38470, 7471)  # of red, green and blue, in 1 / 65536 (ITU-R 601-2)
_LEVELS = np.arange(256)


# Tables: every pixel by itself


def lookup(clip: Clip, table: Table) -> Clip:
    """Replaces every value by the table's."""
    return np.take(table, clip, mode="clip")  # "clip" spares the check, all indices being valid


def _lookup_channels(clip: Clip, tables: Sequence[Table]) -> Clip:
    out = np.empty_like(clip)
    for channel, table in enumerate(tables):
        out[..., channel] = np.take(table, clip[..., channel], mode="clip")
    return out


def invert(clip: Clip) -> Clip:
    """Negative of all values."""
    return 255 - clip


def solarize(clip: Clip, threshold: int) -> Clip:
    """Negative of values from `threshold` on."""
    return lookup(clip, np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS).astype(np.uint8))


def solarize_add(clip: Clip, amount: int) -> Clip:
    """Adds `amount` to values below 128."""
    added = np.minimum(_LEVELS + amount, 255)
    return lookup(clip, np.where(_LEVELS < 128, added, _LEVELS).astype(np.uint8))


def posterize(clip: Clip, bits: int) -> Clip:
    """Keeps the highest `bits` bits of every value."""
    return clip & np.uint8(0xFF & ~(2 ** (8 - bits) - 1))


def autocontrast(clip: Clip) -> Clip:
    """Stretches each channel from its darkest to its brightest value to 0 ... 255."""
    rows = clip.reshape(-1, clip.shape[2] * 3)
    low, high = (bound.reshape(-1, 3) for bound in (rows.min(0), rows.max(0)))
    return _lookup_channels(clip, [_stretch(*pair) for pair in zip(low.min(0), high.max(0), strict=True)])


def _stretch(low: int, high: int) -> Table:
    low, high = int(low), int(high)
    if high <= low:
        return _LEVELS.astype(np.uint8)
    scale = 255.0 / (high - low)
    return np.clip((_LEVELS * scale - low * scale).astype(np.int64), 0, 255).astype(np.uint8)


def equalize(clip: Clip) -> Clip:
    """Makes each channel's values as even in number as whole levels allow."""
    counts = [np.bincount(clip[..., channel].reshape(-1), minlength=256) for channel in range(3)]
    return _lookup_channels(clip, [_evened(count) for count in counts])


def _evened(count: Int[np.ndarray, "256"]) -> Table:
    present = count[count > 0]
    step = int(present.sum() - present[-1]) // 255
    if len(present) <= 1 or not step:
        return _LEVELS.astype(np.uint8)
    before = np.concatenate([[0], np.cumsum(count)[:-1]])
    return np.minimum((step // 2 + before) // step, 255).astype(np.uint8)


# Blends: between a clip and a poorer version of it, or beyond


def brightness(clip: Clip, factor: float) -> Clip:
    """Black at 0, as it is at 1, brighter above."""
    return lookup(clip, _blend_levels(0, factor))


def contrast(clip: Clip, factor: float) -> Clip:
    """The clip's mean grey at 0, as it is at 1, more contrast above."""
    total = sum(int(_luma(frame).sum(dtype=np.int64)) for frame in clip)
    return lookup(clip, _blend_levels(int(total / (clip.size // 3) + 0.5), factor))


def _blend_levels(base: int, factor: float) -> Table:
    return _blended(_LEVELS.astype(np.float32), np.float32(base), factor)


def saturation(clip: Clip, factor: float) -> Clip:
    """Grey at 0, as it is at 1, more colour above."""
    out = np.empty_like(clip)
    for frame, new in zip(clip, out, strict=True):
        grey = np.repeat(_luma(frame), 3).reshape(frame.shape).astype(np.float32)
        new[...] = _blended(frame.astype(np.float32), grey, factor)
    return out


def sharpness(clip: Clip, factor: float) -> Clip:
    """Smoothed over 3 x 3 pixels at 0, as it is at 1, sharper above; the outermost pixels stay."""
    out = clip.copy()
    if min(clip.shape[1:3]) < 3:
        return out
    for frame, new in zip(clip, out, strict=True):
        wide = frame.astype(np.uint16)
        rows = wide[:-2] + wide[1:-1] + wide[2:]
        middle = wide[1:-1, 1:-1]
        total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * middle
        smooth = np.take(_THIRTEENTHS, total, mode="clip")
        new[1:-1, 1:-1] = _blended(middle.astype(np.float32), smooth, factor)
    return out


_THIRTEENTHS = ((2 * np.arange(255 * 13 + 1) + 13) // 26).astype(np.float32)  # rounded; 1/13 makes no halves


def _blended(x: np.ndarray, base: np.ndarray, factor: float) -> np.ndarray:
    """base + factor * (x - base), cut off; `x` is used up. In float32 and truncated, as Pillow does it."""
    x -= base
    x *= np.float32(factor)
    x += base
    return np.clip(x, 0, 255, out=x).astype(np.uint8)


def _luma(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    red, green, blue = (frame[..., i] * np.uint32(weight) for i, weight in enumerate(_LUMA))
    red += green
    red += blue
    red += np.uint32(2**15)
    return (red >> 16).astype(np.uint8)


def greyscale(clip: Clip) -> Clip:
    """Luma in all three channels."""
    out = np.empty_like(clip)
    for frame, new in zip(clip, out, strict=True):
        new[...] = np.repeat(_luma(frame), 3).reshape(frame.shape)
    return out


def hue(clip: Clip, turn: float) -> Clip:
    """Turns the colours by `turn` of a full circle around the axis of greys, in YIQ: linear, luma stays."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    around = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    weights = np.rint(np.linalg.inv(to_yiq) @ around @ to_yiq * 2**16).astype(np.int32)
    out = np.empty_like(clip)
    for frame, new in zip(clip, out, strict=True):
        planes = [frame[..., i].astype(np.int32) for i in range(3)]
        for channel, row in enumerate(weights):
            total = np.full(frame.shape[:2], 2**15, np.int32)
            for plane, weight in zip(planes, row, strict=True):
                total += plane * weight
            new[..., channel] = np.clip(total >> 16, 0, 255)
    return out


# Neighbours and places


def blur(clip: Clip, sigma: float) -> Clip:
    """Gaussian blur of each frame, `sigma` in pixels; pixels at the edge stand for those beyond it."""
    radius = math.ceil(3 * sigma)
    bell = np.exp(-0.5 * (np.arange(radius + 1) / max(sigma, 1e-6)) ** 2)
    # Sums from the outside in are rounded, so that no tap is off by one or more; they sum to 256: 16 bits hold all.
    beyond = np.rint(np.cumsum(256 * bell[::-1] / (bell[0] + 2 * bell[1:].sum())))[::-1]
    taps = (beyond - np.append(beyond[1:], 0)).astype(np.uint16)
    taps[0] = 256 - 2 * int(beyond[1])
    out = np.empty_like(clip)
    for frame, new in zip(clip, out, strict=True):
        new[...] = _smooth(_smooth(frame, taps, 0), taps, 1)
    return out


def _smooth(frame: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
    radius, length = len(taps) - 1, frame.shape[axis]
    pad = [(radius, radius) if i == axis else (0, 0) for i in range(frame.ndim)]
    wide = np.pad(frame, pad, "edge").astype(np.uint16)

    def shifted(by: int) -> np.ndarray:
        return wide[(slice(None),) * axis + (slice(radius + by, radius + by + length),)]

    total = shifted(0) * taps[0]
    for distance in range(1, radius + 1):
        pair = shifted(-distance) + shifted(distance)
        pair *= taps[distance]
        total += pair
    total += np.uint16(127)  # 128 would overflow where all is white
    return (total >> 8).astype(np.uint8)


class Affine(NamedTuple):
    """Where an output pixel comes from: x' = a x + b y + c, y' = d x + e y + f, from the frame's corner."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float


def shear_x(factor: float) -> Affine:
    return Affine(1, factor, 0, 0, 1, 0)


def shear_y(factor: float) -> Affine:
    return Affine(1, 0, 0, factor, 1, 0)


def translate(x: float, y: float) -> Affine:
    """The picture moves by -x, -y pixels."""
    return Affine(1, 0, x, 0, 1, y)


def rotate(degrees: float, height: int, width: int) -> Affine:
    """Counter-clockwise around the centre of a frame."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return Affine(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def affine(clip: Clip, places: Affine) -> Clip:
    """Every frame seen through an affine map, bilinear; `FILL` where it shows what is outside."""
    _, height, width, _ = clip.shape
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    at_x = (places.a * x + places.b * y + places.c).reshape(-1)
    at_y = (places.d * x + places.e * y + places.f).reshape(-1)
    outside = (at_x < 0) | (at_x >= width) | (at_y < 0) | (at_y >= height)
    left, top = np.floor(at_x - 0.5).astype(np.int64), np.floor(at_y - 0.5).astype(np.int64)
    right_share, low_share = at_x - 0.5 - left, at_y - 0.5 - top
    columns = [np.clip(left + i, 0, width - 1) for i in (0, 1)]
    rows = [np.clip(top + i, 0, height - 1) * width for i in (0, 1)]
    corners = [row + column for row in rows for column in columns]
    shares = [v * h for v in (1 - low_share, low_share) for h in (1 - right_share, right_share)]
    weights = np.rint(256 * np.stack(shares)).astype(np.int64)
    weights[weights.argmax(0), np.arange(weights.shape[1])] += 256 - weights.sum(0)  # they sum to 256
    weights[:, outside] = 0
    used = [(c, w.astype(np.uint64)) for c, w in zip(corners, weights, strict=True) if w.any()]
    # Three channels side by side in 64 bits, 16 for each: one product weighs all, 255 * 256 + 127 still fits.
    lanes = np.zeros((height * width, 4), np.uint16)
    start = np.where(outside, FILL * 256, 127).astype(np.uint64) * np.uint64(1 + (1 << 16) + (1 << 32))
    out = np.empty_like(clip)
    for frame, new in zip(clip, out, strict=True):
        for channel in range(3):  # loops along the pixels: those of three are slow
            lanes[:, channel] = frame[..., channel].reshape(-1)
        packed, total = lanes.view(np.uint64)[:, 0], start.copy()
        for corner, weight in used:
            part = np.take(packed, corner, mode="clip")
            part *= weight
            total += part
        for channel in range(3):
            new[..., channel] = (total.view(np.uint16)[channel::4] >> 8).reshape(height, width)
    return out

"""Resizing of frames as torch does it, bit for bit: what published models were evaluated with.

T frames, H height, W width, h w of the result, C = 3 channels; S outputs and K taps of an axis.

torch.nn.functional.interpolate on uint8 images (and so torchvision's Resize on tensors), align_corners=False: along
the width, then along the height, each rounded to uint8, with weights of 16 bits. Without antialias the cubic has
a = -0.75, with antialias a = -0.5, as Pillow's. Weights are computed in float64; nothing depends on the machine.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from input_pipeline.transforms import Window, weigh

# data.resize: who resizes. "decoder" is FFmpeg's bilinear with antialias, by far the fastest.
METHODS = ("decoder", "bilinear", "bicubic", "bilinear_antialias", "bicubic_antialias")
_REACH = {"bilinear": 1.0, "bicubic": 2.0}  # of a kernel, in pixels to either side


def resize(
    frames: UInt8[np.ndarray, "T H W 3"], window: Window, method: str = "bicubic_antialias"
) -> UInt8[np.ndarray, "T h w 3"]:
    """Resizes frames to the window's frame and cuts the window out; only that part is computed.

    Args:
      method: one of METHODS but the first.
    """
    kernel, _, antialias = method.partition("_")
    _, height, width, _ = frames.shape
    columns = rows = None
    if width != window.width:
        columns = _taps(width, window.width, kernel, bool(antialias)).part(window.left, window.columns)
    if height != window.height:
        rows = _taps(height, window.height, kernel, bool(antialias)).part(window.top, window.rows)
    if rows is None:
        frames = frames[:, window.top : window.top + window.rows]
    else:  # of the others nothing is seen
        first = int(rows.places.min())
        frames = frames[:, first : int(rows.places.max()) + 1]
        rows = rows._replace(places=rows.places - first)
    if columns is None:
        frames = frames[:, :, window.left : window.left + window.columns]
    out = np.empty((len(frames), window.rows, window.columns, 3), np.uint8)
    for frame, new in zip(frames, out, strict=True):  # one at a time: sums stay in the processor's cache
        if columns is not None:
            frame = weigh(frame, 1, *columns)
        new[...] = frame if rows is None else weigh(frame, 0, *rows)
    return out


class _Taps(NamedTuple):
    """Places and weights, in 2 ** -bits, of the pixels that make each output of an axis."""

    places: Int[np.ndarray, "S K"]
    weights: Int[np.ndarray, "S K"]
    bits: int

    def part(self, start: int, count: int) -> "_Taps":
        return _Taps(self.places[start : start + count], self.weights[start : start + count], self.bits)


@functools.lru_cache(maxsize=256)
def _taps(source: int, target: int, kernel: str, antialias: bool) -> _Taps:
    """The taps of an axis of `source` pixels that becomes `target`."""
    places, weights = (_wide if antialias else _narrow)(source, target, kernel)
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * (1 << (bits + 1))) < 2**15:
        bits += 1
    fixed = weights * (1 << bits)
    return _Taps(places, np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int32), bits)


def _wide(source: int, target: int, kernel: str) -> tuple[np.ndarray, Float[np.ndarray, "S K"]]:
    """With antialias: the kernel widens where the picture shrinks, and is cut off at the edges."""
    scale = source / target
    reach = _REACH[kernel] * max(scale, 1.0)
    centers = scale * (np.arange(target) + 0.5)
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + reach + 0.5).astype(np.int64), source)
    places = first[:, None] + np.arange(int((last - first).max()))
    away = (places - centers[:, None] + 0.5) / max(scale, 1.0)
    weights = _kernel(kernel, away, -0.5) * (places < last[:, None])
    return np.minimum(places, source - 1), weights / weights.sum(1, keepdims=True)


def _narrow(source: int, target: int, kernel: str) -> tuple[np.ndarray, Float[np.ndarray, "S K"]]:
    """Without antialias: two or four neighbours; beyond the edge, the edge's pixel."""
    at = (source / target) * (np.arange(target) + 0.5) - 0.5
    if kernel == "bilinear":
        at = np.maximum(at, 0.0)
    first = np.minimum(np.floor(at).astype(np.int64), source - 1)
    share = np.clip(at - first, 0.0, 1.0)
    offsets = np.arange(2) if kernel == "bilinear" else np.arange(-1, 3)
    found = np.clip(first[:, None] + offsets, 0, source - 1)
    # Neighbours that the edge's pixel stands for are one tap: their weights are rounded together.
    weights = np.zeros(found.shape)
    lanes = np.broadcast_to(np.arange(target)[:, None], found.shape)
    np.add.at(weights, (lanes, found - found[:, :1]), _kernel(kernel, offsets - share[:, None], -0.75))
    return np.minimum(found[:, :1] + np.arange(len(offsets)), source - 1), weights


def _kernel(kernel: str, x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    if kernel == "bilinear":
        return np.maximum(1 - x, 0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))

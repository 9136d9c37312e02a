"""From decoded frames to upright pixels.

H height, W width, C = 3 channels (red, green, blue).
"""

from collections.abc import Callable

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from jaxtyping import UInt8

from input_pipeline.container import FAILURES, words
from input_pipeline.errors import BadVideo
from input_pipeline.transforms import Window, whole_window

_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

WindowOf = Callable[[int, int], Window]  # from an upright frame's height and width


class Converter:
    """From decoded frames to upright pixels; all take the window that the first frame's size gives."""

    def __init__(self, path: str, window_of: WindowOf | None):
        self._path, self._window_of = path, window_of
        self._window: Window | None = None

    def __call__(self, frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        """A view of memory that the frame's own copy keeps."""
        turns, mirrored = orientation(frame)
        if self._window is None:
            self._window = (self._window_of or whole_window)(*upright_size(frame))
        height, width = self._window[:2]
        if turns % 2:
            height, width = width, height
        # The quick way is that of other decoders for 8 bits; for more it is off by up to 3 of 255, this one by 1.
        deep = frame.format.components[0].bits > 8
        try:
            # One thread: several videos are converted at once, and starting threads costs more than it gives.
            how = _EXACT if deep else Interpolation.BILINEAR
            image = frame.reformat(width=width, height=height, format="rgb24", interpolation=how, threads=1)
        except FAILURES as error:
            reason = f"pixel format {frame.format.name} cannot be converted ({words(error)})"
            raise BadVideo(self._path, reason) from error
        pixels = image.to_ndarray()
        if mirrored:
            pixels = pixels[::-1]
        return self._window.cut(np.rot90(pixels, turns) if turns else pixels)


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Height and width of a frame when it is turned as it shall be shown."""
    turns, _ = orientation(frame)
    return (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Quarter turns counter-clockwise, and whether the frame is flipped top to bottom before them."""
    if SideDataType.DISPLAYMATRIX not in frame.side_data:
        return 0, False
    matrix = np.frombuffer(bytes(frame.side_data[SideDataType.DISPLAYMATRIX]), np.int32)[:9].reshape(3, 3)
    (a, b), (c, d) = matrix[:2, :2].astype(np.float64)  # 16.16 fixed point: x' = a x + c y, y' = b x + d y
    mirrored = a * d - b * c < 0
    if mirrored:
        c, d = -c, -d
    # y points down: a matrix that takes x to +y (b > 0) turns clockwise.
    return round(-np.arctan2(b, a) / (np.pi / 2)) % 4, bool(mirrored)

"""Odd videos, made with PyAV, and what decoding them from beginning to end gives."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEP = 40  # milliseconds from frame to frame
SAME_BYTES = {"libx264": {"mbtree": "0"}}  # see input_pipeline/encode.py


def moving(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that all differ."""
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([x * 3 + 5 * t, y * 4 + 3 * t, 0 * x + 8 * t], -1) % 256 for t in range(count)]
    return np.array(frames, np.uint8)


def make(
    path: Path,
    codec: str = "libx264",
    count: int = 60,
    first: int = 0,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    clock: int = 1000,
) -> Path:
    """A video of frames 40 ms apart, the first of them at `first` ms, by a clock of so many ticks a second."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=25, options=SAME_BYTES.get(codec, {}) | (options or {}))
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = stream.time_base = Fraction(1, clock)
        for i, image in enumerate(moving(count)):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = (first + STEP * i) * clock // 1000, Fraction(1, clock)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def remux(
    source: Path, path: Path, change: Callable[[int, av.Packet], av.Packet | None] = lambda i, p: p
) -> Path:
    """The packets of a video in a file of another kind, each after `change(number, packet)`; None leaves it out."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(p for p in old.demux(old.streams.video[0]) if p.size):
            if (changed := change(i, packet)) is not None:
                changed.stream = stream
                new.mux(changed)
    return path


def hidden(i: int, packet: av.Packet) -> av.Packet:
    """Frames 20 and 21 are decoded and not shown (`show_frame` of RFC 6386, 9.1), which is no error."""
    data = bytearray(bytes(packet))
    assert data[0] & 0x10
    data[0] ^= 0x10 * (i in (20, 21))
    changed = av.Packet(bytes(data))
    changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
    changed.is_keyframe = packet.is_keyframe
    return changed


def decoded(path: Path) -> tuple[np.ndarray, Sequence[float | None]]:
    """The frames and times of all that PyAV decodes of a file from its beginning."""
    with av.open(str(path)) as file:
        found = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in file.decode(video=0)]
    return np.stack([image for image, _ in found]), [time for _, time in found]

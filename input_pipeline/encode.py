"""Writing mp4 files with PyAV: to play them, or to decode them again as quickly as possible.

T frames, H height, W width, C = 3 channels (red, green, blue).
"""

import io
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

from input_pipeline.atomic import appearing
from input_pipeline.packets import Stream
from vfm.errors import UserError
from vfm.parts import nearest

CODECS = ("h264", "hevc", "mjpeg")
# Of x264 and x265 alike, from the fastest to the one that searches longest.
PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)
_CLOCK = 90_000  # units of time in a second, which MPEG has always counted in
# Of x264: one thread, and no macroblock tree, whose vectorised code reads memory that nobody has written.
_SAME_BYTES = {"threads": "1", "mbtree": "0"}
_SMALL = 64  # pixels of a side; of pictures with one block of that size x265 reads what nobody has written


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded to be read by training.

    One packet is one frame, in order of presentation (no B frames), and nothing costs the decoder what it need not:
    of H.264 no arithmetic coding, no deblocking and no weighted prediction (x264's tune fastdecode).

    Attributes:
      short_side: larger frames are reduced to it, smaller ones are kept; 0 = as they are.
      fps: frames a second; of faster videos frames are left out; 0 = all of them.
      gop: frames from one key frame to the next; 1 = every frame is one.
      crf: constant rate factor of x264 and x265, quantiser (2 best ... 31) of mjpeg.
      codec: "h264", "hevc" (a third smaller, slower) or "mjpeg" (every frame a key frame).
      preset: of x264 and x265, one of PRESETS.
    """

    short_side: int = 256
    fps: float = 0.0
    gop: int = 8
    crf: int = 21
    codec: str = "h264"
    preset: str = "veryfast"

    def __post_init__(self):
        for name, known in (("codec", CODECS), ("preset", PRESETS)):
            if (word := getattr(self, name)) not in known:
                raise UserError(f"{name} '{word}'{nearest(word, known)}: expected one of {', '.join(known)}")
        for name, least, most in (("short_side", 0, ""), ("fps", 0, ""), ("gop", 1, ""), ("crf", 0, 51)):
            value = getattr(self, name)
            if not least <= value <= (most or value):
                raise UserError(f"{name} {value:g}: expected {least} {f'... {most}' if most else 'or more'}")
        if self.codec == "mjpeg" and not 2 <= self.crf <= 31:
            raise UserError(f"crf {self.crf}: of mjpeg it is the quantiser; expected 2 (best) ... 31")

    def options(self, height: int, width: int) -> tuple[str, dict[str, str]]:
        """The encoder and its options, such that the bytes depend on nothing but the frames."""
        if self.codec == "mjpeg":
            return "mjpeg", {"qmin": str(self.crf), "qmax": str(self.crf), "huffman": "default"}
        common = {"crf": str(self.crf), "preset": self.preset, "tune": "fastdecode", "bf": "0"}
        if self.codec == "h264":
            return "libx264", common | _SAME_BYTES | {"g": str(self.gop), "sc_threshold": "40"}
        # cutree is x265's name for the macroblock tree, and writes past its memory.
        options = (
            f"keyint={self.gop}:min-keyint=1:bframes=0:cutree=0:pools=none:frame-threads=1:log-level=none"
        )
        if min(height, width) <= _SMALL:
            options += ":ctu=16"
        return "libx265", common | {"x265-params": options}


def write_mp4(
    path: str | os.PathLike,
    frames: UInt8[np.ndarray, "T H W 3"],
    fps: float = 25,
    crf: int = 18,
    *,
    keyframe_interval: int = 0,
    preset: str = "veryfast",
) -> None:
    """Writes a clip as an H.264 mp4 file; the same frames give the same bytes.

    Even sizes are stored as yuv420p, which everything plays; odd sizes, which that layout has no room for, as yuv444p.
    The file appears under its name only when it is complete.

    Args:
      path: the file to write; its folder must exist.
      frames: pixels, at least one frame.
      fps: frames a second.
      crf: x264's constant rate factor: 0 lossless (up to the colour conversion) ... 51 worst.
      keyframe_interval: most frames between two key frames; 0 leaves it to x264 (250).
      preset: x264's preset.

    Raises:
      ValueError: `frames` is not a uint8 array of shape [T >= 1, H, W, 3].
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(
            f"write_mp4({os.fspath(path)!r}): frames have dtype {frames.dtype} and shape {frames.shape}; "
            "expected uint8 [T >= 1, H, W, 3]; convert them first"
        )
    _, height, width, _ = frames.shape
    even = height % 2 == 0 and width % 2 == 0
    options = {"crf": str(crf), "preset": preset} | _SAME_BYTES
    if keyframe_interval:
        options["g"] = str(keyframe_interval)
    with appearing(path) as partial:
        with av.open(f"file:{partial}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream(
                "libx264", rate=Fraction(fps).limit_denominator(100_000), options=options
            )
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuv420p" if even else "yuv444p"
            stream.codec_context.thread_count = 1
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def encode_stream(
    parts: Iterable[UInt8[np.ndarray, "T H W 3"]], times: Sequence[float], encoding: Encoding
) -> tuple[bytes, Stream]:
    """Encodes a video for `packets.PacketVideo`: (an mp4 file that everything plays, where its packets are).

    Args:
      parts: its frames, some at a time; at most as many as there are times.
      times: seconds of each frame from the first one, increasing.
      encoding: how; its size and rate are left to the caller.

    Raises:
      ValueError: there are no frames.
    """
    file = io.BytesIO()
    stamps = _stamps(times)
    rate = Fraction(len(stamps) * _CLOCK, max(stamps[-1], 1)) if len(stamps) > 1 else Fraction(25)
    frames = (pixels for part in parts for pixels in part)
    first = next(frames, None)
    if first is None:
        raise ValueError("no frames to encode")
    name, options = encoding.options(*first.shape[:2])
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(name, rate=rate.limit_denominator(100_000), options=options)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = _layout(*first.shape[:2], encoding.codec)
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = stream.time_base = Fraction(1, _CLOCK)
        count = 0
        for pixels in itertools.chain([first], frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = stamps[count], Fraction(1, _CLOCK)
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    data = file.getvalue()
    return data, _located(data, np.array(stamps[:count]) / _CLOCK)


def _stamps(times: Sequence[float]) -> list[int]:
    """Times in units of the clock, each later than the one before."""
    stamps: list[int] = []
    for time in times:
        stamps.append(max(round((time - times[0]) * _CLOCK), stamps[-1] + 1 if stamps else 0))
    return stamps


def _layout(height: int, width: int, codec: str) -> str:
    """The pixel format: half the resolution of colour, where the size is even."""
    layout = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
    return layout.replace("yuv", "yuvj") if codec == "mjpeg" else layout


def _located(data: bytes, times: np.ndarray) -> Stream:
    """Where the packets of an mp4 file are."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        packets = [(p.pos, p.size, p.is_keyframe) for p in container.demux(stream) if p.size]
        context = stream.codec_context
        offsets, sizes, keys = (np.array(column) for column in zip(*packets, strict=True))
        return Stream(
            codec=context.name,
            extradata=bytes(context.extradata or b""),
            height=context.height,
            width=context.width,
            times=times,
            offsets=offsets.astype(np.int64),
            sizes=sizes.astype(np.int64),
            keys=keys.astype(bool),
        )

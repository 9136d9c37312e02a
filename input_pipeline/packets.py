"""Reading videos whose packets are known: nothing is opened, probed, listed or sought.

T frames, H height, W width, C = 3 channels (red, green, blue).

`input_pipeline.encode` writes such videos: one packet is one frame, in order of presentation. A reader gives the
decoder the packets from the last key frame on, and where a key frame comes before the next frame that is wanted, those
in between are never touched.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from input_pipeline.decode import BadVideo, WindowOf
from input_pipeline.transforms import whole_window

_TOLERANCE = 1e-6  # seconds, of times that were rounded


@dataclass(frozen=True)
class Stream:
    """What a decoder has to know of a video of F frames whose packets lie in some bytes.

    Attributes:
      codec: FFmpeg's name of the decoder.
      extradata: the decoder's global header.
      height, width: of a frame, in pixels.
      times: seconds of each frame from the first one.
      offsets, sizes: of each frame's packet, in bytes.
      keys: whether decoding can start at a frame.
    """

    codec: str
    extradata: bytes
    height: int
    width: int
    times: Float64[np.ndarray, "F"]
    offsets: Int64[np.ndarray, "F"]
    sizes: Int64[np.ndarray, "F"]
    keys: Bool[np.ndarray, "F"]


class PacketVideo:
    """A video of known packets; reads like `decode.Video`.

    Args:
      data: the bytes that hold the packets.
      stream: where in them, and what they are.
      name: what messages call it.
      damage: what was wrong with the video that this one was made from; "" = nothing.
    """

    rotation = 0
    has_audio = False

    def __init__(self, data: bytes | memoryview, stream: Stream, name: str, damage: str = ""):
        self.path, self.damage = name, damage
        self._data, self._stream = memoryview(data), stream
        self._keys = np.flatnonzero(stream.keys).tolist()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._data = memoryview(b"")

    @property
    def num_frames(self) -> int:
        return len(self._stream.times)

    @property
    def codec(self) -> str:
        return self._stream.codec

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame."""
        return self._stream.height, self._stream.width

    @property
    def times(self) -> Float64[np.ndarray, "F"]:
        """Seconds from the first frame to each."""
        return self._stream.times

    @property
    def fps(self) -> float:
        """Average frames a second; 0 for a single frame."""
        last = float(self.times[-1])
        return (self.num_frames - 1) / last if last else 0.0

    @property
    def duration(self) -> float:
        """Seconds, the last frame shown as long as the others on average."""
        return self.num_frames / self.fps if self.fps else 0.0

    def frames_between(self, start: float, end: float) -> tuple[int, int]:
        """As `decode.Video.frames_between`: the first frame shown from `start` to `end`, and the one after the last.

        Raises:
          BadVideo: the video ends before `start`.
        """
        count, times = self.num_frames, self.times
        if count > 1 and start >= self.duration:
            raise BadVideo(self.path, f"ends after {self.duration:.2f} s, before start_time={start:g}")
        first = min(bisect.bisect_left(times, start - _TOLERANCE), count - 1)
        stop = bisect.bisect_left(times, end - _TOLERANCE)
        return (first, stop) if stop > first else (max(stop - 1, 0), max(stop, 1))

    def read(self, indices: Sequence[int], window_of: WindowOf | None = None) -> UInt8[np.ndarray, "T H W 3"]:
        """As `decode.Video.read`."""
        places = [min(max(int(i), 0), self.num_frames - 1) for i in indices]
        window = (window_of or whole_window)(*self.size)
        converter, found = VideoReformatter(), {}
        for index, frame in self._decode(sorted(set(places))):
            image = converter.reformat(
                frame, window.width, window.height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
            )
            found[index] = window.cut(image.to_ndarray())
        return np.stack([found[i] for i in places])

    def read_times(
        self, seconds: Sequence[float], window_of: WindowOf | None = None
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """The frames that are shown at some seconds from the first."""
        places = np.searchsorted(self.times, np.asarray(seconds) + _TOLERANCE, side="right") - 1
        return self.read(np.maximum(places, 0), window_of)

    def read_audio(
        self, start: float = 0.0, end: float | None = None, rate: int | None = None
    ) -> tuple[Float32[np.ndarray, "S channels"], int]:
        """As `decode.Video.read_audio`: there is none, and that is what is raised."""
        raise BadVideo(self.path, "has no audio track")

    def _decode(self, wanted: Sequence[int]):
        """(index, frame) of the frames wanted, which are in order."""
        context = av.CodecContext.create(self._stream.codec, "r")
        context.thread_count, context.thread_type = 1, "NONE"
        context.extradata = self._stream.extradata or None
        remaining, position = set(wanted), 0
        try:
            for target in wanted:
                key = self._keys[bisect.bisect_right(self._keys, target) - 1]
                for index in range(max(key, position), target + 1):
                    yield from self._taken(context.decode(self._packet(index)), remaining)
                position = target + 1
            yield from self._taken(context.decode(None), remaining)
        except (av.error.FFmpegError, ValueError) as error:
            raise BadVideo(self.path, f"does not decode ({error})") from error
        if remaining:
            raise BadVideo(self.path, f"frame {min(remaining)} does not decode")

    def _packet(self, index: int) -> av.Packet:
        start = int(self._stream.offsets[index])
        packet = av.Packet(self._data[start : start + int(self._stream.sizes[index])])
        packet.pts = packet.dts = index
        packet.time_base = Fraction(1, 1000)
        return packet

    def _taken(self, frames, remaining: set[int]):
        for frame in frames:
            if frame.pts in remaining:
                remaining.discard(frame.pts)
                yield frame.pts, frame

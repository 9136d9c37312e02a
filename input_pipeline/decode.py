"""Reading videos with PyAV: only the frames asked for, upright, as uint8.

T frames, H height, W width, C = 3 channels (red, green, blue).

A frame's index is its place among the frames that decode, in order of presentation. How many there are is not taken
from the container's header, which lies often: the packets are listed (without decoding them), and where that list
is no order of presentation either, the frames are decoded and counted.

Decoding runs in the calling thread with one codec thread: the loader runs several videos at once instead, which
is faster in sum, and frame threads of the codec can deadlock with PyAV's log callback.
"""

import bisect
import io
import os
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple, Self

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from jaxtyping import UInt8

from input_pipeline.transforms import Window, whole_window

MAX_PIXELS = 2**26  # of one frame (8192 x 8192): a damaged header must not allocate gigabytes
COMPLETE = 0.9  # share of the frames in the header below which a file counts as cut off
SEEK_GAP = 4  # frames that are decoded and dropped rather than sought over
ATTACHED_PICTURE = 0x400  # FFmpeg's disposition of cover art
_NOTHING = "no frame decodes, although there is no error"
_FAILURES = (av.error.FFmpegError, OSError, EOFError, ValueError)  # what PyAV raises on bad files

WindowOf = Callable[[int, int], Window]  # from an upright frame's height and width


class BadVideo(ValueError):
    """A file that gives no usable frames, and why."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class FewerFrames(BadVideo):
    """The file holds fewer frames than its packets promised; the video's `num_frames` tells how many from now on."""


class Listing(NamedTuple):
    """What the packets of a file say: kept beside it, it spares listing them again.

    `times`: of each frame, sorted, in the stream's unit (None = not trustworthy, frames are counted instead); `keys`:
    indices of the frames that decoding can start from; `num_frames`; `damage`: "" or what is wrong with the file.
    """

    times: Sequence[int] | None
    keys: Sequence[int]
    num_frames: int
    damage: str


class Video:
    """An open video file; a context manager.

    Args:
      file: a path, the bytes of a file, or an open binary file that can seek; the last stays open.
      name: what messages call it; a path's default is the path.
      listing: what an earlier `Video` of the same bytes found.

    Attributes:
      path: that name.
      damage: what was found wrong so far with a file that can be used in part; "" = nothing.

    Raises:
      BadVideo: from every method, when the file cannot be read; `reason` says what is wrong with it.
    """

    def __init__(
        self,
        file: str | os.PathLike | bytes | BinaryIO,
        name: str | None = None,
        listing: Listing | None = None,
    ):
        if isinstance(file, bytes | bytearray | memoryview):
            file = io.BytesIO(file)
        self._file = os.fspath(file) if isinstance(file, str | os.PathLike) else file
        default = self._file if isinstance(self._file, str) else str(getattr(file, "name", "bytes in memory"))
        self.path = default if name is None else name
        self.damage = ""
        self._container: av.container.InputContainer | None = None
        self._times: list[int] | None = (
            None  # presentation time of each frame, sorted; None = not trustworthy
        )
        self._keys: list[int] = []  # indices of the frames that decoding can start from
        self._num_frames: int | None = None
        if listing is not None:
            self._times, self._keys, self._num_frames, self.damage = listing
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    @property
    def num_frames(self) -> int:
        """How many frames the file holds (at least 1)."""
        if self._num_frames is None:
            self._list_packets()
        return self._num_frames

    def content(self) -> bytes:
        """The whole file, as it is stored."""
        try:
            if isinstance(self._file, str):
                with open(self._file, "rb") as file:
                    return file.read()
            place = self._file.tell()
            self._file.seek(0)
            data = self._file.read()
            self._file.seek(place)  # where the container goes on
            return data
        except OSError as error:
            raise BadVideo(self.path, f"cannot be read ({_words(error)})") from error

    @property
    def listing(self) -> Listing:
        """What was found about its frames, for the next `Video` of the same bytes."""
        return Listing(num_frames=self.num_frames, times=self._times, keys=self._keys, damage=self.damage)

    @property
    def fps(self) -> float:
        """Average frames a second as the header states it, 0 where it does not."""
        rate = self._stream.average_rate
        return float(rate) if rate else 0.0

    def frames_between(self, start: float, end: float) -> tuple[int, int]:
        """The first frame shown from `start` to `end`, in seconds from the first frame, and the one after the last.

        There is at least one: a span between two frames gives the earlier of them.

        Raises:
          BadVideo: the video ends before `start`.
        """
        count = self.num_frames
        if self._times is not None:
            base = float(self._stream.time_base)
            times = [(time - self._times[0]) * base for time in self._times]
        elif self.fps:
            times = [i / self.fps for i in range(count)]
        else:
            raise BadVideo(self.path, "its frames have no times, so that no part of it can be found")
        frame = (times[-1] / (count - 1)) if count > 1 else 0.0
        if count > 1 and start >= times[-1] + frame:
            raise BadVideo(self.path, f"ends after {times[-1] + frame:.2f} s, before start_time={start:g}")
        tolerance = 1e-6
        first = min(bisect.bisect_left(times, start - tolerance), count - 1)
        stop = bisect.bisect_left(times, end - tolerance)
        return (first, stop) if stop > first else (max(stop - 1, 0), max(stop, 1))

    def read(self, indices: Sequence[int], window_of: WindowOf | None = None) -> UInt8[np.ndarray, "T H W 3"]:
        """Decodes the frames at `indices`, in the order given; repeats are allowed.

        Indices beyond the end give the last frame.

        Args:
          indices: frame numbers, 0 ... num_frames - 1.
          window_of: gives the window that is wanted of a frame of that height and width; the decoder resizes
            (bilinear, with antialias). None keeps whole frames of the stored size.

        Raises:
          FewerFrames: decoding ended before the last frame of `indices`; choose anew out of `num_frames`.
        """
        count = self.num_frames
        places = [min(max(int(i), 0), count - 1) for i in indices]
        wanted = sorted(set(places))
        found = self._read_by_time(wanted, window_of) if self._times is not None else None
        if found is None:
            found = self._read_by_count(wanted, window_of)
        return np.stack([found[i] for i in places])

    # Opening and listing

    def _size(self) -> int:
        """Bytes of the file, which is left at its start."""
        if isinstance(self._file, str):
            if not os.path.isfile(self._file):
                raise BadVideo(self.path, "no such file" if not os.path.exists(self._file) else "not a file")
            return os.path.getsize(self._file)
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        return size

    def _open(self) -> None:
        self.close()
        if self._size() == 0:
            raise BadVideo(self.path, "the file is empty (0 bytes)")
        try:
            self._container = av.open(self._file)
        except _FAILURES as error:
            raise BadVideo(self.path, f"cannot be opened as a video ({_words(error)})") from error
        streams = [s for s in self._container.streams.video if not int(s.disposition) & ATTACHED_PICTURE]
        if not streams:
            self.close()
            raise BadVideo(self.path, "has no video stream")
        self._stream = streams[0]
        context = self._stream.codec_context
        if context is None:
            self.close()
            raise BadVideo(self.path, "its video codec is unknown")
        if context.width * context.height > MAX_PIXELS:
            width, height = context.width, context.height
            self.close()
            raise BadVideo(
                self.path, f"its header claims {width}x{height} pixels; more than {MAX_PIXELS} in all"
            )
        self._stream.thread_type = "NONE"
        context.thread_count = 1

    def _list_packets(self) -> None:
        times, keys, discarded, usable = [], [], 0, True
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_discard:  # before the start of an edit list
                    discarded += 1
                if not packet.size or packet.is_discard:
                    continue
                usable = usable and packet.pts is not None
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except _FAILURES:
            usable = False  # decoding says more precisely what is wrong
        if usable and times and len(set(times)) == len(times):
            order = {time: i for i, time in enumerate(sorted(times))}
            self._times = sorted(times)
            self._keys = sorted(order[time] for time in keys)
            self._num_frames = len(times)
            if len(times) + discarded < COMPLETE * self._stream.frames:
                self.damage = f"the file ends after {len(times)} of {self._stream.frames} frames"
            self._rewind(self._times[0])
        else:
            self._num_frames = self._count_by_decoding()

    def _count_by_decoding(self) -> int:
        self._open()
        count = 0
        try:
            for _ in self._container.decode(self._stream):
                count += 1
        except _FAILURES as error:
            if not count:
                raise BadVideo(self.path, f"does not decode ({_words(error)})") from error
            self.damage = f"decoding fails after {count} frames ({_words(error)})"
        if not count:
            raise BadVideo(self.path, _NOTHING)
        self._open()
        return count

    def _rewind(self, time: int) -> None:
        try:
            self._container.seek(time, stream=self._stream)
        except _FAILURES:
            self._open()

    # Reading

    def _read_by_time(self, wanted: list[int], window_of: WindowOf | None) -> dict[int, np.ndarray] | None:
        """Frames found by their presentation times, seeking over gaps; None where that does not work."""
        index_of = {time: i for i, time in enumerate(self._times)}
        convert = _Converter(self.path, window_of)
        found: dict[int, np.ndarray] = {}
        frames, position = None, 0
        for target in wanted:
            after = bisect.bisect_right(self._keys, target)
            key = self._keys[after - 1] if after else 0
            if frames is None or key > position + SEEK_GAP:
                self._rewind(self._times[key])
                frames = self._container.decode(self._stream)
            while target not in found:
                try:
                    frame = next(frames, None)
                except _FAILURES:
                    return None
                index = None if frame is None else index_of.get(frame.pts)
                if index is None or index > target:
                    return None
                position = index + 1
                if index == target:
                    found[target] = convert(frame)
        return found

    def _read_by_count(self, wanted: list[int], window_of: WindowOf | None) -> dict[int, np.ndarray]:
        """Frames found by decoding from the start and counting."""
        self._open()
        convert = _Converter(self.path, window_of)
        found: dict[int, np.ndarray] = {}
        frames, why = self._container.decode(self._stream), ""
        for index in range(wanted[-1] + 1):
            try:
                frame = next(frames, None)
            except _FAILURES as error:
                frame, why = None, f" ({_words(error)})"
            if frame is None and index == 0:
                raise BadVideo(self.path, f"does not decode{why}" if why else _NOTHING)
            if frame is None:
                found_now = f"only {index} of {self.num_frames} frames decode{why}"
                self.damage = f"{self.damage}; {found_now}" if self.damage else found_now
                self._num_frames = index
                raise FewerFrames(self.path, self.damage)
            if index in wanted:
                found[index] = convert(frame)
        return found


class _Converter:
    """From decoded frames to upright pixels; all take the window that the first frame's size gives."""

    def __init__(self, path: str, window_of: WindowOf | None):
        self._path, self._window_of = path, window_of
        self._window: Window | None = None

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        turns, mirrored = _orientation(frame)
        if self._window is None:
            if frame.width * frame.height > MAX_PIXELS:
                raise BadVideo(self._path, f"frames of {frame.width}x{frame.height} pixels are too large")
            upright = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
            self._window = (self._window_of or whole_window)(*upright)
        height, width = self._window[:2]
        if turns % 2:
            height, width = width, height
        try:
            image = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR")
        except _FAILURES as error:
            reason = f"pixel format {frame.format.name} cannot be converted ({_words(error)})"
            raise BadVideo(self._path, reason) from error
        pixels = image.to_ndarray()
        if mirrored:
            pixels = pixels[::-1]
        return self._window.cut(np.rot90(pixels, turns) if turns else pixels)


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
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


def _words(error: BaseException) -> str:
    """FFmpeg's own words, without number and path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().rstrip(".")


def read_frames(
    path: str | os.PathLike | bytes | BinaryIO, indices: Sequence[int], window_of: WindowOf | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """Decodes the frames of a file at `indices`, see `Video.read`; beyond what decodes, the last frame that does."""
    with Video(path) as video:
        try:
            return video.read(indices, window_of)
        except FewerFrames:
            return video.read(indices, window_of)

"""Reading videos with PyAV: only the frames asked for, upright, as uint8.

T frames, H height, W width, C = 3 channels (red, green, blue).

A frame's index is its place among the frames that decode, in order of presentation. How many there are is not taken
from the container's header, which lies often: the packets are listed (without decoding them, and for MP4 without
reading them), and where that list is no order of presentation either, the frames are decoded and counted.

Memory: a frame has at most `container.MAX_PIXELS` pixels, and only frames that were asked for are kept, at the size
that was asked for. Time: `container.TIME_LIMIT`.
"""

import bisect
import io
import os
from collections.abc import Sequence
from typing import BinaryIO, Self

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from input_pipeline import audio
from input_pipeline.container import NOTHING, TIME_LIMIT, Container, DecodingFailed, Listing, words
from input_pipeline.errors import BadVideo, FewerFrames
from input_pipeline.pixels import Converter, WindowOf, orientation, upright_size

__all__ = ["BadVideo", "FewerFrames", "Listing", "Video", "WindowOf", "read_frames"]

SEEK_GAP = 4  # frames that are decoded and dropped rather than sought over
# Ways to come by frames, each tried where the one before misses any: seconds that seeks aim before the key frame (None:
# no seeks, from the start of the file), and whether frames that nothing refers to are left out. Some containers are
# sought in inexactly, and some decoders find the order of presentation only where they see every frame.
_WAYS = ((0.0, True), (10.0, False), (None, False))
_TOLERANCE = 1e-6  # seconds, of times that were rounded
_SAME_RATE = 0.01  # share by which rates differ that are the same but for rounded times

VideoFile = str | os.PathLike | bytes | BinaryIO


class _Missed(Exception):
    """A frame did not come out of the decoder where its time says."""


class Video:
    """An open video file; a context manager.

    Args:
      file: a path, the bytes of a file, or an open binary file that can seek; the last stays open.
      name: what messages call it; a path's default is the path.
      listing: what an earlier `Video` of the same bytes found.
      stream: which of several video streams, counted from 0; covers do not count.
      time_limit: seconds of processor time that opening, listing and each read may take.

    Attributes:
      path: that name.
      damage: what was found wrong so far with a file that can be used in part; "" = nothing.

    Raises:
      BadVideo: from every method, when the file cannot be read; `reason` says what is wrong with it.
    """

    def __init__(
        self,
        file: VideoFile,
        name: str | None = None,
        listing: Listing | None = None,
        stream: int = 0,
        time_limit: float = TIME_LIMIT,
    ):
        if isinstance(file, bytes | bytearray | memoryview):
            file = io.BytesIO(file)
        self._file = os.fspath(file) if isinstance(file, str | os.PathLike) else file
        default = self._file if isinstance(self._file, str) else str(getattr(file, "name", "bytes in memory"))
        self.path = default if name is None else name
        self.damage = listing.damage if listing is not None else ""
        self._listing = listing
        self._given = listing is not None
        self._counted: Float64[np.ndarray, " N"] | None = (
            None  # times of frames that were decoded and counted
        )
        self._first: tuple[tuple[int, int], int] | None = None  # upright size, quarter turns
        self._container = Container(self._file, self.path, stream, time_limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

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
            raise BadVideo(self.path, f"cannot be read ({words(error)})") from error

    # What the file holds

    @property
    def listing(self) -> Listing:
        """What was found about its frames, for the next `Video` of the same bytes."""
        if self._listing is None:
            self._listing = self._container.list_frames() or self._count_by_decoding()
            self.damage = self._listing.damage
        return self._listing._replace(damage=self.damage)

    @property
    def num_frames(self) -> int:
        """How many frames the file holds (at least 1)."""
        return (self._listing or self.listing).num_frames

    @property
    def fps(self) -> float:
        """Average frames a second as the header states it, 0 where it does not.

        Where the header has no more to say than how fast its clock ticks (1000 a second in FLV and Matroska), by the
        times of the frames.
        """
        stated = self._container.fps
        if stated and abs(stated * self._container.stream.time_base - 1) < _TOLERANCE:
            last = float(self.times[-1])
            shown = (self.num_frames - 1) / last if last else stated
            return shown if abs(shown / stated - 1) > _SAME_RATE else stated
        return stated

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec, such as h264."""
        return self._container.codec

    @property
    def has_audio(self) -> bool:
        return self._container.audio is not None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first frame, upright."""
        return self._look()[0]

    @property
    def rotation(self) -> int:
        """Degrees (0, 90, 180, 270), counter-clockwise, that the stored frames are turned by to be upright."""
        return self._look()[1] * 90

    @property
    def times(self) -> Float64[np.ndarray, " N"]:
        """Seconds from the first frame to each.

        Raises:
          BadVideo: the file states neither times nor a rate.
        """
        listing = self._listing or self.listing
        if listing.times is not None:
            times = np.array(listing.times, np.int64)
            return (times - times[0]) * float(self._container.stream.time_base)
        if self._counted is not None and len(self._counted) == listing.num_frames:
            return self._counted
        stated = self._container.fps
        if stated or listing.num_frames == 1:
            return np.arange(listing.num_frames) / (stated or 1.0)
        raise BadVideo(self.path, "its frames have no times, so that no part of it can be found")

    @property
    def duration(self) -> float:
        """Seconds; the last frame is shown as long as the others on average."""
        times = self.times
        if len(times) == 1:
            return 1 / self.fps if self.fps else 0.0
        return float(times[-1]) * len(times) / (len(times) - 1)

    def frames_between(self, start: float, end: float) -> tuple[int, int]:
        """The first frame shown from `start` to `end`, in seconds from the first frame, and the one after the last.

        There is at least one: a span between two frames gives the earlier of them.

        Raises:
          BadVideo: the video ends before `start`.
        """
        times, count = self.times, self.num_frames
        if count > 1 and start >= self.duration:
            raise BadVideo(self.path, f"ends after {self.duration:.2f} s, before start_time={start:g}")
        first = min(int(np.searchsorted(times, start - _TOLERANCE)), count - 1)
        stop = int(np.searchsorted(times, end - _TOLERANCE))
        return (first, stop) if stop > first else (max(stop - 1, 0), max(stop, 1))

    # Reading

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
        listing = self._listing or self.listing
        self._container.start_clock()
        if listing.times is not None:
            for way in _WAYS:
                try:
                    clip = _Clip(indices, listing.num_frames, Converter(self.path, window_of))
                    return self._read_by_time(listing, clip, *way)
                except (_Missed, DecodingFailed):
                    continue
            if self._given:  # by somebody who saw other bytes
                self._given, self._listing = False, None
                return self.read(indices, window_of)
            self._list_again(listing)
        clip = _Clip(indices, self._listing.num_frames, Converter(self.path, window_of))
        return self._read_by_count(clip)

    def read_times(
        self, seconds: Sequence[float], window_of: WindowOf | None = None
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """The frames that are shown at `seconds` from the first frame; before it the first, after the end the last.

        Raises: as `read`.
        """
        places = np.searchsorted(self.times, np.asarray(seconds, np.float64) + _TOLERANCE, side="right") - 1
        return self.read(np.maximum(places, 0).tolist(), window_of)

    def read_audio(
        self, start: float = 0.0, end: float | None = None, rate: int | None = None
    ) -> tuple[Float32[np.ndarray, "S channels"], int]:
        """The sound from `start` to `end`, in seconds from the first frame, and its rate; see `audio.read`."""
        listing = self._listing or self.listing
        first = listing.times[0] if listing.times is not None else self._container.stream.start_time or 0
        self._container.start_clock()
        origin = float(first * self._container.stream.time_base)
        return audio.read(self._container, self.path, origin, start, end, rate)

    def _look(self) -> tuple[tuple[int, int], int]:
        if self._first is None:
            self._container.start_clock()
            self._container.open()
            try:
                frame = next(self._container.frames(), None)
            except DecodingFailed as error:
                raise BadVideo(self.path, f"does not decode ({error})") from error
            if frame is None:
                raise BadVideo(self.path, NOTHING)
            self._first = upright_size(frame), orientation(frame)[0]
        return self._first

    def _count_by_decoding(self) -> Listing:
        times, why = self._decode_all()
        if None not in times and (np.diff(times) > 0).all():
            self._counted = (np.array(times) - times[0]) * float(self._container.stream.time_base)
        damage = f"decoding fails after {len(times)} frames{why}" if why else ""
        return Listing(None, [], len(times), damage)

    def _decode_all(self) -> tuple[list[int | None], str]:
        """The times of all frames that decode, and why there are no more."""
        self._container.open()
        times, why = [], ""
        try:
            for frame in self._container.frames():
                times.append(frame.pts)
        except DecodingFailed as error:
            why = f" ({error})"
        if not times:
            raise BadVideo(self.path, f"does not decode{why}" if why else NOTHING)
        return times, why

    def _list_again(self, listing: Listing) -> None:
        """Replaces a listing of packets, of which some gave no frame, by one of the frames that come out.

        Raises:
          FewerFrames: there are fewer.
        """
        times, why = self._decode_all()
        ordered = None not in times and bool((np.diff(times) > 0).all())
        place_of = {time: i for i, time in enumerate(times)}
        keys = [place_of[time] for i in listing.keys if (time := listing.times[i]) in place_of]
        self._listing = Listing(times if ordered else None, keys if ordered else [], len(times), self.damage)
        if len(times) < listing.num_frames:
            self._lose(f"only {len(times)} of {listing.num_frames} frames decode{why}")

    def _lose(self, found: str) -> None:
        """Notes that the listing, already shorter, is of a part of the file. Raises FewerFrames."""
        self.damage = f"{self.damage}; {found}" if self.damage else found
        self._listing = self._listing._replace(damage=self.damage)
        raise FewerFrames(self.path, self.damage)

    def _read_by_time(
        self, listing: Listing, clip: "_Clip", early: float | None, skip: bool
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames found by their presentation times, seeking over gaps; see `_WAYS`."""
        wanted = {listing.times[i] for i in clip.wanted} if skip else None
        frames, position = None, 0
        for target in clip.wanted:
            after = bisect.bisect_right(listing.keys, target)
            key = listing.keys[after - 1] if after else 0
            if frames is None or (early is not None and key > position + SEEK_GAP):
                if early is None:
                    self._container.open()
                else:
                    self._container.seek(listing.times[key], early=early)
                frames = self._container.frames(wanted)
            time = listing.times[target]
            frame = next(frames, None)
            while frame is not None and frame.pts is not None and frame.pts < time:
                frame = next(frames, None)
            if frame is None or frame.pts != time:
                raise _Missed
            position = target + 1
            clip.take(target, frame)
        return clip.frames

    def _read_by_count(self, clip: "_Clip") -> UInt8[np.ndarray, "T H W 3"]:
        """Frames found by decoding from the start and counting."""
        self._container.open()
        frames, why = self._container.frames(), ""
        for index in range(clip.wanted[-1] + 1):
            try:
                frame = next(frames, None)
            except DecodingFailed as error:
                frame, why = None, f" ({error})"
            if frame is None and index == 0:
                raise BadVideo(self.path, f"does not decode{why}" if why else NOTHING)
            if frame is None:
                promised, self._listing = self.num_frames, Listing(None, [], index, self.damage)
                self._lose(f"only {index} of {promised} frames decode{why}")
            clip.take(index, frame)
        return clip.frames


class _Clip:
    """The frames asked for, each put into its places as it comes."""

    def __init__(self, indices: Sequence[int], count: int, convert: Converter):
        self._places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            self._places.setdefault(min(max(int(index), 0), count - 1), []).append(place)
        self.wanted = sorted(self._places)
        self._length, self._convert = len(indices), convert
        self.frames: UInt8[np.ndarray, "T H W 3"]

    def take(self, index: int, frame) -> None:
        if index in self._places:
            pixels = self._convert(frame)
            if index == self.wanted[0]:
                self.frames = np.empty((self._length, *pixels.shape), np.uint8)
            for place in self._places[index]:
                self.frames[place] = pixels


def read_frames(
    file: VideoFile, indices: Sequence[int], window_of: WindowOf | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """Decodes the frames of a file at `indices`, see `Video.read`; beyond what decodes, the last frame that does."""
    with Video(file) as video:
        try:
            return video.read(indices, window_of)
        except FewerFrames:
            return video.read(indices, window_of)

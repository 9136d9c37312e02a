"""An open media file: its streams, the list of its frames, its packets; every limit on memory and time is here.

FFmpeg's readers run in the calling thread with one codec thread: the loader runs several videos at once instead, which
is faster in sum, and frame threads of the codec can deadlock with PyAV's log callback.
"""

import contextlib
import io
import math
import os
import time
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.codec import Properties as CodecProperties
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from input_pipeline import mp4
from input_pipeline.errors import BadVideo

MAX_PIXELS = 2**25  # of one frame (8K): a damaged header must not allocate gigabytes
MAX_FRAME_BYTES = 3 * 2**25  # as stored; a decoder keeps up to 17 of them
TIME_LIMIT = 120.0  # seconds of processor time for opening a file, for listing it and for each read
COMPLETE = 0.9  # share of the frames in the header below which a file counts as cut off
NOTHING = "no frame decodes, although there is no error"
FAILURES = (
    av.error.FFmpegError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
)  # what PyAV raises on bad files
_ATTACHED_PICTURE = 0x400  # FFmpeg's disposition of cover art
_PROBING = {"max_pixels": str(2**28)}  # large enough that the header of too large a video can be quoted
_DECODING = {"max_pixels": str(MAX_PIXELS)}
_LOCAL = {"protocol_whitelist": "file"}  # a play list inside a file must not open connections
_BUFFER = 2**18  # bytes that are read from an open file at once
_BISECTED = (
    "mpegts",
    "mpeg",
)  # containers that FFmpeg seeks in by decoding time, which is before that of presentation
_EARLIER = 1.0  # seconds that a seek in them aims before the key frame

File = str | BinaryIO


class Listing(NamedTuple):
    """What the packets of a file say: kept beside it, it spares listing them again.

    `times`: of each frame, sorted, in the stream's unit (None = not trustworthy, frames are counted instead); `keys`:
    indices of the frames that decoding can start from; `num_frames`; `damage`: "" or what is wrong with the file.
    """

    times: list[int] | None
    keys: list[int]
    num_frames: int
    damage: str


class DecodingFailed(Exception):
    """The codec or the container gives up at this place; the text says why."""


class Container:
    """One file and the video stream of it that is read.

    Args:
      file: a path, or an open binary file that can seek.
      path: what messages call it.
      stream: which of its video streams, counted from 0 in the order of the file; pictures attached to it (covers) do
        not count.
      seconds: limit on the processor time of opening it, listing it and each read.

    Raises:
      BadVideo: from every method, when it cannot be read, exceeds a limit or has no such stream.
    """

    def __init__(self, file: File, path: str, stream: int, seconds: float):
        self._file, self._path, self._number, self._seconds = file, path, stream, seconds
        self._container: av.container.InputContainer | None = None
        self.stream: VideoStream
        self.start_clock()
        self.open()

    def open(self) -> None:
        """Opens it, or opens it again from its start."""
        self.close()
        if self._size() == 0:
            raise BadVideo(self._path, "the file is empty (0 bytes)")
        name = f"file:{self._file}" if isinstance(self._file, str) and ":" in self._file else self._file
        try:
            self._container = av.open(
                name,
                "r",
                options=_PROBING,
                container_options=_LOCAL,
                buffer_size=_BUFFER,
                timeout=self._seconds,
            )
        except FAILURES as error:
            raise BadVideo(self._path, f"cannot be opened as a video ({words(error)})") from error
        try:
            self._choose_stream()
        except BadVideo:
            self.close()
            raise

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def start_clock(self) -> None:
        """The time limit begins anew."""
        self._started = time.thread_time()

    def _size(self) -> int:
        """Bytes of the file, which is left at its start."""
        if isinstance(self._file, str):
            if not os.path.isfile(self._file):
                raise BadVideo(self._path, "not a file" if os.path.exists(self._file) else "no such file")
            return os.path.getsize(self._file)
        try:
            size = self._file.seek(0, io.SEEK_END)
            self._file.seek(0)
            return size
        except (OSError, ValueError) as error:  # a server that is gone, a file that is closed
            raise BadVideo(self._path, f"cannot be read ({words(error)})") from error

    def _choose_stream(self) -> None:
        streams = [s for s in self._container.streams.video if not int(s.disposition) & _ATTACHED_PICTURE]
        if not streams:
            raise BadVideo(self._path, "has no video stream")
        if self._number >= len(streams):
            raise BadVideo(self._path, f"has {len(streams)} video streams, none with number {self._number}")
        self.stream = streams[self._number]
        context = self.stream.codec_context
        if context is None:
            raise BadVideo(self._path, "its video codec is unknown")
        width, height = context.width, context.height
        if width * height > MAX_PIXELS:
            raise BadVideo(
                self._path, f"its header claims {width}x{height} pixels; more than {MAX_PIXELS} in all"
            )
        if context.format is not None:
            self._check_frame(width, height, context.format)
        self.stream.thread_type = "NONE"
        context.thread_count = 1
        context.options = _DECODING
        self._skips = _skippable(context)

    def _check_frame(self, width: int, height: int, kind: av.VideoFormat) -> None:
        if width * height > MAX_PIXELS or width * height * kind.padded_bits_per_pixel > 8 * MAX_FRAME_BYTES:
            raise BadVideo(
                self._path, f"frames of {width}x{height} pixels in the format {kind.name} are too large"
            )

    # What the file says

    @property
    def codec(self) -> str:
        """FFmpeg's name of the video's codec."""
        return self.stream.codec_context.codec.canonical_name

    @property
    def fps(self) -> float:
        """Average frames a second as the header states it, 0 where it does not."""
        rate = self.stream.average_rate
        return float(rate) if rate else 0.0

    @property
    def audio(self) -> AudioStream | None:
        """The first audio track that can be decoded."""
        return next((s for s in self._container.streams.audio if s.codec_context is not None), None)

    def list_frames(self) -> Listing | None:
        """The frames that the packets promise; None where these are no order of presentation."""
        self.start_clock()
        context = self.stream.codec_context
        if self._is("avi") and context.name in ("h264", "hevc") and context.has_b_frames:
            return None  # AVI has no times of presentation, and FFmpeg finds out those of other codecs only
        return self._list_index() or self._list_packets()

    def _is(self, *formats: str) -> bool:
        return not set(formats).isdisjoint(self._container.format.name.split(","))

    def _list_index(self) -> Listing | None:
        """Out of FFmpeg's index, where that is complete: nothing of the film itself is read."""
        if not self._is("mp4"):
            return None
        entries = list(self.stream.index_entries)
        if not entries or any(entry.is_discard for entry in entries):
            return None
        size = self._container.size
        if size is None or max(entry.pos + entry.size for entry in entries) > size:
            return None  # cut off
        try:
            with contextlib.ExitStack() as stack:
                if isinstance(self._file, str):
                    file = stack.enter_context(open(self._file, "rb"))
                else:
                    file = self._file
                    stack.callback(file.seek, file.tell())  # where the container goes on
                offsets = mp4.composition_offsets(file, self.stream.id, len(entries))
        except OSError:
            return None
        if offsets is None:
            return None
        times = [entry.timestamp + offset for entry, offset in zip(entries, offsets.tolist(), strict=True)]
        try:
            first = next(self._packets(self.stream), None)
        except DecodingFailed:
            return None
        if first is None or first.dts != entries[0].timestamp or first.pts is None:
            return None
        shift = first.pts - times[0]  # FFmpeg moves all times alike, so that none is before its decoding time
        return self._listing(
            [time + shift for time in times],
            [time + shift for time, entry in zip(times, entries, strict=True) if entry.is_keyframe],
        )

    def _list_packets(self) -> Listing | None:
        """Out of the packets, the whole file of which is read."""
        times, keys = [], []
        try:
            self.open()  # at its first packet, which no seek is sure to find: times may begin below 0
            for packet in self._packets(self.stream):
                if not packet.size or packet.is_discard:  # the latter: before the start of an edit list
                    continue
                if packet.pts is None:
                    return None
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except DecodingFailed:
            return None  # decoding says more precisely what is wrong
        return self._listing(times, keys)

    def _listing(self, times: list[int], keys: list[int]) -> Listing | None:
        """What packets with these times, in decoding order, and those of key frames among them promise."""
        if not times or len(set(times)) != len(times):
            return None
        if not self.stream.codec_context.codec.properties & CodecProperties.REORDER.value and times != sorted(
            times
        ):
            return None  # times that go backwards
        damage, first, promised = "", min(times), self.stream.frames
        # Headers also count frames that an edit list does not show, or that say only that nothing has changed.
        shown = (max(times) - first) * len(times) / max(len(times) - 1, 1)
        if len(times) < COMPLETE * promised and shown < COMPLETE * (self.stream.duration or math.inf):
            damage = f"the file ends after {len(times)} of {promised} frames"
        if times[0] != first or first not in keys:
            # Cut out of a longer film: what refers to frames before the cut does not decode.
            try:
                self.open()
                first = next(self.frames()).pts
            except (DecodingFailed, StopIteration):
                return None  # decoding says more precisely what is wrong
            if first not in times:
                return None
        order = {time: i for i, time in enumerate(sorted(time for time in times if time >= first))}
        return Listing(list(order), sorted(order[time] for time in keys if time >= first), len(order), damage)

    # Reading

    def seek(self, time: int, stream: VideoStream | AudioStream | None = None, early: float = 0.0) -> None:
        """Goes to the key frame at or before `time`, in the stream's unit, less `early` seconds; to the start of the
        file, opened again and with new streams, where that fails."""
        stream = stream or self.stream
        if self._is(*_BISECTED):
            early = max(early, _EARLIER)
        try:
            self._container.seek(time - math.ceil(early / stream.time_base), stream=stream)
        except FAILURES:
            self.open()

    def frames(self, wanted: Collection[int] | None = None) -> Iterator[VideoFrame]:
        """Frames from here on.

        Args:
          wanted: times of the frames that are needed; others may be left out, where that changes no pixel of these.

        Raises:
          DecodingFailed: there is no way on.
        """
        context, skipping = self.stream.codec_context, False
        context.skip_frame = "DEFAULT"
        for packet in self._packets(self.stream):
            if wanted is not None and self._skips:
                skip = bool(packet.size) and packet.pts is not None and packet.pts not in wanted
                if skip != skipping:
                    context.skip_frame, skipping = "NONREF" if skip else "DEFAULT", skip
            for frame in self._decode(packet):
                self._check_frame(frame.width, frame.height, frame.format)
                yield frame

    def sounds(self) -> Iterator[AudioFrame]:
        """Frames of the audio track from here on.

        Raises:
          DecodingFailed: there is no way on.
        """
        for packet in self._packets(self.audio):
            yield from self._decode(packet)

    def _decode(self, packet: av.Packet) -> list[VideoFrame] | list[AudioFrame]:
        try:
            return packet.decode()
        except FAILURES as error:
            raise DecodingFailed(words(error)) from error

    def _packets(self, stream: VideoStream | AudioStream) -> Iterator[av.Packet]:
        try:
            for packet in self._container.demux(stream):
                if time.thread_time() - self._started > self._seconds:
                    raise BadVideo(
                        self._path, f"reading it takes more than {self._seconds:g} s of processor time"
                    )
                yield packet
        except BadVideo:
            raise
        except FAILURES as error:
            raise DecodingFailed(words(error)) from error


def _skippable(context: av.VideoCodecContext) -> bool:
    """Whether frames that the codec calls no reference can be left out without a trace in any other.

    So it is in H.264 (`nal_ref_idc` = 0: not used for prediction), and in HEVC without temporal layers (a sub-layer
    non-reference picture may serve the layers above it). The container says how many layers there are in the third
    field of byte 21 of `hvcC` (ISO/IEC 14496-15, 8.3.3.1).
    """
    if context.name == "h264":
        return True
    header = context.extradata or b""
    return context.name == "hevc" and len(header) > 22 and header[0] == 1 and header[21] >> 3 & 7 == 1


def words(error: BaseException) -> str:
    """FFmpeg's own words, without number and path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().rstrip(".")

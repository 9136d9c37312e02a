"""The composition offsets of a track of an MP4 or QuickTime file, out of its header alone.

FFmpeg's index of such a file has the decoding time of every frame; the presentation time lies an offset after it that
the `ctts` box holds (ISO/IEC 14496-12, 8.6.1.3). With both, a film's frames are listed without reading the film.
"""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from jaxtyping import Int64

_MAX_HEADER = 2**28  # bytes of `moov` that are read into memory


def composition_offsets(file: BinaryIO, track: int, frames: int) -> Int64[np.ndarray, " N"] | None:
    """Presentation minus decoding time of each frame, in decoding order; the file's position changes.

    Args:
      file: the whole file.
      track: the track's id in the file.
      frames: how many frames FFmpeg's index has.

    Returns:
      None where the header does not say it of exactly so many frames (or the file is fragmented or damaged).
    """
    try:
        size = file.seek(0, io.SEEK_END)
        start, stop = next(place for kind, place in _boxes(file, 0, size, top=True) if kind == b"moov")
        if stop - start > _MAX_HEADER:
            return None
        file.seek(start)
        header = io.BytesIO(file.read(stop - start))
        return _of_movie(header, stop - start, track, frames)
    except (OSError, KeyError, StopIteration, ValueError, struct.error):
        return None


def _boxes(
    file: BinaryIO, start: int, stop: int, top: bool = False
) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Kind, and where its contents begin and end, of each box between two places."""
    while start + 8 <= stop:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            head = 16
        elif size == 0 and top:  # to the end of the file
            size = stop - start
        if size < head or (start + size > stop and not top):
            raise ValueError(f"box {kind!r} of {size} bytes")
        yield kind, (start + head, min(start + size, stop))
        start += size


def _of_movie(header: BinaryIO, size: int, track: int, frames: int) -> Int64[np.ndarray, " N"] | None:
    tables = None
    for kind, (start, stop) in _boxes(header, 0, size):
        if kind == b"mvex":  # fragments follow, which this header does not list
            return None
        if kind == b"trak":
            boxes = dict(_boxes(header, start, stop))
            header.seek(boxes[b"tkhd"][0])
            wide = header.read(1) == b"\1"
            header.seek(boxes[b"tkhd"][0] + (20 if wide else 12))
            if struct.unpack(">I", header.read(4)) == (track,):
                media = dict(_boxes(header, *boxes[b"mdia"]))
                information = dict(_boxes(header, *media[b"minf"]))
                tables = dict(_boxes(header, *information[b"stbl"]))
    if tables is None:
        return None
    if b"ctts" not in tables:
        return np.zeros(frames, np.int64)
    start, stop = tables[b"ctts"]
    header.seek(start)
    runs = np.frombuffer(header.read(stop - start), ">u4")[1:]
    (count,) = runs[:1]
    runs = runs[1 : 1 + 2 * int(count)].reshape(-1, 2)
    counts, offsets = runs[:, 0].astype(np.int64), runs[:, 1].astype(np.uint32).view(np.int32)
    if len(runs) != count or counts.sum() != frames:
        return None
    return np.repeat(offsets.astype(np.int64), counts)

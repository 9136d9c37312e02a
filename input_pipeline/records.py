"""Prepared videos: what a record holds, and the ArrayRecord shards that records lie in.

A prepared set is a folder, made by `python -m scripts.prepare_data`:

  manifest.json           what it is: counts, sizes, how it was made and from what, names of classes
  index.jsonl             a line for each sample of the original source, in its order: what is known about it, and its
                          shard and record (or why it has none)
  videos-*.array_record   shards
  bad.csv, damaged.csv    samples without a record, and those that were used in part: path,reason

A record is one video (samples may share it): magic, SHA-256 of all that follows, length of the header, header (JSON),
arrays, and the video's bytes. The header says what the decoder has to know and where the frames are, so that reading
lists no packets. Videos that were encoded anew are mp4 files whose packets are read without the container; videos that
were packed as they are stay the files that they were.
"""

import base64
import csv
import errno
import hashlib
import io
import json
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.atomic import appearing
from input_pipeline.decode import BadVideo, Listing, Video
from input_pipeline.packets import PacketVideo, Stream

MANIFEST, INDEX, BAD, DAMAGED = "manifest.json", "index.jsonl", "bad.csv", "damaged.csv"
PLAN = "plan.json"  # of a preparation that is not finished
FORMAT, VERSION = "prepared videos", 1
SUFFIX = ".array_record"
_MAGIC = b"VFMR"
_START = len(_MAGIC) + hashlib.sha256().digest_size
_WRITE = "group_size:1,uncompressed"  # each record can be read alone; videos are compressed already
_READ = "readahead_buffer_size:0"
_BUFFER = 2**20  # bytes that a reader asks the file for at once
_OPEN_SHARDS = 64  # at once, in a process


@dataclass(frozen=True)
class Record:
    """One video of a prepared set.

    Attributes:
      name: of the video in the original source.
      samples: what is known about each sample that shows it: `id` (index in the original source), `labels`, `captions`
        and so on.
      data: the video's bytes: a file.
      video: where its frames are in them: a `Stream` of packets, or the `Listing` of a file packed as it was.
      span: seconds from which and to which it was cut out of the original; None = all of it.
      damage: what was wrong with the original, of which a part was used; "" = nothing.
    """

    name: str
    samples: Sequence[dict[str, Any]]
    data: bytes | memoryview
    video: Stream | Listing
    span: tuple[float, float] | None = None
    damage: str = ""

    def open(self, name: str = "") -> PacketVideo | Video:
        """The video; `name` is what messages call it."""
        if isinstance(self.video, Stream):
            return PacketVideo(self.data, self.video, name or self.name, self.damage)
        return Video(bytes(self.data), name or self.name, listing=self.video)


def pack(record: Record) -> bytes:
    """A record as bytes; the same record always gives the same."""
    header, arrays = _described(record)
    header |= {
        "name": record.name,
        "span": record.span,
        "damage": record.damage,
        "samples": list(record.samples),
        "sha256": hashlib.sha256(record.data).hexdigest(),
        "bytes": len(record.data),
        "arrays": [[name, array.dtype.str, len(array)] for name, array in arrays.items()],
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "backslashreplace")  # of file names that are no UTF-8, as JSON escapes them
    parts = [struct.pack("<I", len(text)), text, *(array.tobytes() for array in arrays.values()), record.data]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join([_MAGIC, digest.digest(), *parts])


def _described(record: Record) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the header and the arrays say about where the frames are."""
    video = record.video
    if isinstance(video, Stream):
        header = dict(
            kind="packets",
            codec=video.codec,
            extradata=base64.b64encode(video.extradata).decode(),
            height=video.height,
            width=video.width,
            frames=len(video.times),
        )
        return header, dict(
            times=video.times.astype("<f8"),
            offsets=video.offsets.astype("<i8"),
            sizes=video.sizes.astype("<i4"),
            keys=video.keys.astype("|u1"),
        )
    header = dict(kind="file", frames=video.num_frames)
    keys = np.array(video.keys, "<i4")
    return header, dict(keys=keys) if video.times is None else dict(
        keys=keys, times=np.array(video.times, "<i8")
    )


def unpack(data: bytes, name: str = "") -> Record:
    """The record that some bytes are.

    Raises:
      BadVideo: they are no record, or not those that were written.
    """
    data = memoryview(data)
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise BadVideo(name, "is no record of a prepared video")
    if hashlib.sha256(data[_START:]).digest() != bytes(data[len(_MAGIC) : _START]):
        raise BadVideo(name, "its record is damaged: the checksum is not the one that was written")
    (length,) = struct.unpack_from("<I", data, _START)
    place = _START + 4 + length
    header = json.loads(bytes(data[_START + 4 : place]))
    arrays = {}
    for array, kind, count in header["arrays"]:
        arrays[array] = np.frombuffer(data, kind, count, place)
        place += arrays[array].nbytes
    if header["kind"] == "packets":
        video = Stream(
            codec=header["codec"],
            extradata=base64.b64decode(header["extradata"]),
            height=header["height"],
            width=header["width"],
            times=arrays["times"],
            offsets=arrays["offsets"],
            sizes=arrays["sizes"],
            keys=arrays["keys"].astype(bool),
        )
    else:
        times = arrays["times"].tolist() if "times" in arrays else None
        video = Listing(times, arrays["keys"].tolist(), header["frames"], header["damage"])
    return Record(
        name=header["name"],
        samples=header["samples"],
        data=data[place:],
        video=video,
        span=tuple(header["span"]) if header["span"] else None,
        damage=header["damage"],
    )


# Shards


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Writes a shard of packed records, which appears under its name when it is complete and on the disk.

    Raises:
      OSError: it cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        with appearing(path, durable=True) as partial:
            writer = ArrayRecordWriter(str(partial), _WRITE)
            try:
                for record in records:
                    writer.write(record)
            finally:
                writer.close()
    except RuntimeError as error:
        raise _as_os_error(error, path) from error


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears under its name when it is complete and on the disk.

    Bytes of file names that are no UTF-8 are written as JSON and Python escape them: JSON gives them back.
    """
    with appearing(path, durable=True) as partial:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))


def reasons_csv(reasons: dict[str, str]) -> str:
    """A skip list: `path,reason`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "reason"), *reasons.items()])
    return text.getvalue()


def _as_os_error(error: RuntimeError, path: Path) -> OSError:
    """What ArrayRecord says about the file system as the error that Python has for it."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
    code = next((code for code in codes if os.strerror(code) in str(error)), errno.EIO)
    return OSError(code, os.strerror(code) if code != errno.EIO else str(error), str(path))


class _Shards:
    """Open readers of this process, the least used closed again."""

    def __init__(self):
        self._readers: dict[str, Any] = {}
        self._lock, self._process = threading.Lock(), os.getpid()

    def read(self, path: str, record: int) -> bytes:
        from array_record.python.array_record_module import ArrayRecordReader

        with self._lock:
            if self._process != os.getpid():  # forked: the file's position is shared with the parent
                self._readers, self._process = {}, os.getpid()
            reader = self._readers.pop(path, None)
            if reader is None:
                reader = ArrayRecordReader(path, options=_READ, file_reader_buffer_size=_BUFFER)
            self._readers[path] = reader
            if len(self._readers) > _OPEN_SHARDS:
                self._readers.pop(next(iter(self._readers)))
        return reader.read([record])[0]


_SHARDS = _Shards()


def read_bytes(path: str | os.PathLike, record: int, name: str = "") -> bytes:
    """A record of an ArrayRecord shard, as it is.

    Raises:
      BadVideo: it cannot be read.
    """
    path = os.fspath(path)
    name = name or f"{path}::{record}"
    try:
        return _SHARDS.read(path, record)
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        if not os.path.exists(path):
            raise BadVideo(name, f"no such file: {path}") from error
        why = str(error).partition(";")[0]
        raise BadVideo(name, f"record {record} of {path} cannot be read ({why})") from error


def read_record(path: str | os.PathLike, record: int, name: str = "") -> Record:
    """A record of a shard, checked against its checksum.

    Raises:
      BadVideo: it cannot be read, or is not what was written.
    """
    name = name or f"{os.fspath(path)}::{record}"
    return unpack(read_bytes(path, record, name), name)


def shard_name(number: int, count: int) -> str:
    """The file name of a shard."""
    return f"videos-{number:05d}-of-{count:05d}{SUFFIX}"

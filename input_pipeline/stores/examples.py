"""Records of ArrayRecord shards that others wrote: a media file each, or a `tf.train.Example` with one in a feature.

Examples are read by a parser of their own: the message is three levels deep, and TensorFlow stays out.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.decode import BadVideo, Video
from input_pipeline.frames import StoredFrames
from input_pipeline.records import read_bytes
from vfm.errors import UserError

Fields = dict[str, list[Any]]  # feature -> its values: memoryviews, numbers
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types of protocol buffers
_NAMES = {
    "video": re.compile(r"(^|[/_])(video|mp4|clip)s?($|[/_])", re.IGNORECASE),
    "image": re.compile(r"(^|[/_])(image|img|jpe?g|png)s?($|[/_])", re.IGNORECASE),
}


def parse_example(record: bytes) -> Fields:
    """The features of a serialised `tf.train.Example`.

    Raises:
      ValueError: it is none.
    """
    fields: Fields = {}
    for features in _fields(memoryview(record), 1):
        for entry in _fields(features, 1):
            key, values = "", []
            for number, part in _parts(entry):
                if number == 1:
                    key = str(part, "utf-8")
                elif number == 2:
                    values = [value for kind, some in _parts(part) for value in _values(kind, some)]
            fields[key] = values
    if not fields:
        raise ValueError("has no features")
    return fields


def _values(kind: int, data: memoryview) -> list[Any]:
    """Of a list of bytes (1), of floats (2) or of integers (3)."""
    found: list[Any] = []
    for number, part in _parts(data, packed=kind != 1):
        if number != 1:
            raise ValueError("no list of values")
        if kind == 1:
            found.append(part)
        elif kind == 2:
            if len(part) % 4:
                raise ValueError("has a piece of a float")
            found += struct.unpack(f"<{len(part) // 4}f", part)
        else:
            at = 0
            while at < len(part):
                value, at = _varint(part, at)
                found.append(value - 2**64 if value >= 2**63 else value)
    return found


def _fields(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, part in _parts(data):
        if number != wanted:
            raise ValueError("no tf.train.Example")
        yield part


def _parts(data: memoryview, packed: bool = False) -> Iterator[tuple[int, memoryview]]:
    """(field, content) of a message; numbers that are not packed as the bytes that they take, where `packed`."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        start, kind = at, tag & 7
        if kind == _BYTES:
            size, start = _varint(data, at)
            at = start + size
        elif kind == _VARINT and packed:
            _, at = _varint(data, at)
        elif kind in (_FOUR, _EIGHT) and packed:
            at += 4 if kind == _FOUR else 8
        else:
            raise ValueError(f"wire type {kind} is not of a tf.train.Example")
        if at > len(data):
            raise ValueError("ends early")
        yield tag >> 3, data[start:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("ends early")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7


def is_example(record: bytes) -> bool:
    try:
        parse_example(record)
    except ValueError:
        return False
    return True


def media_feature(fields: Fields, medium: str, where: str) -> str:
    """The feature that holds the video of an example: the one that is called so, or the only one that is no text.

    Raises:
      UserError: that is not clear.
    """
    held = [name for name, values in fields.items() if values and isinstance(values[0], memoryview)]
    binary = [name for name in held if not _is_text(fields[name][0])]
    named = [name for name in binary if _NAMES[medium].search(name)]
    for some in (named, binary):
        if len(some) == 1:
            return some[0]
    raise UserError(
        f"{where}: which feature holds the {medium}s? Say so by media=NAME; features of bytes are "
        f"{', '.join(held) or 'none'}, of {', '.join(fields)}"
    )


def _is_text(value: memoryview) -> bool:
    try:
        return "\0" not in str(value, "utf-8")
    except UnicodeDecodeError:
        return False


def describe(fields: Fields, without: str) -> dict[str, Any]:
    """What an example says besides its video, as JSON holds it: numbers, texts and lists of texts."""
    found = {}
    for name, values in fields.items():
        if name == without or not values:
            continue
        if isinstance(values[0], memoryview):
            if all(_is_text(value) for value in values):
                texts = [str(value, "utf-8") for value in values]
                found[name] = texts if len(texts) > 1 else texts[0]
        elif len(values) == 1:
            found[name] = values[0]
    return found


def columns_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column -> the value of each entry, None where it has none."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: [entry.get(name) for entry in entries] for name in names}


class RecordMedia:
    """Videos that are records.

    Args:
      shards: local files.
      stamps: of the shards.
      names: of the samples.
      rows: (shard, record) of each sample.
      feature: of the examples, which holds the video; "" = the record is the video.
      bad: index -> reason, of samples that cannot be read.
      fps: of videos stored as frames; 0 = not known.
    """

    def __init__(
        self,
        shards: Sequence[str],
        stamps: Sequence[str],
        names: Sequence[str],
        rows: np.ndarray,
        feature: str = "",
        bad: Mapping[int, str] | None = None,
        fps: float = 0.0,
    ):
        self._shards, self._stamps, self._names, self._rows = shards, stamps, names, rows
        self._feature, self._bad, self._fps = feature, bad or {}, fps

    def __len__(self) -> int:
        return len(self._names)

    def open(self, index: int) -> Video | StoredFrames:
        name = self._names[index]
        if index in self._bad:
            raise BadVideo(name, self._bad[index])
        shard, row = (int(value) for value in self._rows[index])
        record = read_bytes(self._shards[shard], row, name)
        if not self._feature:
            return Video(record, name)
        try:
            values = parse_example(record).get(self._feature, [])
        except ValueError as error:
            raise BadVideo(name, f"is no tf.train.Example ({error})") from error
        if not values or not isinstance(values[0], memoryview):
            raise BadVideo(name, f"the feature '{self._feature}' is empty there")
        if len(values) == 1:
            return Video(bytes(values[0]), name)
        return StoredFrames(name, lambda place: bytes(values[place]), len(values), self._fps)

    def missing(self, indices: Iterable[int]) -> dict[int, str]:
        return {i: self._bad[i] for i in indices if i in self._bad}

    def name(self, index: int) -> str:
        return self._names[index]

    def stamp(self, index: int) -> str:
        return self._stamps[self._rows[index][0]]

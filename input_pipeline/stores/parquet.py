"""Parquet files with videos (or images) in them, as Hugging Face data sets are stored.

The videos are a column of bytes, or of {bytes, path} where the bytes may be missing and the path (relative to the file)
counts; or lists of such, which are frames. Columns of integers whose class names the file knows are labels, as is
`label`; texts are captions and words.

A row is read with its row group, because Parquet keeps columns of a row group in one piece: files with a few videos in
each row group are read fast, others slowly (a warning says so).
"""

import functools
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline import storage
from input_pipeline.decode import BadVideo, Video
from input_pipeline.formats.base import Table
from input_pipeline.frames import StoredFrames
from input_pipeline.media import open_part
from input_pipeline.stores.base import Request, detect_shards, ends_with, shards, tabulate
from vfm.errors import UserError

# `media`: the column of videos, where it is not clear; `label`: label columns; `labels`: class names; `split`: of files
# called split-00000-of-00004.parquet or split/...; `fps`: of videos stored as frames.
OPTIONS = {"media": "", "label": "label", "labels": "", "split": "", "fps": 0.0}
_NAMES = {"video": ("video", "mp4", "clip", "bytes"), "image": ("image", "img", "jpg", "png", "bytes")}
_KEPT = 2**28  # bytes of row groups that were read last, in one process
_LARGE = 2**26  # bytes of a row group that are worth a warning
_is_parquet = ends_with(r"\.parquet|\.pq")

log = logging.getLogger(__name__)


def detect(path: str) -> bool:
    return detect_shards(path, _is_parquet) or detect_shards(f"{path.rstrip('/')}/data", _is_parquet)


def read(request: Request) -> tuple[Table, "ParquetMedia"]:
    files = shards(request, _is_parquet, "Parquet files", deep=True)
    if split := str(request.options["split"]):
        chosen = [file for file in files if _is_of(file, split)]
        if not chosen:
            names = ", ".join(sorted({os.path.basename(file) for file in files})[:5])
            raise UserError(
                f"{request.key}='{request.path}': no file is of split='{split}'; there are: {names}"
            )
        files = chosen
    first = _open(files[0], request)
    column = _media_column(request, first.schema_arrow)
    plain = [
        field.name
        for field in first.schema_arrow
        if field.name != column and (_holds_texts(field.type) or not _is_nested(field.type))
    ]
    columns: dict[str, list] = {name: [] for name in plain}
    rows = []
    for number, file in enumerate(files):
        opened = first if number == 0 else _open(file, request)
        if (there := set(opened.schema_arrow.names)) < {column, *plain}:
            lacks = ", ".join(sorted({column, *plain} - there))
            raise UserError(
                f"{file}: lacks the column {lacks}, which {files[0]} has; expected shards of one set"
            )
        table = opened.read(columns=plain)
        for name in plain:
            columns[name] += table[name].to_pylist()
        start = 0
        for group in range(opened.metadata.num_row_groups):
            count = opened.metadata.row_group(group).num_rows
            rows += [(number, group, row, start + row) for row in range(count)]
            start += count
        if number == 0:
            _warn_of_large(file, opened, column)
    if not rows:
        raise UserError(f"{request.key}='{request.path}': has no rows")
    names = [f"{files[number]}::row {row}" for number, _, _, row in rows]
    fps = float(request.options["fps"])
    media = ParquetMedia(files, [storage.stamp(file) for file in files], column, np.array(rows), fps)
    return tabulate(request, names, columns, class_names=_class_names(first.schema_arrow)), media


class ParquetMedia:
    """Videos that are cells of Parquet files.

    Args:
      files: local or remote.
      stamps: of the files.
      column: of the videos.
      rows: (file, row group, row in it, row in the file) of each sample.
      fps: of videos that are stored as frames.
    """

    def __init__(
        self, files: Sequence[str], stamps: Sequence[str], column: str, rows: np.ndarray, fps: float = 0.0
    ):
        self._files, self._stamps, self._column, self._rows, self._fps = files, stamps, column, rows, fps

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, index: int) -> Video | StoredFrames:
        file, group, row, _ = (int(value) for value in self._rows[index])
        name, path = self.name(index), self._files[file]
        try:
            value = _GROUPS.get(path, self._stamps[file], self._column, group)[row].as_py()
        except FileNotFoundError as error:
            raise BadVideo(name, f"no such file: {path}") from error
        except Exception as error:  # Arrow has errors of its own for damaged files
            raise BadVideo(name, f"cannot be read ({str(error).splitlines()[0]})") from error
        if isinstance(value, list):
            return StoredFrames(name, lambda place: self._content(value[place], path), len(value), self._fps)
        if value is None:
            raise BadVideo(name, f"the column '{self._column}' is empty there")
        found = self._content(value, path)
        return open_part(name, found) if isinstance(found, str) else Video(found, name)

    def _content(self, value: Any, path: str) -> bytes | str:
        """The bytes of a cell, or the file that it names."""
        if isinstance(value, Mapping):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path") or b""
        return storage.join(os.path.dirname(path), value) if isinstance(value, str) else value

    def missing(self, indices: Iterable[int]) -> dict[int, str]:
        return {}

    def name(self, index: int) -> str:
        file, _, _, row = self._rows[index]
        return f"{self._files[file]}::row {row}"

    def stamp(self, index: int) -> str:
        return self._stamps[self._rows[index][0]]


class _Groups:
    """Columns of row groups, the last ones kept; safe in threads, never pickled."""

    def __init__(self):
        self._kept: OrderedDict[tuple, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str, stamp: str, column: str, group: int) -> Any:
        key = (path, stamp, column, group)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        import pyarrow.parquet

        with storage.open_binary(path) as file:
            opened = pyarrow.parquet.ParquetFile(file, metadata=_metadata(path, stamp), pre_buffer=False)
            values = opened.read_row_group(group, columns=[column], use_threads=False)[column]
        with self._lock:
            self._kept[key] = values
            while self._kept and sum(kept.nbytes for kept in self._kept.values()) > _KEPT:
                self._kept.popitem(last=False)
        return values


_GROUPS = _Groups()


@functools.lru_cache(maxsize=1024)
def _metadata(path: str, stamp: str) -> Any:
    import pyarrow.parquet

    with storage.open_binary(path) as file:
        return pyarrow.parquet.read_metadata(file)


def _open(file: str, request: Request) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(storage.open_binary(file))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{request.key}='{request.path}': {file} is no readable Parquet file ({str(error).splitlines()[0]}); "
            f"mend it or leave it out"
        ) from error


def _is_of(file: str, split: str) -> bool:
    name = os.path.basename(file)
    return name.startswith((f"{split}-", f"{split}.")) or os.path.basename(os.path.dirname(file)) == split


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(
            kind.field(i).name == "bytes" and _is_bytes(kind.field(i).type) for i in range(kind.num_fields)
        )
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_nested(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_nested(kind) or _is_bytes(kind)


def _holds_texts(kind: Any) -> bool:
    import pyarrow.types as types

    return _is_list(kind) and (types.is_string(kind.value_type) or types.is_large_string(kind.value_type))


def _media_column(request: Request, schema: Any) -> str:
    """The column of videos: the one that is named, the one that the data set calls so, or the only one of bytes."""
    wanted = str(request.options["media"])
    if wanted and wanted not in schema.names:
        raise UserError(
            f"{request.key}='{request.path}': has no column '{wanted}' (media=); it has {', '.join(schema.names)}"
        )
    if wanted:
        return wanted
    kind = request.medium.capitalize()
    typed = [name for name, feature in _features(schema).items() if feature.get("_type") == kind]
    held = [
        f.name for f in schema if _is_bytes(f.type) or (_is_list(f.type) and _is_bytes(f.type.value_type))
    ]
    named = [name for name in _NAMES[request.medium] if name in held]
    for some in (typed, held if len(held) == 1 else [], named[:1]):
        if len(some) == 1:
            return some[0]
    raise UserError(
        f"{request.key}='{request.path}': which column holds the {request.medium}s? Say so by media=NAME; columns of "
        f"bytes are {', '.join(held) or 'none'}, of {', '.join(schema.names)}"
    )


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What a Hugging Face data set says about its columns."""
    try:
        text = (schema.metadata or {})[b"huggingface"]
        found = json.loads(text)["info"]["features"]
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_names(schema: Any) -> dict[str, list[str]]:
    return {
        name: [str(one) for one in feature["names"]]
        for name, feature in _features(schema).items()
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def _warn_of_large(file: str, opened: Any, column: str) -> None:
    group = opened.metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    size = sum(c.total_compressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)
    if group.num_rows > 1 and size > _LARGE:
        log.warning(
            "%s: its row groups hold %d videos and %.0f MB, all of which are read for each video; shards made by "
            "`python -m scripts.prepare_data` are read faster",
            file,
            group.num_rows,
            size / 1e6,
        )

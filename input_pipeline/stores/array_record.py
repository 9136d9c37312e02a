"""ArrayRecord shards of any origin: each record is a media file, or a `tf.train.Example` with one among its features.

Other features are columns: texts and numbers. They are read once for each shard and kept. A shard that has no records
(it was cut off, or is no ArrayRecord) is a sample that cannot be read: counted and named. Remote shards are copied into
the user's cache folder first, because the reader takes local files only.
"""

from typing import Any

import numpy as np

from input_pipeline import storage
from input_pipeline.formats.base import Table
from input_pipeline.records import read_bytes
from input_pipeline.stores.base import Request, detect_shards, ends_with, shards, tabulate
from input_pipeline.stores.examples import (
    RecordMedia,
    columns_of,
    describe,
    is_example,
    media_feature,
    parse_example,
)
from input_pipeline.stores.index import read_shards
from vfm.errors import UserError

# `media`: the feature of videos, where it is not clear; `label`: label columns; `labels`: class names; `fps`: of videos
# stored as frames.
OPTIONS = {"media": "", "label": "label", "labels": "", "fps": 0.0}
is_shard = ends_with(r"\.array_?record(-\d+-of-\d+)?")


def detect(path: str) -> bool:
    return detect_shards(path, is_shard)


def read(request: Request) -> tuple[Table, RecordMedia]:
    given = shards(request, is_shard, "ArrayRecord shards")
    files = [storage.local_copy(file) for file in given]
    counts = [count_records(file) for file in files]
    filled = [file for file, count in zip(files, counts, strict=True) if count]
    if not filled:
        raise UserError(
            f"{request.key}='{request.path}': has no records, e.g. {given[0]}: {NOTHING}; expected ArrayRecord shards"
        )
    first = read_bytes(filled[0], 0)
    feature = ""
    if is_example(first):
        feature = str(request.options["media"]) or media_feature(
            parse_example(first), request.medium, f"{request.key}='{request.path}'"
        )
    found = read_fields(files, feature)
    names, rows, bad, entries = [], [], {}, []
    for number, (file, count, (_, some)) in enumerate(zip(given, counts, found, strict=True)):
        if not count:
            bad[len(names)] = NOTHING
            entries.append({})
        names += [f"{file}::record {i}" for i in range(count)] or [file]
        rows += [(number, i) for i in range(max(count, 1))]
        entries += some
    stamps = [stamp for stamp, _ in found]
    media = RecordMedia(files, stamps, names, np.array(rows), feature, bad, float(request.options["fps"]))
    return tabulate(request, names, columns_of(entries), bad), media


NOTHING = "no record of this shard can be read (it is cut off, empty, or no ArrayRecord)"


def count_records(file: str) -> int:
    """How many records a local shard has, 0 where it is damaged."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(file)
        count = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError, OSError):
        return 0
    return count


def read_fields(files: list[str], feature: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """(stamp, the other fields of each record) of local shards; `feature` "" = records have no fields."""

    def make(file: str) -> list[dict[str, Any]]:
        if not feature:
            return [{} for _ in range(count_records(file))]
        return [_described(file, i, feature) for i in range(count_records(file))]

    return read_shards(files, f"array_record 1 {feature}", make)


def _described(file: str, record: int, feature: str) -> dict[str, Any]:
    try:
        return describe(parse_example(read_bytes(file, record)), feature)
    except ValueError:  # damaged: opening it says why
        return {}

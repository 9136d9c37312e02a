"""EPIC-Kitchens-100: EPIC_100_{train,validation}.csv and EPIC_100_retrieval_{train,test}.csv.

A sample for each narrated action, from start_timestamp to stop_timestamp; `narration` is its caption, `verb` (97
classes) and `noun` (300) its labels, `participant_id` the column to split people by. EPIC_100_verb_classes.csv and
EPIC_100_noun_classes.csv beside the file name the classes. Test sets have no classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from input_pipeline.formats.base import Document, Table, fill, seconds
from input_pipeline.labels import class_numbers

OPTIONS = {"template": "{participant_id}/videos/{video_id}.MP4"}
_TIMES = ("start_timestamp", "stop_timestamp")


def detect(document: Document) -> bool:
    return document.has_columns("participant_id", "video_id", *_TIMES)


def read(document: Document, options: Mapping[str, Any]) -> Table:
    lines, columns = document.rows()
    paths, spans = [], []
    for line, *cells in zip(lines, *columns.values(), strict=True):
        where, row = f"{document} line {line}", dict(zip(columns, cells, strict=True))
        paths.append(fill(options["template"], row, where))
        spans.append([seconds(row[name], where) for name in _TIMES])
    table = Table(paths, lines, spans=np.array(spans))
    table.captions = [(text,) for text in columns.get("narration", ())]
    names = ("participant_id", "video_id", "narration_id", "verb", "noun")
    table.words = {name: columns[name] for name in names if name in columns}
    for name in ("verb", "noun"):
        if (column := f"{name}_class") in columns:
            classes = document.classes({}, name, f"EPIC_100_{name}_classes.csv")
            table.labels[name] = class_numbers(document.path, lines, column, columns[column], classes)
            if classes:
                table.label_names[name] = classes.names
    return table

"""CSV or TSV with a header: `path` is required, or a `template` such as "{video_id}.mp4" that makes it of others.

Columns of integers are label columns; `caption` is text (or several texts, as a JSON list; rows that repeat a path are
samples of their own); `start_time` and `end_time` in seconds show a part of the file. A `classes.json` beside the file
({"column": [names]}) names classes, bounds them, and lets a column hold names; without one, the words of a column
`label` are its classes in sorted order. The option `label` names the label columns instead (with commas between).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from input_pipeline.formats.base import Document, Table, caption_list, check_column, fill, seconds
from input_pipeline.labels import Classes, are_words, column_classes, label_columns
from vfm.errors import UserError

OPTIONS = {"template": "", "column": "caption", "label": "", "labels": "", "split": ""}
_TIMES = ("start_time", "end_time")


def detect(document: Document) -> bool:
    return document.has_columns("path")


def read(document: Document, options: Mapping[str, Any]) -> Table:
    numbers, columns = document.rows()
    if options["split"]:
        numbers, columns = only_split(document, numbers, columns, options["split"])
    if options["template"]:
        columns["path"] = [
            fill(options["template"], dict(zip(columns, cells, strict=True)), f"{document} line {number}")
            for number, *cells in zip(numbers, *columns.values(), strict=True)
        ]
    for number, path in zip(numbers, columns["path"], strict=True):
        if not path:
            raise UserError(f"{document} line {number}: 'path' is empty; expected a video file")
    spans = _spans(document, numbers, *(columns.pop(name) for name in _TIMES)) if _timed(columns) else None
    column = options["column"]
    check_column(column, columns, str(document))
    if column not in columns and column == "caption":
        column = "captions"
    captions = [caption_list(cell) for cell in columns.get(column, ())]
    table = of_columns(document, options, columns, numbers)
    table.captions, table.spans = captions, spans
    return table


def of_columns(
    document: Document, options: Mapping[str, Any], columns: dict[str, list[str]], numbers: list[int]
) -> Table:
    """A table of columns of text, one of which is `path`; captions apart."""
    known = column_classes(document.path.parent / "classes.json")
    if options["labels"] and (classes := document.classes(options)):
        known["label"] = classes
    meant = columns
    if options["label"]:
        named = [name.strip() for name in options["label"].split(",")]
        if absent := [name for name in named if name not in columns]:
            raise UserError(f"{document}: label='{absent[0]}': no such column; it has: {', '.join(columns)}")
        meant = {name: columns[name] for name in named}
        known |= {
            name: Classes(sorted(set(values)))
            for name, values in meant.items()
            if name not in known and are_words(values)
        }
    labels, names = label_columns(document.path, numbers, meant, known)
    words = {
        name: values
        for name, values in columns.items()
        if name != "path" and not all(value.isdecimal() for value in values)
    }
    return Table(columns["path"], numbers, labels=labels, label_names=names, words=words)


def only_split(
    document: Document, numbers: list[int], columns: dict[str, list[str]], split: str
) -> tuple[list[int], dict[str, list[str]]]:
    """The rows whose column `split` says so."""
    found = columns.get("split", [])
    keep = [i for i, value in enumerate(found) if value == split]
    if not keep:
        there = ", ".join(sorted(set(found))) or "there is no column 'split'"
        raise UserError(f"{document}: no row has split='{split}'; it has: {there}")
    chosen = {name: [values[i] for i in keep] for name, values in columns.items()}
    return [numbers[i] for i in keep], chosen


def _timed(columns: Mapping[str, Any]) -> bool:
    return set(_TIMES) <= columns.keys()


def _spans(document: Document, numbers: list[int], starts: list[str], ends: list[str]) -> np.ndarray | None:
    spans = np.full((len(numbers), 2), np.nan)
    for i, (number, start, end) in enumerate(zip(numbers, starts, ends, strict=True)):
        if not start and not end:
            continue
        where = f"{document} line {number}"
        spans[i] = seconds(start or 0, where), seconds(end, where) if end else np.inf
        if spans[i, 0] >= spans[i, 1]:
            raise UserError(
                f"{where}: start_time {start} and end_time {end}; expected start < end, in seconds"
            )
    return spans if np.isfinite(spans).any() else None

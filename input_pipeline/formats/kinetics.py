"""Kinetics (400, 600, 700) as published, and its few-shot lists.

CSV `label,youtube_id,time_start,time_end,split[,is_cc]` (test sets lack the label), JSON
{youtube_id: {"annotations": {"label", "segment"}, "subset"}}, or a JSON list of {"file", "label", "label_idx"}.
Classes are numbered in sorted order of their names, as everywhere, unless `labels` names a file: lists of other code
bases number them otherwise.

The default template is the name that the usual downloads give the trimmed clips; it may also use {label} and {split}.
A template without times means whole videos, of which the part from time_start to time_end is shown; `trimmed=True`
says that the files are cut all the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from input_pipeline.formats.base import Document, Table, each, fields_of, fill, seconds, short, text_of
from input_pipeline.formats.table import only_split
from input_pipeline.labels import Classes, class_numbers, is_class
from vfm.errors import UserError

OPTIONS = {
    "template": "{youtube_id}_{time_start:06d}_{time_end:06d}.mp4",
    "split": "",
    "labels": "",
    "trimmed": False,
}
_TIMES = {"time_start", "time_end"}


def detect(document: Document) -> bool:
    if document.is_json:
        return document.first_has("file", "label_idx") or _is_official(document)
    return document.has_columns("youtube_id", *_TIMES)


def read(document: Document, options: Mapping[str, Any]) -> Table:
    if document.is_json and not _is_official(document):
        return _few_shot(document, options)
    if document.is_json:
        columns = _columns(_official(document))
        numbers = list(range(1, len(columns["youtube_id"]) + 1))
    else:
        numbers, columns = document.rows()
    names = sorted(set(columns.get("label", ())) - {""})  # of all splits
    if options["split"]:
        numbers, columns = only_split(document, numbers, columns, options["split"])
    paths, spans = [], []
    for number, *cells in zip(numbers, *columns.values(), strict=True):
        where, row = f"{document} line {number}", dict(zip(columns, cells, strict=True))
        spans.append([seconds(row[name], where) for name in ("time_start", "time_end")])
        times = {"time_start": int(spans[-1][0]), "time_end": int(spans[-1][1])}
        paths.append(fill(options["template"], row | times, where))
    whole = not options["trimmed"] and not _TIMES & fields_of(options["template"])
    table = Table(paths, numbers, unit=document.unit, spans=np.array(spans) if whole else None)
    if names:
        classes = document.classes(options) or Classes(names)
        values = columns["label"]
        table.labels["label"] = class_numbers(document.path, numbers, "label", values, classes)
        table.label_names["label"] = classes.names
    table.words = {name: columns[name] for name in ("label", "youtube_id", "split") if name in columns}
    return table


def _is_official(document: Document) -> bool:
    return document.values_have("annotations", "subset") and isinstance(
        next(iter(document.json.values()))["annotations"], dict
    )


def _official(document: Document) -> Iterator[dict[str, str]]:
    for youtube_id, entry in document.entries.items():
        try:
            start, end = entry["annotations"]["segment"]
            label, split = entry["annotations"].get("label", ""), entry["subset"]
            if not isinstance(label, str) or not isinstance(split, str):
                raise TypeError("label and subset are texts")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{document} '{youtube_id}': {short(entry)}; expected annotations with a segment, and a subset"
            ) from error
        yield dict(youtube_id=youtube_id, label=label, split=split, time_start=str(start), time_end=str(end))


def _columns(rows: Iterator[dict[str, str]]) -> dict[str, list[str]]:
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _few_shot(document: Document, options: Mapping[str, Any]) -> Table:
    table, lines, labels, names = Table([], unit=document.unit), [], [], {}
    for number, entry, where in each(document):
        path = text_of(entry, "file", where)
        if options["template"] != OPTIONS["template"]:
            path = fill(options["template"], entry, where)
        table.paths.append(path)
        label, name = entry.get("label_idx"), text_of(entry, "label", where)
        if not is_class(label) or names.setdefault(label, name) != name:
            raise UserError(
                f"{where}: label_idx is {short(label)} for '{name}'; expected one number for each class"
            )
        labels.append(label)
        lines.append(number)
    table.lines = lines
    table.labels["label"] = np.array(labels, np.int32)
    classes = document.classes(options)
    table.label_names["label"] = (
        classes.names if classes else [names.get(i, "") for i in range(max(names) + 1)]
    )
    return table

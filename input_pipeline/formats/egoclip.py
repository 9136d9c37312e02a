"""EgoClip: a tab-separated table of narrated moments of Ego4D, with its verb and noun classes.

Columns: video_uid, clip_start, clip_end (seconds), clip_text, tag_verb and tag_noun (lists of class numbers: 118 verbs
and 582 nouns), and others. A sample for each row; `verb` and `noun` are columns of several classes.

`chunk_seconds` is for copies of Ego4D that are cut into pieces of that length; the template then has {chunk} (from 0)
and {chunk_start} (seconds): "{video_uid}/{chunk}.mp4" with 600 (EgoVLP), "{video_uid}.mp4/{chunk_start}.mp4" with 300
(LaViLa). A moment belongs to the piece that it starts in.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from input_pipeline.formats.base import Document, Table, fill, seconds
from input_pipeline.labels import multi_label
from vfm.errors import UserError

OPTIONS = {"template": "{video_uid}.mp4", "chunk_seconds": 0.0}
_TAGS = {"verb": 118, "noun": 582}  # Lin et al. 2022, arXiv:2206.01670


def detect(document: Document) -> bool:
    return document.has_columns("video_uid", "clip_start", "clip_end", "clip_text")


def read(document: Document, options: Mapping[str, Any]) -> Table:
    lines, columns = document.rows()
    chunk = options["chunk_seconds"]
    spans, paths = np.zeros((len(lines), 2)), []
    for i, line in enumerate(lines):
        where = f"{document} line {line}"
        start, end = (seconds(columns[name][i], where) for name in ("clip_start", "clip_end"))
        piece = int(start // chunk) if chunk else 0
        fields = {"video_uid": columns["video_uid"][i], "chunk": piece, "chunk_start": int(piece * chunk)}
        paths.append(fill(options["template"], fields, where))
        spans[i] = start - piece * chunk, max(end, start) - piece * chunk
    table = Table(paths, lines, spans=spans, captions=[(text,) for text in columns["clip_text"]])
    table.words["video_uid"] = columns["video_uid"]
    for name, count in _TAGS.items():
        if (column := f"tag_{name}") in columns:
            tags = [_numbers(document, line, cell) for line, cell in zip(lines, columns[column], strict=True)]
            table.labels[name] = multi_label(document.path, lines, column, tags, [""] * count)
    return table


def _numbers(document: Document, line: int, cell: str) -> tuple[int, ...]:
    try:
        found = json.loads(cell) if cell else []
        return tuple(int(number) for number in found)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{document} line {line}: '{cell[:60]}'; expected a list of class numbers") from error

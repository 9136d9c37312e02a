"""DiDeMo: a JSON list of {"video", "description", "times": [[first, last], ...]} in chunks of 5 seconds.

`paragraphs=True` (as retrieval is measured): a sample for each video, whose caption is all its descriptions in their
order, shown for its first `seconds` (30; 0 = all of it). `paragraphs=False`: a sample for each description, shown
where most annotators saw it (of equally many, the first).
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from input_pipeline.formats.base import Document, Table, each, fill, short, text_of
from vfm.errors import UserError

OPTIONS = {"template": "{video}", "paragraphs": True, "seconds": 30.0}
_CHUNK = 5.0  # seconds


def detect(document: Document) -> bool:
    return document.first_has("video", "description", "times")


def read(document: Document, options: Mapping[str, Any]) -> Table:
    table, lines, spans = Table([], unit=document.unit, captions=[]), [], []
    place: dict[str, int] = {}
    for number, entry, where in each(document):
        path = fill(options["template"], {"video": text_of(entry, "video", where)}, where)
        description = text_of(entry, "description", where)
        if options["paragraphs"] and path in place:
            table.captions[place[path]] = (f"{table.captions[place[path]][0]} {description}",)
            continue
        place[path] = len(table.paths)
        table.paths.append(path)
        table.captions.append((description,))
        lines.append(number)
        if not options["paragraphs"]:
            spans.append(_moment(entry, where))
        elif options["seconds"]:
            spans.append((0.0, options["seconds"]))
    table.lines, table.spans = lines, np.array(spans) if spans else None
    return table


def _moment(entry: Mapping[str, Any], where: str) -> tuple[float, float]:
    try:
        (first, last), _ = collections.Counter(map(tuple, entry["times"])).most_common(1)[0]
        if not 0 <= first <= last:
            raise ValueError
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: times is {short(entry.get('times'))}; expected [[first, last], ...]"
        ) from error
    return first * _CHUNK, (last + 1) * _CHUNK

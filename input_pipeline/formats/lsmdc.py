"""LSMDC: lines of clip, start and end (aligned), start and end (extracted) and sentence, between tabs.

The default template is the published layout: `1004_Juno/1004_Juno_00.00.32.107-00.00.33.578.avi`.
"""

import re
from collections.abc import Mapping
from typing import Any

from input_pipeline.formats.base import Document, Table, fill
from vfm.errors import UserError

OPTIONS = {"template": "{movie}/{id}.avi"}
_CLIP = re.compile(r"^(.+)_\d\d\.\d\d\.\d\d\.\d+-\d\d\.\d\d\.\d\d\.\d+$")


def detect(document: Document) -> bool:
    return document.is_text and bool(_cells(document.lines[0][1]))


def read(document: Document, options: Mapping[str, Any]) -> Table:
    table, lines = Table([], captions=[], words={"movie": []}), []
    for number, line in document.lines:
        found = _cells(line)
        where = f"{document} line {number}"
        if not found:
            raise UserError(f"{where}: '{line[:60]}'; expected clip, four times and a sentence between tabs")
        movie, clip, sentence = found
        table.paths.append(fill(options["template"], {"movie": movie, "id": clip}, where))
        table.captions.append((sentence,))
        table.words["movie"].append(movie)
        lines.append(number)
    table.lines = lines
    return table


def _cells(line: str) -> tuple[str, str, str] | None:
    """Movie, clip and sentence of a line."""
    cells = line.split("\t")
    match = _CLIP.match(cells[0].strip())
    return (match[1], cells[0].strip(), cells[5].strip()) if match and len(cells) >= 6 else None

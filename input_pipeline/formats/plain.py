"""Lists without a header: `path label` (VideoMAE), `path,label` (SlowFast), `path<tab>label`, or paths alone.

The last separator counts, so that paths may contain spaces. Where videos are listed by ids, `template` makes files of
them. Labels are numbers or, where the classes are known (`labels`, or a `classes.json` beside the file), names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipeline.formats.base import Document, Table, fill
from input_pipeline.labels import INTEGER, Classes, class_numbers
from input_pipeline.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vfm.errors import UserError

OPTIONS = {"template": "{id}", "labels": ""}
_EITHER = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_BOXES = re.compile(
    r"^[^,\s]+,\d+(?:\.\d+)?(?:,[01]\.\d+){4},"
)  # of AVA: clip, second, x1, y1, x2, y2, action
_LABELLED = re.compile(r"^(.*?[^\s,])\s*[\s,]\s*([^\s,]+)$")


def detect(document: Document) -> bool:
    return False  # what is left when nothing else fits


def read(document: Document, options: Mapping[str, Any]) -> Table:
    lines = document.lines
    if _looks_like_header(document.header):
        raise UserError(
            f"{document} line {lines[0][0]}: the header has the columns {', '.join(document.header)} but no 'path'; "
            f"rename the column that holds the files to 'path', or name them by template='{{column}}.mp4'"
        )
    if _BOXES.match(lines[0][1]):
        raise UserError(
            f"{document}: lists boxes of people in frames, as AVA does; a source has one row of labels for each clip"
        )
    bare = all(Path(line.strip()).suffix.lower() in _EITHER for _, line in lines)
    paths, values = [], []
    for number, line in lines:
        match = None if bare else _LABELLED.match(line.strip())
        if not bare and not match:
            raise UserError(
                f"{document} line {number}: '{line.strip()}' has no label; expected 'path label' or 'path,label' with "
                f"an integer label in every line, or paths alone in every line"
            )
        path = match[1].strip().strip('"') if match else line.strip()
        paths.append(fill(options["template"], {"id": path}, f"{document} line {number}"))
        values.append(match[2] if match else "")
    numbers = [number for number, _ in lines]
    if bare:
        return Table(paths, numbers)
    return labelled(document, paths, numbers, values, document.classes(options))


def labelled(
    document: Document, paths: list[str], numbers: list[int], values: list[str], classes: Classes | None
) -> Table:
    """A table of one label a path."""
    return Table(
        paths,
        numbers,
        labels={"label": class_numbers(document.path, numbers, "label", values, classes)},
        label_names={"label": classes.names} if classes else {},
    )


def _looks_like_header(cells: list[str]) -> bool:
    first = cells[0].lower()
    is_path = "/" in first or "\\" in first or Path(first).suffix in _EITHER
    return len(cells) > 1 and not is_path and not any(INTEGER.match(cell) for cell in cells)

"""UCF101's official splits: `trainlist01.txt` (`Class/v_Class_g08_c01.avi 1`, numbers from 1) and `testlist01.txt`.

The class is the folder; it is numbered by `classInd.txt` beside the lists or by the file of `labels`, from 0, so that
training and test lists agree. Without such a file a training list is numbered by itself and a test list has no labels.
The group of videos that a clip was cut from is the column `group`.
"""

import re
from collections.abc import Mapping
from typing import Any

from input_pipeline.formats.base import Document, Table
from input_pipeline.labels import Classes, class_numbers
from vfm.errors import UserError

OPTIONS = {"labels": ""}
_LINE = re.compile(r"^((\w+)/v_(\w+)_g(\d+)_c\d+\.\w+)(?:\s+(\d+))?$")


def detect(document: Document) -> bool:
    if not document.is_text:
        return False
    # Lists that number from 0 are of other code bases, and say all there is to know.
    return all((row := _LINE.match(line.strip())) and row[5] != "0" for _, line in document.lines)


def read(document: Document, options: Mapping[str, Any]) -> Table:
    rows, lines = [], []
    for number, text in document.lines:
        row = _LINE.match(text.strip())
        if not row or len(row[5] or "") > 6:
            raise UserError(
                f"{document} line {number}: '{text.strip()}'; expected 'Class/v_Class_g01_c01.avi'"
            )
        rows.append(row)
        lines.append(number)
    folders = [row[2] for row in rows]
    table = Table([row[1] for row in rows], lines, words={"label": folders, "group": [r[4] for r in rows]})
    classes = document.classes(options, "label", "classInd.txt") or _by_itself(document, rows, lines)
    if classes:
        table.labels["label"] = class_numbers(document.path, lines, "label", folders, classes)
        table.label_names["label"] = classes.names
        _check_numbers(document, rows, lines, classes)
    return table


def _by_itself(document: Document, rows: list[re.Match], lines: list[int]) -> Classes | None:
    """Classes as a training list numbers them."""
    if not all(row[5] for row in rows):
        return None
    numbers: dict[int, str] = {}
    for row, line in zip(rows, lines, strict=True):
        if numbers.setdefault(int(row[5]), row[2]) != row[2]:
            raise UserError(
                f"{document} line {line}: class {row[5]} is {numbers[int(row[5])]} and also {row[2]}"
            )
    return Classes([numbers.get(i, "") for i in range(1, max(numbers) + 1)], 1, document.path.name)


def _check_numbers(document: Document, rows: list[re.Match], lines: list[int], classes: Classes) -> None:
    for row, line in zip(rows, lines, strict=True):
        if row[5] and classes.names.index(row[2]) != int(row[5]) - 1:
            raise UserError(
                f"{document} line {line}: says {row[5]} for {row[2]}, {classes.source} says "
                f"{classes.names.index(row[2]) + 1}; give the labels=FILE that belongs to the list"
            )

"""Classes: their names, their numbers, and rows that have several of them.

K classes, n samples.
"""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from vfm.errors import UserError

MOST_CLASSES = 1_000_000  # of a column with several classes a sample
INTEGER = re.compile(r"^[+-]?\d{1,18}$")
NOT_LABELS = frozenset(
    "path clip caption captions video id mask text text_mask text_id text_loss image".split()
)
_ID_AND_NAME = re.compile(r"^c?(\d{1,18})[\s:,]+(\S.*)$")  # UCF101, AVA, Charades
_NAME_AND_ID = re.compile(r"^(.*\S)\t(\d{1,18})$")


class MultiLabel:
    """A label column whose samples have any number of classes; indexed, it gives rows of 0 and 1.

    Kept as class numbers, because millions of rows of hundreds of classes would not fit into memory.

    Attributes:
      classes: of each sample.
      count: K.
    """

    def __init__(self, classes: Sequence[Sequence[int]], count: int):
        self.classes, self.count = classes, count

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Int32[np.ndarray, "*n K"]:
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
        if np.ndim(index) == 0:
            return self[[int(index)]][0]
        rows = np.zeros((len(index), self.count), np.int32)
        for row, i in zip(rows, index, strict=True):
            row[list(self.classes[i])] = 1
        return rows

    def tolist(self) -> list[list[int]]:
        """The class numbers of every sample."""
        return [list(some) for some in self.classes]


Labels = Int32[np.ndarray, "n"] | MultiLabel


@dataclass(frozen=True)
class Classes:
    """Names of classes; class i is called `names[i]` and written as the number `first + i`."""

    names: list[str]
    first: int = 0
    source: str = "classes.json"  # the file they come from


def column_classes(file: Path) -> dict[str, Classes]:
    """{column: classes} of a `classes.json`; nothing where there is no such file."""
    if not file.is_file():
        return {}
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
        usable = all(isinstance(v, list) and all(isinstance(n, str) for n in v) for v in names.values())
    except (ValueError, AttributeError, RecursionError):
        usable = False
    if not usable:
        raise UserError(f'{file}: expected JSON such as {{"label": ["first class", "second class"]}}')
    return {column: Classes(list(some)) for column, some in names.items()}


def read_classes(file: Path) -> Classes:
    """Names of classes, as they are published with data sets.

    A name in each line (label maps of mmaction2); number and name, beginning at 0 or 1 (`1 ApplyEyeMakeup` of UCF101,
    `c000 Holding some clothes` of Charades, `1: bend/bow` of AVA); `name<tab>number`; CSV with the columns `id` and
    `name` (or `key`); JSON with a list of names or {name: number} (Something-Something).

    Raises:
      UserError: the file is none of these.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"labels='{file}': {error.strerror}; expected a file of class names") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    numbered = _numbered_names(file, text)
    if not numbered:
        raise UserError(f"{file}: is empty; expected the name of a class in each line")
    numbers = [number for number, _ in numbered]
    if len(set(numbers)) < len(numbers) or min(numbers) < 0 or max(numbers) >= MOST_CLASSES:
        raise UserError(f"{file}: the numbers of classes repeat or are impossible; expected each one once")
    first = 1 if min(numbers) == 1 else 0
    names = [""] * (max(numbers) + 1 - first)
    for number, name in numbered:
        names[number - first] = name
    return Classes(names, first, file.name)


def _numbered_names(file: Path, text: str) -> list[tuple[int, str]]:
    if file.suffix.lower() == ".json":
        try:
            found: Any = json.loads(text)
            if isinstance(found, dict) and len(found) == 1 and isinstance(next(iter(found.values())), list):
                found = next(iter(found.values()))
            if isinstance(found, dict):
                return [(int(number), str(name)) for name, number in found.items()]
            if isinstance(found, list) and all(isinstance(name, str) for name in found):
                return list(enumerate(found))
        except (ValueError, TypeError, RecursionError):
            pass
        raise UserError(f"{file}: expected JSON with a list of names, or {{name: number}}")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    header = [cell.strip().lower() for cell in lines[0].split(",")] if lines else []
    column = next((name for name in ("name", "key") if name in header), "")
    if "id" in header and column:
        rows = list(csv.DictReader(lines, [*header], restval=""))[1:]
        if not all(re.fullmatch(r"\d{1,18}", row["id"].strip()) for row in rows):
            raise UserError(f"{file}: the column 'id' holds what is no number; expected class numbers")
        return [(int(row["id"]), row[column].strip()) for row in rows]
    for pattern, number, name in ((_ID_AND_NAME, 1, 2), (_NAME_AND_ID, 2, 1)):
        matches = [pattern.match(line) for line in lines]
        if lines and all(matches):
            return [(int(match[number]), match[name].strip()) for match in matches]
    return list(enumerate(lines))


def class_numbers(
    file: Path, lines: Sequence[int], column: str, values: Sequence[str], classes: Classes | None
) -> Int32[np.ndarray, "n"]:
    """Class numbers (from 0) of a label column's values: numbers or names of classes.

    Raises:
      UserError: a value is no class; names file, line and value.
    """
    names, first = (classes.names, classes.first) if classes else ([], 0)
    index = {name: i for i, name in enumerate(names)}
    last = first + len(names) - 1
    known = f"{first} ... {last} (or a name) by {classes.source}" if classes else "0 or more"
    found = np.zeros(len(values), np.int32)
    for i, value in enumerate(values):
        number = int(value) - first if INTEGER.match(value) else index.get(value, -1)
        if not 0 <= number < (len(names) if names else 2**31):
            advice = "" if names else ", or name the classes in a classes.json beside the file"
            raise UserError(
                f"{file} line {lines[i]}: {column} is '{value}'; expected an integer {known}; number the classes "
                f"from {first}{advice}"
            )
        found[i] = number
    return found


def label_columns(
    file: Path, lines: Sequence[int], columns: dict[str, list[str]], known: dict[str, Classes]
) -> tuple[dict[str, Labels], dict[str, list[str]]]:
    """Label columns among columns of text, and the names of their classes.

    Columns of integers are label columns, as is `label`, whose words are classes in sorted order where nothing else
    names them; and every column that `known` names.
    """
    labels, known = {}, dict(known)
    for name, values in columns.items():
        if name == "label" and name not in known and are_words(values):
            known[name] = Classes(sorted(set(values)))
        if name not in NOT_LABELS and (name in known or _means_classes(name, values)):
            labels[name] = class_numbers(file, lines, name, values, known.get(name))
    return labels, {name: known[name].names for name in labels if name in known}


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def are_words(values: Sequence[str]) -> bool:
    """Whether a column holds names of classes: no cell is empty or a number."""
    return not any(value == "" or _is_number(value) for value in values)


def _means_classes(name: str, values: Sequence[str]) -> bool:
    """Whether a column is meant to hold class numbers, even where some cells do not.

    Most cells decide, so that one wrong cell is an error and not a column that is silently gone; columns of measures
    (some cell has a decimal point) are no classes.
    """
    whole = sum(value.isdecimal() for value in values)
    fractions = any(_is_number(value) and not INTEGER.match(value) for value in values)
    return name == "label" or whole == len(values) or (2 * whole > len(values) and not fractions)


def multi_label(
    file: Path, lines: Sequence[int], column: str, classes: Sequence[Sequence[int]], names: Sequence[str] = ()
) -> MultiLabel:
    """A column of several classes a sample; without names there are as many classes as the largest number says.

    Raises:
      UserError: a number is no class.
    """
    last = len(names) - 1 if names else MOST_CLASSES - 1
    for line, some in zip(lines or range(1, len(classes) + 1), classes, strict=True):
        for number in some:
            if not is_class(number) or number > last:
                raise UserError(
                    f"{file} line {line}: {column} has {number!r}; expected a number 0 ... {last}"
                )
    largest = max((max(some) for some in classes if some), default=0)
    return MultiLabel(classes, len(names) or largest + 1)


def is_class(value: Any) -> bool:
    """Whether a value of a JSON file is the number of a class."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_CLASSES

"""What formats are made of: the document that one reads, and the table that it gives."""

import csv
import functools
import io
import json
import os
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from input_pipeline.labels import Classes, Labels, column_classes, read_classes
from vfm.errors import UserError
from vfm.parts import nearest

Turns = tuple[tuple[str, str], ...]  # (question, answer), ...
JSON_SUFFIXES = (".json", ".jsonl")


@dataclass
class Table:
    """What an annotation file says, by sample; `Source` has fields of the same names.

    Paths are relative to the folder of videos.
    """

    paths: list[str]
    lines: Sequence[int] = ()
    unit: str = "line"
    labels: dict[str, Labels] = field(default_factory=dict)
    label_names: dict[str, list[str]] = field(default_factory=dict)
    captions: Sequence[Sequence[str]] = ()
    words: dict[str, list[str]] = field(default_factory=dict)
    turns: Sequence[Turns] = ()
    spans: Float64[np.ndarray, "n 2"] | None = None
    frames: Sequence[tuple[int, int]] = ()  # (first frame, how many) of frame folders


class Document:
    """An annotation file (or a folder of them), read as far as somebody asks.

    Every property raises a UserError where the file is not what the property says.
    """

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def is_json(self) -> bool:
        return self.suffix in JSON_SUFFIXES

    @property
    def is_text(self) -> bool:
        """Whether it has lines: not a folder, JSON or pickle."""
        return self.path.is_file() and not self.is_json and self.suffix != ".pkl"

    @functools.cached_property
    def text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{self}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error

    @functools.cached_property
    def lines(self) -> list[tuple[int, str]]:
        """(number, text) of the lines that are not blank."""
        # Not splitlines: it also splits at characters that may stand in a path or a caption.
        found = [(i, line.rstrip("\r")) for i, line in enumerate(self.text.split("\n"), 1) if line.strip()]
        if not found:
            raise UserError(f"{self}: is empty; expected a line for each video, e.g. 'path,label'")
        return found

    @functools.cached_property
    def delimiter(self) -> str:
        return "\t" if "\t" in self.lines[0][1] else ","

    @functools.cached_property
    def header(self) -> list[str]:
        """Cells of the first line."""
        return [cell.strip() for cell in next(csv.reader([self.lines[0][1]], delimiter=self.delimiter))]

    def has_columns(self, *names: str) -> bool:
        """Whether it is a CSV whose header has these columns."""
        return self.is_text and set(names) <= set(self.header)

    def rows(self) -> tuple[list[int], dict[str, list[str]]]:
        """Line numbers, and {column: cells} of a CSV with a header."""
        header = self.header
        for name in header:
            if header.count(name) > 1:
                raise UserError(f"{self} line 1: the column '{name}' is there twice; rename one")
        rows, numbers = [], []
        for number, cells in self._records():
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{self} line {number}: has {len(cells)} fields, the header has {len(header)}; put fields "
                    f"that contain '{self.delimiter}' into double quotes"
                )
            rows.append(cells)
            numbers.append(number)
        if len(rows) < 2:
            raise UserError(f"{self}: has a header but no rows; expected a row for each video")
        return numbers[1:], {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(header)}

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """(number of the last line, cells) of the records of a CSV; those of several lines are looked at closely."""
        lines: list[str] = []  # of the record that is being read

        def noted() -> Iterator[str]:
            for line in io.StringIO(self.text, newline=""):
                lines.append(line)
                yield line

        reader, first, last = csv.reader(noted(), delimiter=self.delimiter), 1, ([], 1)
        try:
            for cells in reader:
                if len(lines) > 1:
                    self._check_quotes(lines, first, cells)
                last, first = (lines.copy(), first), reader.line_num + 1
                lines.clear()
                yield reader.line_num, cells
        except csv.Error as error:
            raise UserError(self._open_quote(first, str(error))) from error
        self._check_quotes(*last)

    def _check_quotes(self, lines: Sequence[str], first: int, cells: Sequence[str] = ()) -> None:
        """Raises a UserError where a quote swallows rows: the record in `lines`, from line `first` on, goes on to the
        end of the file, is not well formed, or holds a line that looks like a row by itself."""
        try:
            list(csv.reader(lines, delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            raise UserError(self._open_quote(first, str(error))) from error
        words = [i for i, cell in enumerate(cells) if cell and not re.search(r"\s", cell)]
        for line in lines[1:]:
            row = [cell.strip().strip('"') for cell in line.split(self.delimiter)]
            alike = words and len(row) == len(cells) and all(re.fullmatch(r"\S+", row[i]) for i in words)
            if alike and all(row[i].isdecimal() == cells[i].isdecimal() for i in words):
                raise UserError(
                    self._open_quote(first, f"it takes in {short(line.strip())}, which looks like a row")
                )

    def _open_quote(self, number: int, why: str) -> str:
        return (
            f"{self} line {number}: a quote is opened and never closed, or closed in a later row ({why}); close it, "
            f"and write a quote inside a quoted field twice"
        )

    @functools.cached_property
    def json(self) -> Any:
        """The value of a JSON file; of a `.jsonl` file the list of the values of its lines."""
        if self.suffix == ".jsonl":
            return [value for _, value in self.items]
        if not self.text.strip():
            raise UserError(f"{self}: is empty; expected an object for each video")
        return parse_json(self.text, str(self))

    @functools.cached_property
    def items(self) -> list[tuple[int, Any]]:
        """(number, value) of the entries of a JSON list."""
        if self.suffix == ".jsonl":
            lines = [(i, line) for i, line in enumerate(self.text.split("\n"), 1) if line.strip()]
            found = [(number, parse_json(line, f"{self} line {number}")) for number, line in lines]
        elif isinstance(self.json, list):
            found = list(enumerate(self.json, 1))
        else:
            raise UserError(f"{self}: expected a JSON list of objects, found {short(self.json)}")
        if not found:
            raise UserError(f"{self}: is empty; expected an object for each video")
        return found

    @property
    def entries(self) -> dict[str, Any]:
        """The value of a JSON file that is one object."""
        if not isinstance(self.json, dict) or not self.json:
            raise UserError(f"{self}: expected a JSON object, found {short(self.json)}")
        return self.json

    @property
    def unit(self) -> str:
        """What the numbers of entries count."""
        return "item" if self.suffix == ".json" else "line"

    def first_has(self, *names: str) -> bool:
        """Whether it is a JSON list whose first object has these keys."""
        return self.is_json and isinstance(self.json, list) and _has(self.json[:1], names)

    def values_have(self, *names: str) -> bool:
        """Whether it is a JSON object whose first value is an object with these keys."""
        return self.is_json and isinstance(self.json, dict) and _has(list(self.json.values())[:1], names)

    def beside(self, name: str) -> Path | None:
        """A file in the same folder, None where there is none."""
        file = (self.path if self.path.is_dir() else self.path.parent) / name
        return file if file.is_file() else None

    def classes(self, options: Mapping[str, Any], column: str = "label", *names: str) -> Classes | None:
        """The classes of a column: of the option `labels`, a classes.json beside, or a file beside of these names."""
        if options.get("labels"):
            return read_classes(self.relative(options["labels"]))
        folder = self.path if self.path.is_dir() else self.path.parent
        if found := column_classes(folder / "classes.json").get(column):
            return found
        file = next((file for name in names if (file := self.beside(name))), None)
        return read_classes(file) if file else None

    def relative(self, name: str) -> Path:
        """A file that an option names: as it is, or else relative to this one."""
        path = Path(name).expanduser()
        near = (self.path if self.path.is_dir() else self.path.parent) / path
        return near if not path.exists() and near.exists() else path


def _has(some: list, names: Sequence[str]) -> bool:
    return bool(some) and isinstance(some[0], dict) and set(names) <= some[0].keys()


def parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data":
            advice = "one object a line is the format of JSON lines: call it .jsonl"
        else:
            advice = "one object for each video is expected"
        raise UserError(f"{where}: is no JSON ({error}); {advice}") from error


def short(value: Any) -> str:
    """JSON of a value, at most 60 characters of it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def caption_list(value: Any) -> tuple[str, ...] | None:
    """Captions in a cell or field: one text, or a list of texts (in a cell as JSON); None if it is neither."""
    if isinstance(value, str) and value.startswith("["):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = None
        if isinstance(parsed, list) and all(isinstance(text, str) for text in parsed):
            value = parsed
    if isinstance(value, str):
        return (value.strip(),)
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(text.strip() for text in value)
    return None


def fill(template: str, fields: Mapping[str, Any], where: str) -> str:
    """The file name that a template gives a sample, e.g. "{youtube_id}_{time_start:06d}.mp4".

    Raises:
      UserError: the template names an unknown field; `where` says of which row.
    """
    try:
        return template.format(**fields)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where}: template='{template}' does not fit ({type(error).__name__}: {error}); the fields are "
            f"{', '.join(f'{{{name}}}' for name in fields)}"
        ) from error


def fields_of(template: str) -> set[str]:
    """The fields that a template names.

    Raises:
      UserError: its braces are not in pairs.
    """
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name}
    except ValueError as error:
        raise UserError(f"template='{template}': {error}; expected such as '{{id}}.mp4'") from error


def check_column(column: str, columns: Iterable[str], where: str) -> None:
    """Look whether the column of captions is there; "caption", which nobody has to have asked for, need not be.

    Raises:
      UserError: it is not; the message names the nearest that is.
    """
    columns = list(columns)
    if column != "caption" and column not in columns:
        raise UserError(
            f"{where}: has no column '{column}' of captions{nearest(column, columns)}; it has: {', '.join(columns)}"
        )


def complete(known: Mapping[str, Any], given: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Options with those that are given in place of the defaults.

    Args:
      known: the options of the format or store `name`, with their defaults.
      where: of what, for messages.

    Raises:
      UserError: an option is not known, or its value is not of the kind of its default (None stands for that).
    """
    for option, value in given.items():
        if option not in known:
            raise UserError(
                f"{where}: '{option}' is no option of format '{name}'{nearest(option, known)}; it takes: "
                f"{', '.join(known) or 'none'}"
            )
        kind = type(known[option])
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = {
            bool: isinstance(value, bool),
            int: whole,
            float: whole or isinstance(value, float),
            str: isinstance(value, str | os.PathLike),
        }[kind]
        if value is not None and not fits:
            expected = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}[kind]
            raise UserError(f"{where}: {option}={value!r}: expected {expected}")
    return {**known, **{option: value for option, value in given.items() if value is not None}}


_CLOCK = re.compile(r"^(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)$")


def seconds(value: Any, where: str) -> float:
    """A time in seconds, given as a number or as hours:minutes:seconds."""
    if match := _CLOCK.match(str(value).strip()):
        return 3600 * int(match[1] or 0) + 60 * int(match[2]) + float(match[3])
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = np.nan
    if not 0 <= found < np.inf or isinstance(value, bool):
        raise UserError(f"{where}: {short(value)} is no time; expected seconds, or hours:minutes:seconds")
    return found


def wanted_ids(document: Document, split: str | os.PathLike) -> set[str] | None:
    """The ids that a file names (the option `split`); None where `split` is no file but a word.

    Lines of ids, or a CSV with a column `video_id` or `id`; endings of videos do not matter.
    """
    file = document.relative(str(split))
    if not file.is_file():
        return None
    listed = Document(file)
    if listed.is_json:
        ids = [str(value) for value in listed.json]
    else:
        column = next((name for name in ("video_id", "id") if name in listed.header), None)
        ids = listed.rows()[1][column] if column else [line.strip() for _, line in listed.lines]
    return {stem(name) for name in ids}


def stem(name: str) -> str:
    """A clip's id: its name without the ending of a video file."""
    return re.sub(r"\.(mp4|avi|webm|mkv|mov)$", "", name.strip(), flags=re.IGNORECASE)


def each(document: Document) -> Iterator[tuple[int, dict[str, Any], str]]:
    """(number, object, where it is) of a JSON list; anything but an object is an error."""
    for number, entry in document.items:
        where = f"{document} {document.unit} {number}"
        if not isinstance(entry, dict):
            raise UserError(f'{where}: expected an object such as {{"video": ...}}, found {short(entry)}')
        yield number, entry, where


def text_of(entry: Mapping[str, Any], key: str, where: str) -> str:
    """A field that has to be a text (numbers are taken as they are written)."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise UserError(f"{where}: '{key}' is {short(value)}; expected a text")
    return str(value).strip()

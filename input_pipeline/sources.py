"""Where videos and their labels come from: a CSV or list file, a folder, or a single file.

`open_source(spec)` gives a `Source`: how many samples there are, each one by its index, and what the label columns
mean. The index of a sample is its stable id.

  CSV with a header   `path` is required; columns of integers are label columns; `caption` is text (or several texts, as
                      a JSON list; rows that repeat a path are samples of their own); a `classes.json`
                      beside the file ({"column": [names]}) names classes, bounds them, and lets a column hold names;
                      without one, the words of a column `label` are its classes in sorted order
  list without one    `path label`, `path,label` or `path<tab>label` (VideoMAE, Kinetics): the last separator counts,
                      so that paths may contain spaces; or bare paths without labels
  JSON list           `.json`, `.jsonl`: captions or conversations, see `input_pipeline.conversations`
  folder              one subfolder is one class (sorted by name), or plain video files without labels
  one video file      a set of one

The same holds for images, which are read as videos of one frame.
"""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int32

from input_pipeline import conversations
from vfm.errors import UserError

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".list", *conversations.SUFFIXES)
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .flv .ts .mts .m2ts .mpg .mpeg .3gp .wmv .ogv .gif .vob".split()
)
IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .tif .tiff .gif .ppm .pgm".split())
SUFFIXES = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
NOT_LABELS = frozenset(
    "path clip caption captions video id mask text text_mask text_id text_loss image".split()
)
_EITHER = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_LABELLED = re.compile(r"^(.*?[^\s,])\s*[\s,]\s*([^\s,]+)$")
_INTEGER = re.compile(r"^[+-]?\d+$")


@dataclass(frozen=True)
class Sample:
    """One video with what is known about it; `id` is its index in the source."""

    path: str
    labels: dict[str, int]
    captions: tuple[str, ...]
    id: int

    @property
    def caption(self) -> str:
        """The first caption, "" if there is none."""
        return self.captions[0] if self.captions else ""


@dataclass(frozen=True)
class Source:
    """A list of samples.

    Attributes:
      name: what the user gave.
      key: the configuration key it was given under, for messages.
      paths: of the files, absolute or relative to the working folder.
      labels: column -> the class of each sample; the first column is the batch's `label`.
      captions: of each sample, one or several (of conversations: the answers); empty if there are none.
      label_names: column -> names of its classes, where they are known.
      lines: of each sample in its list file; empty for folders.
      unit: what `lines` counts.
      words: column -> the text of each sample, of every column but the path and those of integers.
      turns: questions and answers of each sample; empty if there are none.
      spans: seconds from which and to which each sample's video is shown (NaN = all of it), where any has such.
    """

    name: str
    paths: Sequence[str]
    key: str = "data.train"
    labels: dict[str, Int32[np.ndarray, "n"]] = field(default_factory=dict)
    captions: Sequence[Sequence[str]] = ()
    label_names: dict[str, list[str]] = field(default_factory=dict)
    lines: Sequence[int] = ()
    words: dict[str, list[str]] = field(default_factory=dict)
    unit: str = "line"
    turns: Sequence[conversations.Turns] = ()
    spans: Float64[np.ndarray, "n 2"] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            path=self.paths[index],
            labels={name: int(column[index]) for name, column in self.labels.items()},
            captions=tuple(self.captions[index]) if self.captions else (),
            id=index,
        )

    def where(self, index: int) -> str:
        """Where the sample was named, for messages."""
        return f"{self.name} {self.unit} {self.lines[index]}" if self.lines else self.name

    def clip_name(self, index: int) -> str:
        """The sample's file, with the part of it that is shown, as media fragments are written."""
        if self.spans is None or np.isnan(self.spans[index, 0]):
            return self.paths[index]
        start, end = self.spans[index]
        return f"{self.paths[index]}#t={start:g},{'' if np.isinf(end) else f'{end:g}'}"


def open_source(
    spec: str | os.PathLike,
    root: str | os.PathLike = "",
    key: str = "data.train",
    column: str = "caption",
    medium: str = "video",
) -> Source:
    """The source that `spec` describes; see the module's text for what it may be.

    Args:
      spec: a list file, a folder or a video file.
      root: what relative paths in a list are relative to; "" = the list's own folder.
      key: the configuration key that `spec` comes from, for messages.
      column: the column of captions.
      medium: "video" or "image"; which files a folder is searched for.

    Raises:
      UserError: nothing is there, or its contents are not understood; the message names file, line and value.
    """
    if not spec:
        raise UserError(f"{key} is not set; give a CSV file or a folder of {medium}s")
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, key, medium)
    if not path.exists():
        raise UserError(f"{key}='{spec}': no such file or folder; give a CSV file or a folder of {medium}s")
    suffix = path.suffix.lower()
    parent = Path(root).expanduser() if root else path.parent
    if suffix in conversations.SUFFIXES:
        return _open_entries(path, parent, key, column)
    if suffix in LIST_SUFFIXES:
        return _open_list(path, parent, key, column)
    if suffix in SUFFIXES[medium]:
        return Source(name=str(path), paths=[str(path)], key=key)
    raise UserError(
        f"{key}='{spec}': '{suffix or path.name}' is no kind of source; expected a folder, a list "
        f"({', '.join(LIST_SUFFIXES)}) or a {medium} ({', '.join(sorted(SUFFIXES[medium]))})"
    )


# Folders


def _open_folder(folder: Path, key: str, medium: str) -> Source:
    suffixes = SUFFIXES[medium]
    here = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    plain = [str(p) for p in here if p.is_file() and p.suffix.lower() in suffixes]
    classes = {p.name: files for p in here if p.is_dir() and (files := _files_below(p, suffixes))}
    if plain and classes:
        raise UserError(
            f"{key}='{folder}': has both {medium} files ('{Path(plain[0]).name}') and subfolders with {medium}s "
            f"('{next(iter(classes))}'); expected one subfolder for each class, or only files; move one kind away"
        )
    if plain:
        return Source(name=str(folder), paths=plain, key=key)
    if not classes:
        raise UserError(
            f"{key}='{folder}': the folder holds no {medium}s; expected {medium} files or one subfolder of {medium}s "
            f"for each class (endings known: {' '.join(sorted(suffixes))})"
        )
    names = _class_names(folder / "classes.json").get("label") or list(classes)
    for name in classes:
        if name not in names:
            raise UserError(
                f"{key}='{folder}': the subfolder '{name}' is not a class that {folder / 'classes.json'} names for "
                f"'label'; add it there or move the folder away"
            )
    return Source(
        name=str(folder),
        key=key,
        paths=[path for files in classes.values() for path in files],
        labels={
            "label": np.repeat(
                np.array([names.index(name) for name in classes], np.int32),
                [len(f) for f in classes.values()],
            )
        },
        label_names={"label": names},
    )


def _files_below(folder: Path, suffixes: frozenset[str]) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(parent, name)
            for name in sorted(files)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return found


# List files


def _open_entries(file: Path, root: Path, key: str, column: str) -> Source:
    """A JSON list."""
    found = conversations.read_entries(file, column)
    columns = found.columns | {"path": found.paths}
    source = _from_columns(file, root, key, columns, found.lines)
    return replace(source, captions=found.captions, turns=found.turns, spans=found.spans, unit=found.unit)


def _open_list(file: Path, root: Path, key: str, column: str) -> Source:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    # Not splitlines: it also splits at characters that may stand in a path or a caption.
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{file}: is empty; expected a line for each video, e.g. 'path,label'")
    delimiter = "\t" if "\t" in lines[0][1] else ","
    header = [cell.strip() for cell in next(csv.reader([lines[0][1]], delimiter=delimiter))]
    if "path" in header:
        return _open_table(file, root, key, text, header, delimiter, column)
    if _looks_like_header(header):
        raise UserError(
            f"{file} line {lines[0][0]}: the header has the columns {', '.join(header)} but no 'path'; "
            f"rename the column that holds the files to 'path'"
        )
    return _open_plain_list(file, root, key, lines)


def _looks_like_header(cells: list[str]) -> bool:
    first = cells[0].lower()
    is_path = "/" in first or "\\" in first or Path(first).suffix in _EITHER
    return len(cells) > 1 and not is_path and not any(_INTEGER.match(cell) for cell in cells)


def _open_plain_list(file: Path, root: Path, key: str, lines: list[tuple[int, str]]) -> Source:
    """Lines of `path label`, or of paths alone."""
    bare = all(Path(line.strip()).suffix.lower() in _EITHER for _, line in lines)
    paths, values = [], []
    for number, line in lines:
        match = None if bare else _LABELLED.match(line.strip())
        if not bare and not match:
            raise UserError(
                f"{file} line {number}: '{line.strip()}' has no label; expected 'path label' or 'path,label' with an "
                f"integer label in every line, or paths alone in every line"
            )
        paths.append(_join(root, match[1].strip().strip('"') if match else line.strip()))
        values.append(match[2] if match else "")
    numbers = [number for number, _ in lines]
    names = _class_names(file.parent / "classes.json")
    labels = {} if bare else {"label": _classes(file, numbers, "label", values, names.get("label"))}
    return Source(
        name=str(file),
        key=key,
        paths=paths,
        labels=labels,
        label_names={k: v for k, v in names.items() if k in labels},
        lines=numbers,
    )


def _open_table(
    file: Path, root: Path, key: str, text: str, header: list[str], delimiter: str, column: str
) -> Source:
    """A CSV with a header line."""
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"{file} line 1: the column '{name}' is there twice; rename one")
    rows, numbers = [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{file} line {reader.line_num}: has {len(cells)} fields, the header has {len(header)}; put fields "
                f"that contain '{delimiter}' into double quotes"
            )
        rows.append(cells)
        numbers.append(reader.line_num)
    rows, numbers = rows[1:], numbers[1:]
    if not rows:
        raise UserError(f"{file}: has a header but no rows; expected a row for each video")
    columns = {name: [row[i].strip() for row in rows] for i, name in enumerate(header)}
    for number, path in zip(numbers, columns["path"], strict=True):
        if not path:
            raise UserError(f"{file} line {number}: 'path' is empty; expected a video file")
    if column not in columns and column == "caption":
        column = "captions"
    captions = [conversations.caption_list(cell) for cell in columns.get(column, ())]
    return replace(_from_columns(file, root, key, columns, numbers), captions=captions)


def _from_columns(
    file: Path, root: Path, key: str, columns: dict[str, list[str]], numbers: Sequence[int]
) -> Source:
    """A source of columns of text, one of which is `path`; captions apart."""
    names = _class_names(file.parent / "classes.json")
    labels, words = {}, {}
    for name, values in columns.items():
        if name == "label" and name not in names and _are_words(values):
            names[name] = sorted(set(values))
        if name not in NOT_LABELS and (name in names or _means_classes(name, values)):
            labels[name] = _classes(file, numbers, name, values, names.get(name))
        if name != "path" and not all(v.isdecimal() for v in values):
            words[name] = values
    return Source(
        name=str(file),
        key=key,
        paths=[_join(root, path) for path in columns["path"]],
        labels=labels,
        label_names={k: v for k, v in names.items() if k in labels},
        lines=numbers,
        words=words,
    )


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _are_words(values: Sequence[str]) -> bool:
    """Whether a column holds names of classes: no cell is empty or a number."""
    return not any(value == "" or _is_number(value) for value in values)


def _means_classes(name: str, values: Sequence[str]) -> bool:
    """Whether a column is meant to hold class numbers, even where some cells do not.

    Most cells decide, so that one wrong cell is an error and not a column that is silently gone; columns of measures
    (some cell has a decimal point) are no classes.
    """
    whole = sum(value.isdecimal() for value in values)
    fractions = any(_is_number(value) and not _INTEGER.match(value) for value in values)
    return name == "label" or whole == len(values) or (2 * whole > len(values) and not fractions)


def _join(root: Path, path: str) -> str:
    return os.path.join(root, os.path.expanduser(path))


def _classes(
    file: Path, numbers: Sequence[int], column: str, values: Sequence[str], names: list[str] | None
) -> Int32[np.ndarray, "n"]:
    """Class indices of a label column's values; `names` are its classes, if known."""
    index = {name: i for i, name in enumerate(names or [])}
    known = f"0 ... {len(names) - 1} (or a name) by classes.json" if names else "0 or more"
    found = np.zeros(len(values), np.int32)
    for i, value in enumerate(values):
        number = int(value) if _INTEGER.match(value) else index.get(value, -1)
        if not 0 <= number < (len(names) if names else 2**31):
            advice = "" if names else ", or name the classes in a classes.json beside the file"
            raise UserError(
                f"{file} line {numbers[i]}: {column} is '{value}'; expected an integer {known}; number the classes "
                f"from 0{advice}"
            )
        found[i] = number
    return found


def _class_names(file: Path) -> dict[str, list[str]]:
    if not file.is_file():
        return {}
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
        usable = all(isinstance(v, list) and all(isinstance(n, str) for n in v) for v in names.values())
    except (ValueError, AttributeError):
        usable = False
    if not usable:
        raise UserError(f'{file}: expected JSON such as {{"label": ["first class", "second class"]}}')
    return names

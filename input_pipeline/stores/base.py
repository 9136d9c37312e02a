"""What stores have in common: what is asked of them, their shards, and the tables of what they say about samples."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from input_pipeline import storage
from input_pipeline.formats.base import Document, Table, caption_list, check_column, seconds
from input_pipeline.labels import Classes, column_classes, label_columns
from input_pipeline.suffixes import VIDEO_SUFFIXES
from vfm.errors import UserError

_TIMES = ("start_time", "end_time")


class Request(NamedTuple):
    """What is asked of a store.

    Attributes:
      path: a file, a folder or a pattern, local or remote.
      options: of the store, complete.
      key: the configuration key that the path was given under.
      column: the field that holds captions.
      medium: "video" or "image".
      root: data.root.
    """

    path: str
    options: Mapping[str, Any]
    key: str = "data.train"
    column: str = "caption"
    medium: str = "video"
    root: str = ""


def ends_with(pattern: str) -> Callable[[str], bool]:
    """Whether a name ends as a regular expression says, whatever the case."""
    compiled = re.compile(f"(?:{pattern})$", re.IGNORECASE)
    return lambda name: bool(compiled.search(name))


def children(path: str) -> list[str]:
    """Names of the files in a folder, hidden ones left out; nothing where it is no folder."""
    folder = storage.place(path)
    # What is called as files are costs no question to a server.
    if (storage.is_remote(path) and folder.suffix[1:2].isalpha()) or not folder.is_dir():
        return []
    names = [child.name for child in folder.iterdir()] if storage.is_remote(path) else os.listdir(folder)
    return [name for name in names if not name.startswith((".", "_"))]


def detect_shards(path: str, is_shard: Callable[[str], bool]) -> bool:
    """Whether a path or pattern is one of shards, or a folder that holds some."""
    if is_shard(storage.first_of(path)):
        return True
    if storage.has_pattern(path):
        return path.endswith("*") and is_shard(storage.expand(path)[0])
    names = children(path)
    # An archive among videos is no shard of theirs.
    return any(map(is_shard, names)) and not any(
        os.path.splitext(n)[1].lower() in VIDEO_SUFFIXES for n in names
    )


def shards(request: Request, is_shard: Callable[[str], bool], what: str, deep: bool = False) -> list[str]:
    """The shards that a path, a pattern or a folder stands for.

    Args:
      is_shard: by its name.
      what: they are called in messages.
      deep: folders in a folder are searched too.

    Raises:
      UserError: there are none, or one that was named is not there.
    """
    path = os.fspath(storage.place(request.path))
    found = [str(file) for part in storage.expand(path) for file in _inside(part, is_shard, deep)]
    if not found:
        raise UserError(f"{request.key}='{request.path}': the folder holds no {what}")
    gone = [file for file in found if not storage.is_remote(file) and not os.path.isfile(file)]
    if gone:
        raise UserError(
            f"{request.key}='{request.path}': {len(gone)} of {len(found)} shards are not there, e.g. {gone[0]}"
        )
    return found


def _inside(path: str, is_shard: Callable[[str], bool], deep: bool) -> list[str]:
    if is_shard(path) or not storage.place(path).is_dir():
        return [path]
    if deep:
        return [file for file in storage.files_below(path) if is_shard(file)]
    return sorted(storage.join(path, name) for name in children(path) if is_shard(name))


def tabulate(
    request: Request,
    names: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    bad: Mapping[int, str] | None = None,
    class_names: Mapping[str, list[str]] | None = None,
) -> Table:
    """A table of samples and their fields.

    Label columns are those that the option `label` names (one or several, with commas between) and those whose classes
    are known; the first one that is named stands first. Captions, words, and the part that is shown (`start_time`,
    `end_time`) are as in a CSV.

    Args:
      names: of the samples.
      columns: field -> its value for each sample, None where it has none.
      bad: index -> reason, of samples that cannot be read: their fields do not count, their class is 0.
      class_names: label column -> names of its classes, where the store knows them.

    Raises:
      UserError: a label is no class.
    """
    count, bad = len(names), bad or {}
    good = [i for i in range(count) if i not in bad]
    known = _classes(request, class_names or {})
    column = request.column
    check_column(column, columns, f"{request.key}='{request.path}'")
    if column not in columns and column == "caption":
        column = next((name for name in ("captions", "text") if name in columns), column)
    captions: Sequence[tuple[str, ...]] = ()
    if column in columns:
        captions = [caption_list(_plain(value)) or () for value in columns[column]]
        captions = captions if any(captions) else ()
    texts = {
        name: [_text(values[i]) for i in good]
        for name, values in columns.items()
        if name not in (column, "path", *_TIMES) and not any(isinstance(values[i], list | dict) for i in good)
    }
    named = [name.strip() for name in str(request.options.get("label", "label")).split(",")]
    whole = {
        name: texts[name] for name in (*named, *known) if set(texts.get(name, ())) - {"-1", ""}
    }  # -1, null: kept secret
    place = storage.place(request.path)
    lines = [i + 1 for i in good]
    found, label_names = label_columns(place, lines, whole, known) if good else ({}, {})
    labels = {}
    for name, values in found.items():
        labels[name] = np.zeros(count, np.int32)
        labels[name][good] = values
    words = {}
    for name, values in texts.items():
        if not all(value.isdecimal() for value in values):
            spread = dict(zip(good, values, strict=True))
            words[name] = [spread.get(i, "") for i in range(count)]
    return Table(
        list(names),
        range(1, count + 1),
        unit="sample",
        labels=labels,
        label_names=label_names,
        captions=captions,
        words=words,
        spans=_spans(request, columns, good, count) if set(_TIMES) <= columns.keys() else None,
    )


def _spans(
    request: Request, columns: Mapping[str, Sequence[Any]], good: Sequence[int], count: int
) -> np.ndarray | None:
    """Seconds from which and to which samples are shown, NaN where none are given."""
    spans = np.full((count, 2), np.nan)
    for i in good:
        start, end = (columns[name][i] for name in _TIMES)
        where = f"{request.path} sample {i + 1}"
        if start is None and end is None:
            continue
        spans[i] = seconds(start or 0, where), np.inf if end is None else seconds(end, where)
        if spans[i, 0] >= spans[i, 1]:
            raise UserError(
                f"{where}: start_time {start} and end_time {end}; expected start < end, in seconds"
            )
    return spans if not np.isnan(spans).all() else None


def _classes(request: Request, class_names: Mapping[str, list[str]]) -> dict[str, Classes]:
    """Classes of label columns: as the store names them, or as files beside it do."""
    known = {name: Classes(list(some), source="the data set") for name, some in class_names.items()}
    path = storage.place(request.path)
    folder = path.parent if "{" in request.path or "*" in request.path or not path.is_dir() else path
    known |= column_classes(folder / "classes.json")
    if request.options.get("labels") and (classes := Document(path).classes(request.options)):
        known["label"] = classes
    return known


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _text(value: Any) -> str:
    """A field as the cell of a list would hold it."""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return "" if value is None else str(_plain(value)).strip()

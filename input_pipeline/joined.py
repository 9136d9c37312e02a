"""Several annotation files of one format as one: `train_{00..15}.csv`, `lists/*.jsonl`.

n samples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from input_pipeline.formats.base import Table
from input_pipeline.labels import Labels, MultiLabel
from vfm.errors import UserError


def join_tables(tables: Sequence[Table], files: Sequence[str]) -> Table:
    """The samples of all tables, in the order of the files.

    Args:
      tables: one of each file; their paths as they are from here.
      files: for messages.

    Raises:
      UserError: label columns or classes differ, so that a number would mean one thing here and another there.
    """
    first = tables[0]
    for table, file in zip(tables[1:], files[1:], strict=True):
        _check_alike(first, files[0], table, file)
    joined = Table([path for table in tables for path in table.paths], unit=first.unit)
    joined.labels = {name: _labels([table.labels[name] for table in tables]) for name in first.labels}
    joined.label_names = first.label_names
    joined.captions = _filled(tables, "captions", ())
    joined.turns = _filled(tables, "turns", ())
    names = dict.fromkeys(name for table in tables for name in table.words)
    joined.words = {
        name: [text for t in tables for text in t.words.get(name, [""] * len(t.paths))] for name in names
    }
    if any(table.spans is not None for table in tables):
        whole = [np.full((len(t.paths), 2), np.nan) if t.spans is None else t.spans for t in tables]
        joined.spans = np.concatenate(whole)
    if all(table.lines for table in tables):
        joined.lines = [line for table in tables for line in table.lines]
    joined.frames = [part for table in tables for part in table.frames]
    return joined


def _check_alike(first: Table, file: str, table: Table, other: str) -> None:
    if first.labels.keys() != table.labels.keys():
        here, there = (", ".join(some.labels) or "none" for some in (table, first))
        raise UserError(
            f"{other}: its label columns are {here}, those of {file} are {there}; expected the same"
        )
    if bool(first.frames) != bool(table.frames):
        raise UserError(
            f"{other}: only one of it and {file} lists folders of frames; expected the same of all"
        )
    for name in first.labels:
        here, there = (some.label_names.get(name, []) for some in (table, first))
        if here != there:
            odd = sorted(set(here) ^ set(there)) or ["their order"]
            raise UserError(
                f"{other}: its classes of '{name}' are not those of {file} ({len(here)} and {len(there)}; they differ "
                f"in {odd[0]!r}); name them for all by labels=FILE or a classes.json beside the files"
            )


def _labels(columns: Sequence[Labels]) -> Labels:
    """One column; of several classes a sample where that is so in any file."""
    if not any(isinstance(column, MultiLabel) for column in columns):
        return np.concatenate(columns)
    several = [c if isinstance(c, MultiLabel) else _as_several(c) for c in columns]
    return MultiLabel([some for c in several for some in c.classes], max(c.count for c in several))


def _as_several(column: np.ndarray) -> MultiLabel:
    return MultiLabel([(int(number),) for number in column], int(column.max(initial=0)) + 1)


def _filled(tables: Sequence[Table], name: str, empty: Any) -> list[Any]:
    """A field of all samples, `empty` for those of tables without it; nothing where no table has it."""
    found = [getattr(table, name) for table in tables]
    if not any(found):
        return []
    return [v for table, some in zip(tables, found, strict=True) for v in some or [empty] * len(table.paths)]

"""JSON lists: videos with captions, or with questions and answers about them (the format of LLaVA-Video).

One object for each sample, in a `.jsonl` file one a line, in a `.json` file in a list:

    {"video": "a.mp4", "captions": ["a dog runs", "a dog outside"]}
    {"video": "a.mp4", "start_time": 2.0, "end_time": 7.5, "conversations": [
        {"from": "human", "value": "<video>\\nWhat happens?"}, {"from": "gpt", "value": "A dog runs."}]}

`video` may also be `path` or `image`; `start_time` and `end_time` in seconds show a part of the file. Other fields
that hold a string or an integer in every object are columns, as in a CSV.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.formats import table
from input_pipeline.formats.base import Document, Table, Turns, caption_list, check_column, each, fill, short
from vfm.errors import UserError

OPTIONS = {"template": "{id}", "column": "caption", "label": "", "labels": ""}
_PATHS = ("video", "path", "image")
_CAPTIONS = ("caption", "captions")
_TIMES = ("start_time", "end_time")
_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant")
_MEDIUM = re.compile(
    r"\s*<(?:video|image)>\s*"
)  # where the original puts the video's tokens; ours come first


def detect(document: Document) -> bool:
    return any(document.first_has(name) for name in _PATHS)


def read(document: Document, options: Mapping[str, Any]) -> Table:
    column = options["column"]
    paths, captions, turns, times, others = [], [], [], [], []
    for _, item, where in each(document):
        field = next((name for name in _PATHS if name in item), None)
        if field is None or not isinstance(item[field], str) or not item[field].strip():
            raise UserError(f"{where}: names no file; expected a string in {', '.join(map(repr, _PATHS))}")
        paths.append(fill(options["template"], {"id": item[field].strip()}, where))
        turns.append(_turns(item["conversations"], where) if "conversations" in item else ())
        captions.append(tuple(a for _, a in turns[-1]) if turns[-1] else _captions(item, column, where))
        times.append(_span(item, where))
        known = {field, "conversations", column, *_CAPTIONS, *_TIMES}
        others.append({name: value for name, value in item.items() if name not in known})
    if not all(turns):  # what was said stands for captions
        check_column(
            column, dict.fromkeys(name for _, item, _ in each(document) for name in item), str(document)
        )
    columns = _columns(others) | {"path": paths}
    numbers = [number for number, _ in document.items]
    found = table.of_columns(document, options, columns, numbers)
    found.unit = document.unit
    found.captions = captions if any(captions) else []
    found.turns = turns if any(turns) else []
    found.spans = np.array(times) if np.isfinite(times).any() else None
    return found


def _captions(item: dict, column: str, where: str) -> tuple[str, ...]:
    field = next((name for name in (column, *_CAPTIONS) if name in item), None)
    if field is None:
        return ()
    found = caption_list(item[field])
    if found is None:
        raise UserError(f"{where}: {field} is {short(item[field])}; expected a text or a list of texts")
    return found


def _turns(conversation: Any, where: str) -> Turns:
    """Questions and answers in turn; what a system says comes before the first question."""
    said = []
    for message in conversation if isinstance(conversation, list) else [None]:
        who = message.get("from", message.get("role")) if isinstance(message, dict) else None
        text = message.get("value", message.get("content")) if isinstance(message, dict) else None
        if who not in (*_ASKS, *_ANSWERS, "system") or not isinstance(text, str):
            raise UserError(
                f'{where}: conversations holds {short(message)}; expected {{"from": "human" or "gpt", "value": "..."}}'
            )
        said.append((who, _MEDIUM.sub(" ", text).strip()))
    before = " ".join(text for who, text in said if who == "system")
    said = [(who, text) for who, text in said if who != "system"]
    asks, answers = said[::2], said[1::2]
    in_turn = all(who in _ASKS for who, _ in asks) and all(who in _ANSWERS for who, _ in answers)
    if not said or len(said) % 2 or not in_turn:
        order = ", ".join(who for who, _ in said) or "nobody"
        raise UserError(f"{where}: in conversations {order} speak; expected human, gpt in turn, gpt last")
    turns = [(ask, answer) for (_, ask), (_, answer) in zip(asks, answers, strict=True)]
    turns[0] = (f"{before} {turns[0][0]}".strip(), turns[0][1])
    return tuple(turns)


def _span(item: dict, where: str) -> tuple[float, float]:
    """Start and end in seconds; NaN where neither is given."""
    given = [item.get(name) for name in _TIMES]
    if given == [None, None]:
        return math.nan, math.nan
    for name, value in zip(_TIMES, given, strict=True):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{where}: {name} is {short(value)}; expected seconds")
    start, end = given[0] or 0.0, math.inf if given[1] is None else given[1]
    if not 0 <= start < end:
        raise UserError(
            f"{where}: start_time {start} and end_time {end}; expected 0 <= start < end, in seconds"
        )
    return float(start), float(end)


def _columns(others: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Fields that every object has, of strings or integers."""
    columns = {}
    for name in others[0]:
        values = [other.get(name) for other in others]
        if all(isinstance(value, str | int) and not isinstance(value, bool) for value in values):
            columns[name] = [str(value) for value in values]
    return columns

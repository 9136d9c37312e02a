"""JSON lists: videos with captions, or with questions and answers about them (the format of LLaVA-Video).

One object for each sample, in a `.jsonl` file one a line, in a `.json` file in a list:

    {"video": "a.mp4", "captions": ["a dog runs", "a dog outside"]}
    {"video": "a.mp4", "start_time": 2.0, "end_time": 7.5, "conversations": [
        {"from": "human", "value": "<video>\\nWhat happens?"}, {"from": "gpt", "value": "A dog runs."}]}

`video` may also be `path` or `image`; `start_time` and `end_time` in seconds show a part of the file. Other fields
that hold a string or an integer in every object are columns, as in a CSV.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from vfm.errors import UserError

SUFFIXES = (".json", ".jsonl")
Turns = tuple[tuple[str, str], ...]  # (question, answer), ...

_PATHS = ("video", "path", "image")
_CAPTIONS = ("caption", "captions")
_TIMES = ("start_time", "end_time")
_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant")
_MEDIUM = re.compile(
    r"\s*<(?:video|image)>\s*"
)  # where the original puts the video's tokens; ours come first


@dataclass(frozen=True)
class Entries:
    """What a JSON list holds, by sample; see `Source` for the fields of the same names."""

    paths: list[str]
    captions: list[tuple[str, ...]]
    turns: list[Turns]
    spans: Float64[np.ndarray, "n 2"] | None
    columns: dict[str, list[str]]
    lines: list[int]
    unit: str


def read_entries(file: Path, column: str) -> Entries:
    """The samples of a JSON list; `column` names the field of captions.

    Raises:
      UserError: names file, line (or item) and what is wrong with it.
    """
    items, unit = _items(file)
    paths, captions, turns, times, others = [], [], [], [], []
    for number, item in items:
        where = f"{file} {unit} {number}"
        if not isinstance(item, dict):
            raise UserError(f'{where}: expected an object such as {{"video": ...}}, found {_short(item)}')
        field = next((name for name in _PATHS if name in item), None)
        if field is None or not isinstance(item[field], str) or not item[field].strip():
            raise UserError(f"{where}: names no file; expected a string in {', '.join(map(repr, _PATHS))}")
        paths.append(item[field].strip())
        turns.append(_turns(item["conversations"], where) if "conversations" in item else ())
        captions.append(tuple(a for _, a in turns[-1]) if turns[-1] else _captions(item, column, where))
        times.append(_span(item, where))
        known = {field, "conversations", column, *_CAPTIONS, *_TIMES}
        others.append({name: value for name, value in item.items() if name not in known})
    spans = np.array(times) if np.isfinite(times).any() else None
    if not any(turns):
        turns = []
    if not any(captions):
        captions = []
    numbers = [number for number, _ in items]
    return Entries(paths, captions, turns, spans, _columns(others), numbers, unit)


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


def _items(file: Path) -> tuple[list[tuple[int, Any]], str]:
    """(number, object) of every sample, and what the number counts."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if file.suffix.lower() == ".jsonl":
        items = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                items.append((number, _parse(line, f"{file} line {number}")))
        unit = "line"
    else:
        whole = _parse(text, str(file)) if text.strip() else []
        if not isinstance(whole, list):
            raise UserError(f"{file}: expected a JSON list of objects, found {_short(whole)}")
        items, unit = list(enumerate(whole, 1)), "item"
    if not items:
        raise UserError(f"{file}: is empty; expected an object for each video")
    return items, unit


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: is no JSON ({error}); one object for each video is expected") from error


def _captions(item: dict, column: str, where: str) -> tuple[str, ...]:
    field = next((name for name in (column, *_CAPTIONS) if name in item), None)
    if field is None:
        return ()
    found = caption_list(item[field])
    if found is None:
        raise UserError(f"{where}: {field} is {_short(item[field])}; expected a text or a list of texts")
    return found


def _turns(conversation: Any, where: str) -> Turns:
    """Questions and answers in turn; what a system says comes before the first question."""
    said = []
    for message in conversation if isinstance(conversation, list) else [None]:
        who = message.get("from", message.get("role")) if isinstance(message, dict) else None
        text = message.get("value", message.get("content")) if isinstance(message, dict) else None
        if who not in (*_ASKS, *_ANSWERS, "system") or not isinstance(text, str):
            raise UserError(
                f'{where}: conversations holds {_short(message)}; expected {{"from": "human" or "gpt", "value": "..."}}'
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
            raise UserError(f"{where}: {name} is {_short(value)}; expected seconds")
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


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

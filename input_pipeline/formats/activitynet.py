"""ActivityNet: captions {"v_id": {"duration", "timestamps", "sentences"}} and actions {"v_id": {"annotations": [...]}}.

Captions: `paragraphs=True` (as retrieval is measured) makes a sample for each video, whose caption is all its
sentences in their order; `paragraphs=False` one for each sentence, shown from its start to its end. Annotators wrote
some times the wrong way round; they are put in order.

Actions (`annotations` with `segment` in seconds and `label`; as published, all that below `database`, where videos lack
the "v_" of their files: template="v_{id}.mp4"): a sample for each segment, classes in sorted order of their names or by
`labels`. `split` chooses by `subset` ("training", "validation").
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from input_pipeline.formats.base import Document, Table, fill, seconds, short
from input_pipeline.labels import Classes, class_numbers
from vfm.errors import UserError

OPTIONS = {"template": "{id}.mp4", "paragraphs": True, "labels": "", "split": ""}


def detect(document: Document) -> bool:
    if document.values_have("timestamps", "sentences"):
        return True
    videos = _database(document) if document.is_json and isinstance(document.json, dict) else {}
    first = next(iter(videos.values()), None)
    return isinstance(first, dict) and isinstance(first.get("annotations"), list)


def _database(document: Document) -> dict[str, Any]:
    """{video: what is known about it}."""
    below = document.json.get("database") if isinstance(document.json, dict) else None
    return below if isinstance(below, dict) and below else document.entries


def read(document: Document, options: Mapping[str, Any]) -> Table:
    videos = everything = _database(document)
    if not all(isinstance(entry, dict) for entry in videos.values()):
        raise UserError(f"{document}: {short(videos)}; expected {{video: {{...}}}}")
    if options["split"]:
        videos = {name: entry for name, entry in videos.items() if entry.get("subset") == options["split"]}
        if not videos:
            there = sorted({str(entry.get("subset")) for entry in everything.values()})
            raise UserError(
                f"{document}: no video has subset '{options['split']}'; there is: {', '.join(there)}"
            )
    captioned = document.values_have("timestamps", "sentences")
    rows = list((_sentences if captioned else _actions)(document, videos))
    table = Table([], unit="item")
    if captioned and options["paragraphs"]:
        paragraphs: dict[str, list[str]] = {}
        for name, _, text in rows:
            paragraphs.setdefault(name, []).append(text)
        table.captions = [(" ".join(texts),) for texts in paragraphs.values()]
        names = list(paragraphs)
    else:
        names = [name for name, _, _ in rows]
        table.spans = np.array([span for _, span, _ in rows]).reshape(-1, 2)
        texts = [text for _, _, text in rows]
        if captioned:
            table.captions = [(text,) for text in texts]
        else:
            _label(document, options, table, texts, everything)
    table.paths = [fill(options["template"], {"id": name}, str(document)) for name in names]
    table.words["id"] = names
    return table


def _label(
    document: Document, options: Mapping[str, Any], table: Table, values: list[str], videos: Mapping[str, Any]
) -> None:
    everywhere = {text for _, _, text in _actions(document, videos)}
    classes = document.classes(options) or Classes(sorted(everywhere))
    lines = list(range(1, len(values) + 1))
    table.labels["label"] = class_numbers(document.path, lines, "label", values, classes)
    table.label_names["label"], table.words["label"] = classes.names, values


def _span(pair: Any, where: str) -> tuple[float, float]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise UserError(f"{where}: {short(pair)} is no part of a video; expected [start, end] in seconds")
    start, end = sorted(seconds(value, where) for value in pair)
    return start, end


def _sentences(
    document: Document, videos: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[float, float], str]]:
    """(id, span, sentence) of every sentence."""
    for name, entry in videos.items():
        where = f"{document} '{name}'"
        times, texts = entry.get("timestamps"), entry.get("sentences")
        if not isinstance(times, list) or not isinstance(texts, list) or len(times) != len(texts):
            raise UserError(f"{where}: expected as many sentences as timestamps")
        for pair, text in zip(times, texts, strict=True):
            if not isinstance(text, str):
                raise UserError(f"{where}: a sentence is {short(text)}; expected a text")
            yield name, _span(pair, where), text.strip()


def _actions(document: Document, videos: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, float], str]]:
    """(id, span, class) of every segment."""
    for name, entry in videos.items():
        where = f"{document} '{name}'"
        if not isinstance(entry.get("annotations"), list):
            raise UserError(f"{where}: {short(entry)}; expected timestamps and sentences, or annotations")
        for action in entry["annotations"]:
            if not isinstance(action, dict) or not isinstance(action.get("label"), str):
                raise UserError(f"{where}: {short(action)}; expected a segment and a label")
            yield name, _span(action.get("segment"), where), action["label"]

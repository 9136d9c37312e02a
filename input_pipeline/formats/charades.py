"""Charades and Charades-Ego: CSV with `id`, `script`, `descriptions`, `actions` ("c092 11.90 21.20;c147 0.00 12.60").

`moments=False`: a sample for each video, whose label has several of the 157 classes and whose captions are its
descriptions and script. `moments=True`: a sample for each action, shown from its start to its end, with one label.
`view` keeps the videos of one camera of Charades-Ego: "first" or "third" person. `Charades_v1_classes.txt` beside the
file (or `labels`) names the classes ("c000 Holding some clothes").
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from input_pipeline.formats.base import Document, Table, fill
from input_pipeline.labels import multi_label
from vfm.errors import UserError

OPTIONS = {"template": "{id}.mp4", "moments": False, "view": "", "labels": ""}
_CLASSES = 157
_ACTION = re.compile(r"^c(\d{3}) (\d+(?:\.\d*)?) (\d+(?:\.\d*)?)$")
_VIEWS = {"first": "yes", "third": "no"}


def detect(document: Document) -> bool:
    return document.has_columns("id", "subject", "scene", "script", "actions")


def read(document: Document, options: Mapping[str, Any]) -> Table:
    lines, columns = document.rows()
    keep = range(len(lines))
    if options["view"]:
        if options["view"] not in _VIEWS or "egocentric" not in columns:
            raise UserError(
                f"{document}: view='{options['view']}': expected first or third, of a file with a column 'egocentric'"
            )
        keep = [i for i in keep if columns["egocentric"][i].lower() == _VIEWS[options["view"]]]
    classes = document.classes(options, "label", "Charades_v1_classes.txt")
    names = classes.names if classes else [""] * _CLASSES
    table, numbers, spans, labels = Table([], captions=[], words={"id": []}), [], [], []
    for i in keep:
        where = f"{document} line {lines[i]}"
        actions = [_action(text, where) for text in columns["actions"][i].split(";") if text.strip()]
        texts = [columns[name][i] for name in ("descriptions", "script") if name in columns]
        for some in [[action] for action in actions] if options["moments"] else [actions]:
            table.paths.append(fill(options["template"], {"id": columns["id"][i]}, where))
            table.words["id"].append(columns["id"][i])
            numbers.append(lines[i])
            labels.append([label for label, _, _ in some])
            if options["moments"]:
                spans.append(some[0][1:])
                table.captions.append(tuple(names[label] for label in labels[-1] if names[label : label + 1]))
            else:
                table.captions.append(tuple(text for text in texts if text))
    table.lines = numbers
    several = multi_label(document.path, numbers, "actions", labels, names)
    if options["moments"]:
        table.spans = np.array(spans).reshape(-1, 2)
        table.labels["label"] = np.array([some[0] for some in labels], np.int32)
    else:
        table.labels["label"] = several
    if classes:
        table.label_names["label"] = names
    elif options["moments"]:
        table.captions = []
    return table


def _action(text: str, where: str) -> tuple[int, float, float]:
    match = _ACTION.match(text.strip())
    if not match:
        raise UserError(f"{where}: the action '{text}'; expected 'c092 11.90 21.20'")
    start, end = sorted((float(match[2]), float(match[3])))
    return int(match[1]), start, end

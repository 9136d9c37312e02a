"""HVU (Holistic Video Understanding), as mmaction2 lists it: JSON [{"filename", "label": {"action": [180], ...}}].

A column of several classes for each kind of tag; `action` stands first, so that it is the batch's `label`. A column has
as many classes as a `classes.json` beside the file names, else as many as its largest number says.
"""

from collections.abc import Mapping
from typing import Any

from input_pipeline.formats.base import Document, Table, each, fill, short, text_of
from input_pipeline.formats.mmaction import add_several
from vfm.errors import UserError

OPTIONS = {"template": "{id}"}


def detect(document: Document) -> bool:
    return document.first_has("filename", "label") and isinstance(document.json[0]["label"], dict)


def read(document: Document, options: Mapping[str, Any]) -> Table:
    table, lines, tags = Table([], unit=document.unit), [], []
    for number, entry, where in each(document):
        table.paths.append(fill(options["template"], {"id": text_of(entry, "filename", where)}, where))
        lines.append(number)
        tags.append(entry.get("label"))
        if not isinstance(tags[-1], dict) or not all(isinstance(some, list) for some in tags[-1].values()):
            raise UserError(f"{where}: label is {short(tags[-1])}; expected a list of classes by kind of tag")
    table.lines = lines
    kinds = list(dict.fromkeys(kind for some in tags for kind in some))
    for kind in sorted(kinds, key=lambda kind: kind != "action"):
        add_several(document, table, kind, [some.get(kind, []) for some in tags], document.classes({}, kind))
    return table

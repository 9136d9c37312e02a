"""Something-Something v2 as published: a JSON list of {"id", "label", "template", "placeholders"}.

`template` is the class ("Holding [something] next to [something]"), `label` its description with the objects named,
which becomes the caption; test sets have ids only. Classes are numbered by the file of `labels`, or by
`something-something-v2-labels.json` or `labels.json` beside the file, all of which come with the data set
({"Holding something next to something": "37"}); brackets and capitals do not matter.
"""

from collections.abc import Mapping
from typing import Any

from input_pipeline.formats.base import Document, Table, each, fill, text_of
from input_pipeline.labels import class_numbers
from vfm.errors import UserError

OPTIONS = {"template": "{id}.webm", "labels": ""}
_LABELS = ("something-something-v2-labels.json", "labels.json", "something-something-v2-labels.csv")


def detect(document: Document) -> bool:
    return document.first_has("id", "template", "placeholders") or _is_test(document)


def _is_test(document: Document) -> bool:
    return document.first_has("id") and document.json[0].keys() == {"id"}


def read(document: Document, options: Mapping[str, Any]) -> Table:
    table, lines, templates = Table([], unit=document.unit, captions=[]), [], []
    for number, entry, where in each(document):
        clip = text_of(entry, "id", where)
        table.paths.append(fill(options["template"], {"id": clip}, where))
        lines.append(number)
        if "template" in entry:
            templates.append(plain(text_of(entry, "template", where)))
            table.captions.append((text_of(entry, "label", where),))
    table.lines = lines
    if not templates:
        return table
    if len(templates) < len(lines):
        raise UserError(f"{document}: some entries have a template and some have none; expected all or none")
    classes = document.classes(options, "label", *_LABELS)
    if classes is None:
        raise UserError(
            f"{document}: the file that numbers the classes is not beside it ({_LABELS[0]}); put it there, or name it "
            f"with labels=FILE"
        )
    index = {plain(name).lower(): str(classes.first + i) for i, name in enumerate(classes.names)}
    values = [index.get(name.lower(), name) for name in templates]
    table.labels["label"] = class_numbers(document.path, lines, "label", values, classes)
    table.label_names["label"] = [plain(name) for name in classes.names]
    table.words["label"] = templates
    return table


def plain(template: str) -> str:
    """A template without the brackets around its objects."""
    return template.replace("[", "").replace("]", "")

"""VATEX: a JSON list of {"videoID", "enCap": [...], "chCap": [...]}; a sample for each video with all its captions.

`language` is "en" or "zh". Test sets without captions give videos alone.
"""

from collections.abc import Mapping
from typing import Any

from input_pipeline.formats.base import Document, Table, caption_list, each, fill, short, text_of, wanted_ids
from vfm.errors import UserError

OPTIONS = {"template": "{videoID}.mp4", "language": "en", "split": ""}
_CAPTIONS = {"en": "enCap", "zh": "chCap"}


def detect(document: Document) -> bool:
    return document.first_has("videoID")


def read(document: Document, options: Mapping[str, Any]) -> Table:
    if options["language"] not in _CAPTIONS:
        raise UserError(f"{document}: language='{options['language']}': expected en or zh")
    ids = wanted_ids(document, options["split"]) if options["split"] else None
    if options["split"] and ids is None:
        raise UserError(f"{document}: split='{options['split']}': no such file; expected a list of videos")
    table, lines = Table([], unit=document.unit, captions=[], words={"videoID": []}), []
    for number, entry, where in each(document):
        name = text_of(entry, "videoID", where)
        if ids is not None and name not in ids:
            continue
        captions = caption_list(entry.get(_CAPTIONS[options["language"]], []))
        if captions is None:
            raise UserError(f"{where}: captions are {short(entry)}; expected a list of texts")
        table.paths.append(fill(options["template"], {"videoID": name}, where))
        table.captions.append(captions)
        table.words["videoID"].append(name)
        lines.append(number)
    table.lines = lines
    if not any(table.captions):
        table.captions = []
    return table

"""Captions by file: a JSON object {"a.mp4": ["caption", ...], ...}, as mmaction2 and others list them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipeline.formats.base import Document, Table, caption_list, fill, short
from input_pipeline.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vfm.errors import UserError

OPTIONS = {"template": "{id}"}


def detect(document: Document) -> bool:
    some = list(document.json.items())[:1] if document.is_json and isinstance(document.json, dict) else []
    suffix = Path(some[0][0]).suffix.lower() if some else ""
    return suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES and isinstance(some[0][1], list | str)


def read(document: Document, options: Mapping[str, Any]) -> Table:
    table = Table([], unit="item", captions=[])
    for name, texts in document.entries.items():
        where = f"{document} '{name}'"
        captions = caption_list(texts)
        if captions is None:
            raise UserError(f"{where}: {short(texts)}; expected a text or a list of texts")
        table.paths.append(fill(options["template"], {"id": name}, where))
        table.captions.append(captions)
    return table

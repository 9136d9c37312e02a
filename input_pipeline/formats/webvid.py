"""WebVid: CSV `videoid,contentUrl,duration,page_dir,name`; `name` is the caption."""

from collections.abc import Mapping
from typing import Any

from input_pipeline.formats.base import Document, Table, fill

OPTIONS = {"template": "{page_dir}/{videoid}.mp4"}


def detect(document: Document) -> bool:
    return document.has_columns("videoid", "page_dir", "name")


def read(document: Document, options: Mapping[str, Any]) -> Table:
    lines, columns = document.rows()
    paths = [
        fill(options["template"], dict(zip(columns, cells, strict=True)), f"{document} line {line}")
        for line, *cells in zip(lines, *columns.values(), strict=True)
    ]
    return Table(paths, lines, captions=[(name,) for name in columns["name"]])

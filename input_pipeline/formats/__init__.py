"""Formats of annotation files: one module for each, found by name or by what is unmistakably in the file.

A format is a module with `OPTIONS` (what a source's config may set for it, with defaults), `detect(document)` (whether
the file is unmistakably of this format) and `read(document, options)`, which gives a `Table`. A new one is a file
beside these and a line in `FORMATS`.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from input_pipeline.formats import (
    activitynet,
    captions,
    charades,
    conversations,
    didemo,
    egoclip,
    epic,
    hmdb51,
    hvu,
    kinetics,
    lsmdc,
    mmaction,
    msrvtt,
    msvd,
    plain,
    ssv2,
    table,
    ucf101,
    vatex,
    webvid,
)
from input_pipeline.formats.base import JSON_SUFFIXES, Document, Table, complete, fields_of
from vfm.errors import UserError
from vfm.parts import nearest

GENERAL = {"csv": table, "list": plain, "json": conversations}
FORMATS: dict[str, ModuleType] = GENERAL | {
    "activitynet": activitynet,
    "captions": captions,
    "charades": charades,
    "didemo": didemo,
    "egoclip": egoclip,
    "epic": epic,
    "hmdb51": hmdb51,
    "hvu": hvu,
    "kinetics": kinetics,
    "lsmdc": lsmdc,
    "mmaction2": mmaction,
    "msrvtt": msrvtt,
    "msvd": msvd,
    "ssv2": ssv2,
    "ucf101": ucf101,
    "vatex": vatex,
    "webvid": webvid,
}
LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".list", *JSON_SUFFIXES, ".pkl")


def options_of(name: str) -> Mapping[str, Any]:
    """The options of a format, with defaults.

    Raises:
      UserError: there is no such format.
    """
    if name not in FORMATS:
        raise UserError(
            f"format='{name}'{nearest(name, FORMATS)}: expected auto or one of {', '.join(FORMATS)}"
        )
    return FORMATS[name].OPTIONS


def detect(document: Document, options: Mapping[str, Any]) -> str:
    """The name of a document's format.

    Raises:
      UserError: it may be one of several.
    """
    found = [name for name, module in FORMATS.items() if name not in GENERAL and module.detect(document)]
    if len(found) > 1:
        raise UserError(f"{document}: may be of the formats {', '.join(found)}; say which with format=NAME")
    if found:
        return found[0]
    if document.is_json:
        return "json"
    fields = fields_of(options.get("template") or "")
    return "csv" if table.detect(document) or fields and document.has_columns(*fields) else "list"


def read(document: Document, name: str, options: Mapping[str, Any]) -> Table:
    """Reads a document as the format `name`, with those options that are not its defaults.

    Raises:
      UserError: there is no such format or option, or the document is not of it.
    """
    chosen = complete(options_of(name), options, name, str(document))
    try:
        return FORMATS[name].read(document, chosen)
    except KeyError as error:
        raise UserError(f"{document}: is not of format '{name}': it has no {error}") from error

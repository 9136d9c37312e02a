"""MSVD (YouTube2Text): `raw-captions.pkl` {clip: [[word, ...], ...]}, or lines `clip caption` as published.

A sample for each clip, with all its captions; `split` is a file of clips, such as `train_list.txt`. Of the pickle only
lists, texts and numbers are read: one that holds anything else is refused, and runs nothing.
"""

import collections
import pickle
import re
from collections.abc import Mapping
from typing import Any

from input_pipeline.formats.base import Document, Table, fill, short, wanted_ids
from vfm.errors import UserError

OPTIONS = {"template": "{id}.avi", "split": ""}
_LINE = re.compile(r"^([\w-]{11}_\d+_\d+)\s+(\S.*)$")


def detect(document: Document) -> bool:
    if document.path.name == "raw-captions.pkl":
        return True
    lines = [line for _, line in document.lines if not line.startswith("#")] if document.is_text else []
    return bool(lines) and all(_LINE.match(line.strip()) for line in lines)


def read(document: Document, options: Mapping[str, Any]) -> Table:
    captions = _pickled(document) if document.suffix == ".pkl" else _listed(document)
    if options["split"]:
        ids = wanted_ids(document, options["split"])
        if ids is None:
            raise UserError(f"{document}: split='{options['split']}': no such file; expected a list of clips")
        if absent := ids - captions.keys():
            raise UserError(
                f"{document}: {len(absent)} clips of the split have no captions, e.g. '{min(absent)}'"
            )
        captions = {clip: some for clip, some in captions.items() if clip in ids}
    paths = [fill(options["template"], {"id": clip}, str(document)) for clip in captions]
    return Table(paths, captions=list(captions.values()))


def _listed(document: Document) -> dict[str, tuple[str, ...]]:
    found = collections.defaultdict(list)
    for number, line in document.lines:
        if line.startswith("#"):
            continue
        match = _LINE.match(line.strip())
        if not match:
            raise UserError(f"{document} line {number}: '{line[:60]}'; expected a clip and a caption")
        found[match[1]].append(match[2])
    return {clip: tuple(some) for clip, some in found.items()}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"holds {module}.{name}")


def _pickled(document: Document) -> dict[str, tuple[str, ...]]:
    try:
        with document.path.open("rb") as file:
            found = _PlainUnpickler(file, encoding="utf-8").load()
        if not isinstance(found, dict):
            raise TypeError(f"found {type(found).__name__}")
        return {str(clip): tuple(map(_sentence, some)) for clip, some in found.items()}
    except OSError:
        raise
    except Exception as error:  # damaged pickles raise anything, MemoryError too
        why = str(error) or type(error).__name__
        raise UserError(
            f"{document}: is no pickle of {{clip: [words of a caption, ...]}} ({why}); give raw-captions.pkl"
        ) from error


def _sentence(words: Any) -> str:
    if isinstance(words, str):
        return words
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"a caption is {short(words)}")
    return " ".join(words)

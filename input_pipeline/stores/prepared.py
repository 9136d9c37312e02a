"""Prepared sets, which `python -m scripts.prepare_data` makes; see `input_pipeline.records`.

n samples.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from input_pipeline.decode import BadVideo, Video
from input_pipeline.formats.base import Table
from input_pipeline.labels import MultiLabel
from input_pipeline.media import Media
from input_pipeline.packets import PacketVideo
from input_pipeline.records import FORMAT, INDEX, MANIFEST, PLAN, VERSION, read_record
from input_pipeline.stores.base import Request
from vfm.errors import UserError

OPTIONS: dict[str, Any] = {}


@dataclass(frozen=True)
class Prepared:
    """A prepared set: its manifest, and its index as columns.

    Attributes:
      folder: where it is.
      manifest: what `manifest.json` says.
      samples: of each sample of the original source: `name`, and as far as known `labels`, `captions`, `words`,
        `turns`, `line`, `span` (of the record's video); `shard` and `record`, or `bad`, the reason why it has none.
    """

    folder: Path
    manifest: dict[str, Any]
    samples: list[dict[str, Any]] = field(repr=False)

    def table(self) -> Table:
        """What is known about the samples."""
        samples, columns = self.samples, self.manifest["columns"]
        labels = {}
        for name, count in columns["labels"].items():
            values = [sample["labels"][name] for sample in samples]
            labels[name] = MultiLabel(values, count) if count else np.array(values, np.int32)
        spans = [sample.get("span") or (np.nan, np.nan) for sample in samples]
        return Table(
            paths=[sample["name"] for sample in samples],
            labels=labels,
            captions=[tuple(s["captions"]) for s in samples] if columns["captions"] else (),
            label_names=self.manifest["label_names"],
            lines=[sample["line"] for sample in samples] if columns["lines"] else (),
            words={name: [sample["words"][name] for sample in samples] for name in columns["words"]},
            unit=columns["unit"],
            turns=[tuple(map(tuple, s["turns"])) for s in samples] if columns["turns"] else (),
            spans=_spans(spans) if columns["spans"] else None,
        )

    @property
    def media(self) -> "Records":
        shards = [os.path.join(self.folder, shard["file"]) for shard in self.manifest["shards"]]
        places = np.array([[s.get("shard", -1), s.get("record", -1)] for s in self.samples], np.int64)
        bad = {i: s["bad"] for i, s in enumerate(self.samples) if "bad" in s}
        return Records(shards, [s["name"] for s in self.samples], places.reshape(-1, 2), bad)


def detect(path: str) -> bool:
    """Whether a path is a prepared set's folder (finished or not), or its manifest."""
    if "://" in path:
        return False
    place = Path(path).expanduser()
    files = [place / MANIFEST, place / PLAN] if place.is_dir() else [place] * (place.name == MANIFEST)
    for file in files:
        try:
            if json.loads(file.read_text(encoding="utf-8"))["format"] == FORMAT:
                return True
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return False


def read(request: Request) -> tuple[Table, Media]:
    """What a prepared set holds: its samples are those of the source that it was made from, with the same ids.

    Raises:
      UserError: as `open_prepared`.
    """
    found = open_prepared(request.path, request.key)
    return found.table(), found.media


def open_prepared(path: str | os.PathLike, key: str = "data.train") -> Prepared:
    """The prepared set in a folder.

    Raises:
      UserError: it is none, its preparation was not finished, or it was made by another version.
    """
    folder = Path(path).expanduser()
    folder = folder.parent if folder.name == MANIFEST else folder
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["format"], manifest["version"]
        # Not splitlines: it also splits at characters that may stand in a caption.
        lines = (folder / INDEX).read_text(encoding="utf-8").split("\n")
        samples = [json.loads(line) for line in lines if line]
    except FileNotFoundError as error:
        raise UserError(
            f"{key}='{path}': {Path(error.filename).name} is missing; expected a folder that scripts.prepare_data has "
            f"finished (run it again to go on)"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{key}='{path}': its {MANIFEST} or {INDEX} is damaged ({error}); prepare it again"
        ) from error
    if found != (FORMAT, VERSION):
        raise UserError(
            f"{key}='{path}': is {found[0]} {found[1]}; expected {FORMAT} {VERSION}; prepare it again"
        )
    if len(samples) != manifest["samples"]:
        raise UserError(
            f"{key}='{path}': {INDEX} has {len(samples)} samples, {MANIFEST} says {manifest['samples']}; "
            f"prepare it again"
        )
    return Prepared(folder, manifest, samples)


class Records:
    """The videos of a prepared set, by sample.

    Args:
      shards: their files.
      names: of the samples.
      places: shard and record of each sample; -1 where it has none.
      bad: sample -> reason, of those without a record.
    """

    def __init__(
        self,
        shards: Sequence[str],
        names: Sequence[str],
        places: Int64[np.ndarray, "n 2"],
        bad: dict[int, str],
    ):
        self._shards, self._names, self._places, self._bad = shards, names, places, bad

    def __len__(self) -> int:
        return len(self._names)

    def open(self, index: int) -> PacketVideo | Video:
        name = self._names[index]
        if index in self._bad:
            raise BadVideo(name, self._bad[index])
        shard, record = (int(value) for value in self._places[index])
        return read_record(self._shards[shard], record, name).open(name)

    def missing(self, indices: Iterable[int]) -> dict[int, str]:
        gone = {
            k: f"no such file: {shard}" for k, shard in enumerate(self._shards) if not os.path.exists(shard)
        }
        found = {i: self._bad.get(i) or gone.get(int(self._places[i, 0])) for i in indices}
        return {i: reason for i, reason in found.items() if reason}

    def name(self, index: int) -> str:
        return self._names[index]

    def stamp(self, index: int) -> str:
        if index in self._bad:
            return ""
        shard, record = (int(value) for value in self._places[index])
        try:
            status = os.stat(self._shards[shard])
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns} {record}"


def _spans(spans: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Spans of which an end may be open (None)."""
    return np.array([[start, np.inf if end is None else end] for start, end in spans], np.float64)

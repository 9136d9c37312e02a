"""Where videos and their labels come from: an annotation file, a folder, or a single file.

`open_source(spec)` gives a `Source`: how many samples there are, each one by its index, and what the label columns
mean. The index of a sample is its stable id.

What a spec may be is in `input_pipeline.spec`; annotation files are read by `input_pipeline.formats`:

  CSV with a header   `path`, columns of integers (labels), `caption`, see `formats.table`
  list without one    `path label`, `path,label` or paths alone, see `formats.plain`
  JSON list           `.json`, `.jsonl`: captions or conversations, see `formats.conversations`
  as published        Kinetics, Something-Something v2, UCF101, MSR-VTT and others: each its own module
  folder              one subfolder is one class (sorted by name), or plain video files without labels
  one video file      a set of one; `clips/*.mp4`, `{a,b}/clip_{000..123}.mp4`: those files
  several lists       `train_{00..15}.csv`, `lists/*.jsonl`: of one format, as one, see `joined`
  shards and the like `input_pipeline.stores`: WebDataset, Parquet, ArrayRecord, TFDS, folders of frames

All of them may be elsewhere (gs://, s3://, hf://, https://), see `input_pipeline.storage`.

The same holds for images, which are read as videos of one frame.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32

from input_pipeline import formats, storage, stores
from input_pipeline.clips import Part
from input_pipeline.folders import read_folder
from input_pipeline.formats import LIST_SUFFIXES, hmdb51
from input_pipeline.formats.base import Document, Table, Turns, complete
from input_pipeline.joined import join_tables
from input_pipeline.labels import Labels
from input_pipeline.media import Files, Media, OpenVideo
from input_pipeline.skips import skipped
from input_pipeline.spec import Spec, absent, describe, resolve
from input_pipeline.storage import RemotePath
from input_pipeline.stores.base import Request
from input_pipeline.stores.frames import FRAME_OPTIONS, FrameFolders
from input_pipeline.suffixes import SUFFIXES
from vfm.errors import UserError

__all__ = ["Sample", "Source", "open_source"]


@dataclass(frozen=True)
class Sample:
    """One video with what is known about it; `id` is its index in the source."""

    path: str
    labels: dict[str, int | Int32[np.ndarray, "K"]]
    captions: tuple[str, ...]
    id: int

    @property
    def caption(self) -> str:
        """The first caption, "" if there is none."""
        return self.captions[0] if self.captions else ""


@dataclass(frozen=True)
class Source:
    """A list of samples.

    Attributes:
      name: what the user gave.
      key: the configuration key it was given under, for messages.
      paths: of the files, absolute or relative to the working folder.
      labels: column -> the class of each sample (`MultiLabel`: rows of 0, 1); the first column is the batch's `label`.
      captions: of each sample, one or several (of conversations: the answers); empty if there are none.
      label_names: column -> names of its classes, where they are known.
      lines: of each sample in its list file; empty for folders.
      unit: what `lines` counts.
      lists: (first sample, file) of each list file, where there are several.
      words: column -> the text of each sample, of every column but the path and those of integers.
      turns: questions and answers of each sample; empty if there are none.
      spans: seconds from which and to which each sample's video is shown (NaN = all of it), where any has such.
      skipped: index -> reason, of the samples that are left out of training and counted as bad in an evaluation.
      media: what opens the videos; None = they are the files `paths`. Otherwise `paths` are the names that it gives.
      decoder: the library that decodes videos that are files, see `backends`.
      format: what it was read as: "folder", "files", or a name of `formats` or `stores`.
    """

    name: str
    paths: Sequence[str]
    key: str = "data.train"
    labels: dict[str, Labels] = field(default_factory=dict)
    captions: Sequence[Sequence[str]] = ()
    label_names: dict[str, list[str]] = field(default_factory=dict)
    lines: Sequence[int] = ()
    words: dict[str, list[str]] = field(default_factory=dict)
    unit: str = "line"
    lists: Sequence[tuple[int, str]] = ()
    turns: Sequence[Turns] = ()
    spans: Float64[np.ndarray, "n 2"] | None = None
    media: Media | None = None
    skipped: Mapping[int, str] = field(default_factory=dict)
    decoder: str = "pyav"
    format: str = "files"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            path=self.paths[index],
            labels={name: _one(column[index]) for name, column in self.labels.items()},
            captions=tuple(self.captions[index]) if self.captions else (),
            id=index,
        )

    @property
    def store(self) -> Media:
        """What opens the videos."""
        return Files(self.paths, self.decoder) if self.media is None else self.media

    def open(self, index: int) -> OpenVideo | Part:
        """The video of a sample, or the part of it that is shown; a context manager.

        Raises:
          BadVideo: it cannot be read, or ends before its part begins.
        """
        video = self.store.open(index)
        if self.spans is None or np.isnan(self.spans[index, 0]):
            return video
        return Part(video, *self.spans[index])

    def where(self, index: int) -> str:
        """Where the sample was named, for messages."""
        name = next((file for start, file in reversed(self.lists) if start <= index), self.name)
        return f"{name} {self.unit} {self.lines[index]}" if self.lines else name

    def clip_name(self, index: int) -> str:
        """The sample's file, with the part of it that is shown, as media fragments are written."""
        if self.spans is None or np.isnan(self.spans[index, 0]):
            return self.paths[index]
        start, end = self.spans[index]
        return f"{self.paths[index]}#t={start:g},{'' if np.isinf(end) else f'{end:g}'}"


def _one(value: Any) -> int | Int32[np.ndarray, "K"]:
    """A sample's class, or its row of several classes."""
    return int(value) if np.ndim(value) == 0 else value


def open_source(
    spec: Spec,
    root: str | os.PathLike = "",
    key: str = "data.train",
    column: str = "caption",
    medium: str = "video",
    skip: str | os.PathLike = "",
) -> Source:
    """The source that `spec` describes; see `input_pipeline.spec` for what it may be.

    Args:
      spec: a path, a config file, or a mapping with `path` and options.
      root: what relative paths in a list are relative to; "" = the list's own folder.
      key: the configuration key that `spec` comes from, for messages.
      column: the column of captions.
      medium: "video" or "image"; which files a folder is searched for.
      skip: a list of samples to leave out, see `input_pipeline.skips`; a mapping may name one more.

    Raises:
      UserError: nothing is there, or its contents are not understood; the message names file, line and value.
    """
    if not spec:
        raise UserError(f"{key} is not set; give a CSV file or a folder of {medium}s")
    options = resolve(spec, key)
    if "sources" in options:
        parts = ", ".join(f"{name} ({describe(part)})" for name, part in options["sources"].items())
        raise UserError(
            f"{key} is a mixture of {parts}; expected one source here: give each of them by itself"
        )
    path = storage.place(options.pop("path"))
    root = str(options.pop("root", "") or root)
    given = dict(options)
    lists = [file for file in (options.pop("skip", ""), os.fspath(skip)) if file]
    try:
        source = replace(_open(path, root, key, column, medium, options), name=str(path), key=key)
    except OSError as error:
        raise UserError(f"{key}='{path}': cannot be read ({error.strerror or error})") from error
    for scheme in {
        name.partition("://")[0]: name for name in source.paths if storage.is_remote(name)
    }.values():
        storage.filesystem(scheme)  # says now what package is missing
    if not len(source):
        said = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise UserError(
            f"{key}='{path}': has no samples{f' with {said}' if said else ''}; expected one or more"
        )
    names = [
        (source.paths[i], source.clip_name(i)) if source.spans is not None else (source.paths[i],)
        for i in range(len(source) if lists else 0)
    ]
    found: dict[int, str] = {}
    for file in lists:
        found |= skipped(names, file, root)
    if len(found) == len(source):
        raise UserError(f"{key}='{path}': data.skip leaves out all of its {len(source)} samples")
    return replace(source, skipped=found)


def _open(
    path: Path | RemotePath, root: str, key: str, column: str, medium: str, options: dict[str, Any]
) -> Source:
    name = options.pop("format", "auto")
    if store := stores.find(str(path), name):
        table, media = stores.read(store, Request(str(path), options, key, column, medium, root))
        return replace(_source(table), media=media, format=store)
    frames = {option: options.pop(option) for option in FRAME_OPTIONS if options.get(option) is not None}
    complete(FRAME_OPTIONS, frames, "frames", str(path))
    if storage.has_pattern(path):
        files = storage.expand(path)
        if name == "auto" and not all(_is_list(file) for file in files):
            _only(options, key, path)
            return Source(name=str(path), paths=_matching(path, files, key, medium))
        return _listed(files, root, key, column, medium, name, options, frames)
    document = Document(path)
    if path.is_dir() and name == "auto" and not hmdb51.detect(document):
        _only(options, key, path, "labels")
        return replace(_source(read_folder(path, key, medium, **options)), format="folder")
    if not path.exists():
        lists = ", ".join(LIST_SUFFIXES)
        raise absent(
            path, key, f"a list ({lists}), a folder, shards, a {medium}, or FILE.py with get_config()"
        )
    suffix = path.suffix.lower()
    if name == "auto" and not path.is_dir() and suffix in SUFFIXES[medium]:
        _only(options, key, path)
        return Source(name=str(path), paths=[str(path)])
    if name == "auto" and not path.is_dir() and suffix not in LIST_SUFFIXES:
        raise UserError(
            f"{key}='{path}': '{suffix or path.name}' is no kind of source; expected a folder, a list "
            f"({', '.join(LIST_SUFFIXES)}) or a {medium} ({', '.join(sorted(SUFFIXES[medium]))})"
        )
    return _listed([str(path)], root, key, column, medium, name, options, frames)


def _listed(
    files: Sequence[str], root: str, key: str, column: str, medium: str, name: str, options: dict[str, Any],
    frames: dict[str, Any],
) -> Source:  # fmt: skip
    """The source that annotation files of one format describe."""
    places = [storage.place(file) for file in files]
    if absent := [str(place) for place in places if not place.exists()]:
        raise UserError(f"{key}: {len(absent)} of {len(files)} lists are not there, e.g. {absent[0]}")
    documents = [Document(place) for place in places]
    kinds = [formats.detect(document, options) if name == "auto" else name for document in documents]
    if other := [i for i, kind in enumerate(kinds) if kind != kinds[0]]:
        raise UserError(
            f"{key}: {files[0]} is of the format {kinds[0]} and {files[other[0]]} of {kinds[other[0]]}; expected lists "
            f"of one format, or say which they are with format=NAME"
        )
    if column != "caption" and "column" in formats.options_of(kinds[0]):
        options.setdefault("column", column)
    tables = []
    for document, place in zip(documents, places, strict=True):
        table = formats.read(document, kinds[0], options)
        folder = storage.place(root) if root else place if place.is_dir() else place.parent
        table.paths = [storage.join(folder, path) for path in table.paths]
        tables.append(table)
    table = tables[0] if len(tables) == 1 else join_tables(tables, files)
    source = replace(_source(table), format=kinds[0])
    if len(files) > 1:
        starts = np.cumsum([0, *(len(some.paths) for some in tables)]).tolist()
        source = replace(source, lists=list(zip(starts[:-1], files, strict=True)))
    if not frames and (not table.frames or _are_files(table.paths, medium)):
        return source
    folders = FrameFolders(source.paths, table.frames, **frames)
    return replace(source, paths=[folders.name(i) for i in range(len(source))], media=folders)


def _is_list(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in LIST_SUFFIXES


def _are_files(paths: Sequence[str], medium: str) -> bool:
    return all(os.path.splitext(path)[1].lower() in SUFFIXES[medium] for path in paths)


def _matching(path: Path | RemotePath, found: list[str], key: str, medium: str) -> list[str]:
    """The videos that a pattern stands for."""
    if not _are_files(found, medium):
        other = next(file for file in found if not _are_files([file], medium))
        raise UserError(
            f"{key}='{path}': stands for {len(found)} files, of which '{other}' is no {medium}; expected {medium}s "
            f"({', '.join(sorted(SUFFIXES[medium]))}), or lists of one format ({', '.join(LIST_SUFFIXES)}), or shards "
            f"of one kind"
        )
    return found


def _only(options: Mapping[str, Any], key: str, path: Path, *known: str) -> None:
    """Refuses options that a source without an annotation file does not take."""
    if unknown := sorted(options.keys() - set(known)):
        raise UserError(f"{key}='{path}': '{unknown[0]}' is an option of annotation files; leave it out")


def _source(table: Table) -> Source:
    """A source of what an annotation file says; its paths are as they are from here."""
    return Source(
        name="",
        paths=table.paths,
        labels=table.labels,
        captions=table.captions,
        label_names=table.label_names,
        lines=table.lines,
        words=table.words,
        unit=table.unit,
        turns=table.turns,
        spans=table.spans,
    )

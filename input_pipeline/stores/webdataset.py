"""WebDataset: tar shards in which files of one name and different endings are one sample.

  clip01.mp4  clip01.json  clip01.txt  clip01.cls      a video, its fields, its caption, its class

The headers of a shard are read once and kept; after that any sample is read by its place in the file, without the ones
before it. Fields of `.json` are columns (`caption` or the column of captions, `label`, whatever else there is); `.txt`
is the caption and `.cls` the label where `.json` has none. The key of a sample ends at the first dot of its file's
name, as WebDataset has it.

A shard that is cut off gives its whole members. What it breaks off in, and a shard that is no tar file, are samples
that cannot be read: counted and named as other bad files are. Nothing is unpacked; links and special files are ignored.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from input_pipeline import storage
from input_pipeline.decode import BadVideo, Video
from input_pipeline.formats.base import Table
from input_pipeline.media import open_part
from input_pipeline.stores.base import Request, detect_shards, ends_with, shards, tabulate
from input_pipeline.stores.index import read_shards
from input_pipeline.suffixes import IMAGE_SUFFIXES, SUFFIXES, VIDEO_SUFFIXES
from vfm.errors import UserError

# `member`: ending of the file to show, of several; `label`: fields that are labels; `labels`: class names.
OPTIONS = {"member": "", "label": "label", "labels": ""}
_VERSION = "webdataset 1"
_BLOCK = tarfile.BLOCKSIZE
_NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")
_TEXTS = ("json", "txt", "cls")
_LONGEST = 2**24  # bytes of a header or of a field's file: more is damage
_is_tar = ends_with(r"\.tar")
_is_packed = ends_with(r"\.tar\.\w+|\.tgz")


def detect(path: str) -> bool:
    return detect_shards(path, _is_tar) or _is_packed(path)


def read(request: Request) -> tuple[Table, "TarMedia"]:
    if _is_packed(request.path):
        raise UserError(
            f"{request.key}='{request.path}': samples of a compressed shard cannot be read one by one; unpack it to "
            f"a plain .tar (videos are compressed already)"
        )
    files = shards(request, _is_tar, "tar shards (.tar)")
    names, places, bad, fields = [], [], {}, []
    stamps = []
    for number, (file, (stamp, index)) in enumerate(
        zip(files, read_shards(files, _VERSION, _index), strict=True)
    ):
        stamps.append(stamp)
        for key, members, entry in index["samples"]:
            wanted = str(request.options["member"]).lstrip(".").lower()
            ending = _shown(members, request.medium, wanted, f"{file}::{key}")
            if ending:
                names.append(f"{file}::{key}.{ending}")
                places.append((number, *members[ending]))
                fields.append(entry)
        for name, reason in index["bad"]:
            bad[len(names)] = reason
            names.append(f"{file}::{name}" if name else file)
            places.append((number, 0, 0))
            fields.append({})
    for label in str(request.options["label"]).split(","):
        bad |= _without(label.strip(), fields, bad)
    if len(bad) == len(names):
        reason = f": {names[0]}: {bad[0]}" if bad else f" of {', '.join(sorted(SUFFIXES[request.medium]))}"
        raise UserError(
            f"{request.key}='{request.path}': no sample has a {request.medium} that can be read{reason}"
        )
    columns = {
        name: [entry.get(name) for entry in fields] for name in dict.fromkeys(n for e in fields for n in e)
    }
    return tabulate(request, names, columns, bad), TarMedia(files, stamps, names, np.array(places), bad)


def _shown(members: dict[str, Any], medium: str, wanted: str, where: str) -> str:
    """The ending of a sample's file that is shown, "" if there is none.

    Raises:
      UserError: it may be one of several.
    """
    if wanted:
        return wanted if wanted in members else ""
    order = [VIDEO_SUFFIXES, IMAGE_SUFFIXES] if medium == "video" else [IMAGE_SUFFIXES]
    for suffixes in order:
        fit = [ending for ending in members if f".{ending.rpartition('.')[2]}" in suffixes]
        plain = [ending for ending in fit if "." not in ending]
        for some in (fit, plain):
            if len(some) == 1:
                return some[0]
        if fit:
            # One of them would be shown and the others dropped without a word.
            raise UserError(
                f"{where}: has {', '.join(fit)}; the key of a sample ends at the first dot of its name. Say which to "
                f"show by member=ENDING, or name the files so that each key is there once"
            )
    return ""


def _without(label: str, fields: Sequence[dict[str, Any]], bad: dict[int, str]) -> dict[int, str]:
    """The samples that lack a label which others have: their .json or .cls is missing or damaged."""
    lacking = [i for i, entry in enumerate(fields) if i not in bad and entry.get(label) in (None, "")]
    if len(lacking) + len(bad) == len(fields):
        return {}
    return dict.fromkeys(lacking, f"its .json or .cls says no '{label}', which those of other samples do")


class TarMedia:
    """Videos that are members of tar files."""

    def __init__(
        self,
        shards: Sequence[str],
        stamps: Sequence[str],
        names: Sequence[str],
        places: np.ndarray,
        bad: dict[int, str],
    ):
        self._shards, self._stamps, self._names, self._places, self._bad = shards, stamps, names, places, bad

    def __len__(self) -> int:
        return len(self._names)

    def open(self, index: int) -> Video:
        if index in self._bad:
            raise BadVideo(self._names[index], self._bad[index])
        shard, start, size = (int(value) for value in self._places[index])
        return open_part(self._names[index], self._shards[shard], start, size)

    def missing(self, indices: Iterable[int]) -> dict[int, str]:
        return {i: self._bad[i] for i in indices if i in self._bad}

    def name(self, index: int) -> str:
        return self._names[index]

    def stamp(self, index: int) -> str:
        return self._stamps[self._places[index][0]]


# Reading headers


def _index(shard: str) -> dict[str, list]:
    """{"samples": [key, {ending: (start, size)}, fields], "bad": [member or "", reason]} of a shard."""
    members: dict[str, dict[str, tuple[int, int]]] = {}
    fields: dict[str, dict[str, Any]] = {}
    bad: list[tuple[str, str]] = []
    try:
        with storage.open_binary(shard, block=2**16) as file:
            end = file.seek(0, os.SEEK_END)
            for name, start, size in _members(file, end, bad):
                match = _NAME.match(name)
                if not match:
                    continue
                key, ending = match[1], match[2].lower()
                last = ending.rpartition(".")[2]
                if last in _TEXTS:
                    file.seek(start)
                    _add_fields(fields.setdefault(key, {}), last, file.read(min(size, _LONGEST)))
                elif f".{last}" in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
                    members.setdefault(key, {})[ending] = start, size
    except OSError as error:
        bad = [("", f"cannot be read ({error.strerror or error})")]
    cut = {name for name, _ in bad}
    bad = [(name, reason) for name, reason in bad if not name or _NAME.match(name)]
    samples = []
    for key, some in members.items():
        if not any(name.startswith(f"{key}.") for name in cut):
            samples.append((key, some, {"id": key} | fields.get(key, {})))
    return {"samples": samples, "bad": bad}


def _add_fields(fields: dict[str, Any], ending: str, data: bytes) -> None:
    text = data.decode("utf-8", "replace").strip()
    if ending == "txt":
        fields.setdefault("caption", text)
    elif ending == "cls":
        fields.setdefault("label", text)
    else:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(found, dict):
            fields |= {name: value for name, value in found.items() if _is_field(value)}


def _is_field(value: Any) -> bool:
    several = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return several or isinstance(value, str | int | float)


def _members(file: BinaryIO, end: int, bad: list[tuple[str, str]]) -> Iterator[tuple[str, int, int]]:
    """(name, start, size) of the regular files of a tar; notes in `bad` where it breaks off."""
    at, said = 0, {}
    while at < end:
        file.seek(at)
        try:
            header = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:
            return
        except tarfile.HeaderError as error:
            why = (
                f"no tar file ({error})"
                if not at
                else f"the shard is damaged or cut off at byte {at} ({error})"
            )
            bad.append(("", why))
            return
        if header.size < 0:  # a number that goes backwards would never end
            bad.append(("", f"the shard is damaged at byte {at} (a member of {header.size} bytes)"))
            return
        start, at = at + _BLOCK, at + _BLOCK + -(-header.size // _BLOCK) * _BLOCK
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            if header.size > min(_LONGEST, end - start):
                bad.append(("", f"the shard is damaged or cut off at byte {start}"))
                return
            said |= _long_name(header, file.read(header.size))
            continue
        size = int(said.get("size", header.size))
        if size != header.size:
            at = start + -(-size // _BLOCK) * _BLOCK
        name = str(said.get("path", header.name))
        if header.type in tarfile.REGULAR_TYPES and not header.issparse():
            if start + size > end:
                bad.append((name, f"the shard ends within it, after {max(end - start, 0)} of {size} bytes"))
                return
            yield name.removeprefix("./"), start, size
        if header.type not in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            said = {}
    if at > end:
        bad.append(("", "the shard is cut off within the padding of its last member"))


def _long_name(header: tarfile.TarInfo, data: bytes) -> dict[str, str]:
    """Name and size that a header could not hold."""
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found, at = {}, 0
    while match := re.compile(rb"(\d{1,9}) ([^=]+)=").match(data, at):
        length = int(match[1])
        value = data[match.end() : at + length - 1].decode("utf-8", "surrogateescape")
        key = match[2].decode("utf-8", "replace")
        if key == "path" or (key == "size" and value.isdecimal()):
            found[key] = value
        at += max(length, 1)
    return found

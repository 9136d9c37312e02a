"""Folders of videos: one subfolder for each class, or plain files without labels."""

import os
from pathlib import Path

import numpy as np

from input_pipeline import storage
from input_pipeline.formats.base import Document, Table
from input_pipeline.storage import RemotePath
from input_pipeline.suffixes import SUFFIXES
from vfm.errors import UserError

_SPLITS = frozenset("train training val valid validation test testing".split())


def read_folder(folder: Path | RemotePath, key: str, medium: str, labels: str = "") -> Table:
    """The videos (or images) of a folder; classes are numbered in sorted order, by classes.json or by `labels`.

    Raises:
      UserError: there are none, or it is not clear what the folder means.
    """
    suffixes = SUFFIXES[medium]
    files = sorted(
        (_parts(folder, file) for file in storage.files_below(folder) if _suffix(file) in suffixes),
        key=_order,
    )
    plain = [storage.join(folder, parts[0]) for parts in files if len(parts) == 1]
    classes: dict[str, list[str]] = {}
    for parts in files:
        if len(parts) > 1:
            classes.setdefault(parts[0], []).append(storage.join(folder, "/".join(parts)))
    if plain and classes:
        raise UserError(
            f"{key}='{folder}': has both {medium} files ('{Path(plain[0]).name}') and subfolders with {medium}s "
            f"('{next(iter(classes))}'); expected one subfolder for each class, or only files; move one kind away"
        )
    if plain:
        return Table(plain)
    if not classes:
        raise UserError(
            f"{key}='{folder}': the folder holds no {medium}s{_others(folder, key, medium)}; expected {medium} files "
            f"or one subfolder of {medium}s for each class (endings known: {' '.join(sorted(suffixes))})"
        )
    if classes.keys() <= _SPLITS:
        raise UserError(
            f"{key}='{folder}': the subfolders {', '.join(classes)} are splits by their names, and no classes; give "
            f"one of them, e.g. {storage.join(folder, next(iter(classes)))}"
        )
    given = Document(folder).classes({"labels": labels})
    names = given.names if given else list(classes)
    for name in classes:
        if name not in names:
            where = folder / "classes.json" if not labels else labels
            raise UserError(
                f"{key}='{folder}': the subfolder '{name}' is not a class that {where} names for 'label'; add it there "
                f"or move the folder away"
            )
    counts = [len(files) for files in classes.values()]
    return Table(
        [path for files in classes.values() for path in files],
        labels={"label": np.repeat(np.array([names.index(name) for name in classes], np.int32), counts)},
        label_names={"label": names},
    )


def _others(folder: Path | RemotePath, key: str, medium: str) -> str:
    """What a folder without any of one medium holds of the other, and how to ask for that."""
    other = "image" if medium == "video" else "video"
    count = sum(_suffix(file) in SUFFIXES[other] for file in storage.files_below(folder))
    if not count:
        return ""
    typed = key.startswith("SPEC")  # on a command line
    asked = f"--medium {other}" if typed else "data.images" if other == "image" else "data.train"
    advice = f"{asked} takes them as they are"
    if other == "image":
        frames = "--set format=frames" if typed else "a mapping with format='frames'"
        advice += f", {frames} each folder of them as a video"
    return f", but {count:,} {other}{'s' if count > 1 else ''}: {advice}"


def _parts(folder: Path | RemotePath, file: str) -> list[str]:
    return file[len(os.fspath(folder)) :].strip("/").split("/")


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def _order(parts: list[str]) -> list[tuple[bool, str]]:
    """Files of a folder before those of its folders, each by name."""
    return [(True, name) for name in parts[:-1]] + [(False, parts[-1])]

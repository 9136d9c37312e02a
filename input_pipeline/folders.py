"""Folders of videos: one subfolder for each class, or plain files without labels."""

import os
from pathlib import Path

import numpy as np

from input_pipeline.formats.base import Document, Table
from input_pipeline.suffixes import SUFFIXES
from vfm.errors import UserError


def read_folder(folder: Path, key: str, medium: str, labels: str = "") -> Table:
    """The videos (or images) of a folder; classes are numbered in sorted order, by classes.json or by `labels`.

    Raises:
      UserError: there are none, or it is not clear what the folder means.
    """
    suffixes = SUFFIXES[medium]
    here = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    plain = [str(p) for p in here if p.is_file() and p.suffix.lower() in suffixes]
    classes = {p.name: files for p in here if p.is_dir() and (files := _files_below(p, suffixes))}
    if plain and classes:
        raise UserError(
            f"{key}='{folder}': has both {medium} files ('{Path(plain[0]).name}') and subfolders with {medium}s "
            f"('{next(iter(classes))}'); expected one subfolder for each class, or only files; move one kind away"
        )
    if plain:
        return Table(plain)
    if not classes:
        raise UserError(
            f"{key}='{folder}': the folder holds no {medium}s; expected {medium} files or one subfolder of {medium}s "
            f"for each class (endings known: {' '.join(sorted(suffixes))})"
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


def _files_below(folder: Path, suffixes: frozenset[str]) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(parent, name)
            for name in sorted(files)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return found

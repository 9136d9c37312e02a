"""Lists of mmaction2 and of the TSN family, without a header.

    video            some/clip.mp4 3            (one label: the same as `list`), or several labels: some/clip.mp4 0 2 4
    rawframes        some/folder 299 166        folder of frames, number of frames, label (also `id frames label` lists)
    rawframes_multi  some/folder 5 3 5          folder, number of frames, labels
    rawframes_offset some/folder 2 5 127        folder, first frame (from 0), number of frames, label
    rawvideo         some/folder 1 2 0          folder, label, number of clips part_0.mp4 ..., the clips that show it

and its JSON [{"video_dir", "label", "num_clips", "positive_clip_inds"}]; for its others see `captions`, `hvu`,
`activitynet`.

Lists with several labels have as many classes as `labels` (or a `classes.json` beside) names, else `num_classes`, else
as many as their largest number says. Ids of videos become files by `template`, e.g. "{id}.webm".
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipeline.formats.base import Document, Table, each, fill, short, text_of
from input_pipeline.formats.plain import labelled
from input_pipeline.labels import Classes, is_class, multi_label
from input_pipeline.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vfm.errors import UserError

KINDS = {  # numbers after the path: at least, at most
    "video": (1, 10**6),
    "rawframes": (2, 2),
    "rawframes_multi": (2, 10**6),
    "rawframes_offset": (3, 3),
    "rawvideo": (2, 10**6),
}
OPTIONS = {"kind": "", "template": "{id}", "labels": "", "num_classes": 0}
_ROW = re.compile(r"^(\S+)((?:\s+\d{1,18})+)$")
_FILE = VIDEO_SUFFIXES | IMAGE_SUFFIXES


def detect(document: Document) -> bool:
    if document.is_json:
        return document.first_has("video_dir")
    if not document.is_text:
        return False
    return all(_ROW.match(line.strip()) for _, line in document.lines) and any(
        len(line.split()) > 2 for _, line in document.lines
    )


def read(document: Document, options: Mapping[str, Any]) -> Table:
    if document.is_json:
        return _rawvideo_json(document, options)
    names, numbers, lines = [], [], []
    for line, text in document.lines:
        row = _ROW.match(text.strip())
        if not row:
            raise UserError(
                f"{document} line {line}: '{text.strip()}'; expected a path without spaces, then numbers"
            )
        names.append(row[1])
        numbers.append([int(value) for value in row[2].split()])
        lines.append(line)
    kind = options["kind"] or _kind(document, names, numbers)
    if kind not in KINDS:
        raise UserError(f"kind='{kind}' of format='mmaction2': expected one of {', '.join(KINDS)}")
    least, most = KINDS[kind]
    for line, some in zip(lines, numbers, strict=True):
        if not least <= len(some) <= most:
            expected = least if least == most else f"{least} or more"
            raise UserError(
                f"{document} line {line}: {len(some)} numbers after the path; kind='{kind}' has {expected}"
            )
    if kind == "rawvideo":
        rows = [(name, some[0], some[2:]) for name, some in zip(names, numbers, strict=True)]
        return _positive_clips(document, options, rows, lines)
    paths = [
        fill(options["template"], {"id": name}, f"{document} line {line}")
        for name, line in zip(names, lines, strict=True)
    ]
    skip = {"video": 0, "rawframes_offset": 2}.get(kind, 1)
    several = kind == "rawframes_multi" or (kind == "video" and any(len(some) > 1 for some in numbers))
    if several:
        table = Table(paths, lines)
        rows = [some[skip:] for some in numbers]
        add_several(document, table, "label", rows, document.classes(options), options["num_classes"])
    else:
        values = [str(some[skip]) for some in numbers]
        table = labelled(document, paths, lines, values, document.classes(options))
    if kind != "video":
        table.frames = [(some[0] if skip == 2 else 0, some[skip - 1]) for some in numbers]
    return table


def _kind(document: Document, names: list[str], numbers: list[list[int]]) -> str:
    """What the numbers mean, where there is one answer."""
    if all(Path(name).suffix.lower() in _FILE for name in names):
        return "video"
    if all(len(some) == 2 for some in numbers):
        return "rawframes"
    if all(len(some) == 3 for some in numbers):
        raise UserError(
            f"{document}: three numbers in every line may be offset, frames, label, or frames and two labels, or "
            f"kind='rawvideo'; say which with format='mmaction2' and kind='rawframes_offset' or 'rawframes_multi'"
        )
    return "rawframes_multi"


def add_several(
    document: Document,
    table: Table,
    column: str,
    rows: list[list[int]],
    classes: Classes | None,
    count: int = 0,
) -> None:
    """Adds a column of several classes a sample; there are as many as `classes` names, else `count` where not 0."""
    first = classes.first if classes else 0
    names = classes.names if classes else [""] * count
    shifted = [tuple(number - first if is_class(number) else number for number in some) for some in rows]
    table.labels[column] = multi_label(document.path, table.lines, column, shifted, names)
    if classes:
        table.label_names[column] = classes.names


def _rawvideo_json(document: Document, options: Mapping[str, Any]) -> Table:
    rows, lines = [], []
    for number, entry, where in each(document):
        clips, label = entry.get("positive_clip_inds"), entry.get("label")
        if not isinstance(clips, list) or not isinstance(label, int):
            raise UserError(f"{where}: {short(entry)}; expected video_dir, label and positive_clip_inds")
        rows.append((text_of(entry, "video_dir", where), label, clips))
        lines.append(number)
    return _positive_clips(document, options, rows, lines)


def _positive_clips(
    document: Document, options: Mapping[str, Any], rows: list[tuple[str, int, list[int]]], lines: list[int]
) -> Table:
    clips = [
        (fill(options["template"], {"id": f"{folder}/part_{clip}.mp4"}, str(document)), line, str(label))
        for (folder, label, some), line in zip(rows, lines, strict=True)
        for clip in some
    ]
    if not clips:
        raise UserError(f"{document}: no clip shows its label (all lists of positive clips are empty)")
    paths, numbers, values = map(list, zip(*clips, strict=True))
    table = labelled(document, paths, numbers, values, document.classes(options))
    table.unit = document.unit
    return table

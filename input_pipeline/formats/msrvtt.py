"""MSR-VTT: the whole set's JSON, and the CSV of the 1k-A split.

`MSRVTT_data.json` (or `MSR_VTT.json`): {"videos": [{"video_id", "category", "split"}], "sentences": [{"video_id",
"caption"}]}: a sample for each video, with its captions (20, of a few videos 19) in their order, and its category.
`split` is "train", "validate" or "test" of the full split, or a file of ids such as `MSRVTT_train.9k.csv`.
`MSRVTT_JSFUSION_test.csv` (key,vid_key,video_id,sentence): the 1,000 pairs of the 1k-A test. A CSV of ids alone gives
videos without captions.
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from input_pipeline.formats.base import Document, Table, fill, short, text_of, wanted_ids
from input_pipeline.labels import is_class
from vfm.errors import UserError

OPTIONS = {"template": "{video_id}.mp4", "split": ""}


def detect(document: Document) -> bool:
    if document.is_json:
        return isinstance(document.json, dict) and {"videos", "sentences"} <= document.json.keys()
    return document.has_columns("video_id", "vid_key", "sentence") or _ids_alone(document)


def _ids_alone(document: Document) -> bool:
    return document.is_text and document.header == ["video_id"]


def read(document: Document, options: Mapping[str, Any]) -> Table:
    if document.is_json:
        return _whole(document, options)
    if options["split"]:
        raise UserError(
            f"{document}: split='{options['split']}' is for MSR-VTT's JSON; the CSV is a split itself"
        )
    lines, columns = document.rows()
    paths = [
        fill(options["template"], {"video_id": video}, f"{document} line {line}")
        for video, line in zip(columns["video_id"], lines, strict=True)
    ]
    captions = [(sentence,) for sentence in columns.get("sentence", ())]
    return Table(paths, lines, captions=captions, words={"video_id": columns["video_id"]})


def _objects(document: Document, key: str) -> list[dict[str, Any]]:
    found = document.entries[key]
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UserError(f"{document}: {key} is {short(found)}; expected a list of objects")
    return found


def _whole(document: Document, options: Mapping[str, Any]) -> Table:
    captions = collections.defaultdict(list)
    for number, sentence in enumerate(_objects(document, "sentences"), 1):
        where = f"{document} sentence {number}"
        captions[text_of(sentence, "video_id", where)].append(text_of(sentence, "caption", where))
    videos, split = _objects(document, "videos"), options["split"]
    ids = wanted_ids(document, split) if split else None
    if split and ids is None and not any(video.get("split") == split for video in videos):
        there = ", ".join(sorted({str(video.get("split")) for video in videos}))
        raise UserError(f"{document}: split='{split}' is no file and no split here; it has: {there}")
    table = Table([], unit="item", captions=[], words={"video_id": []})
    categories, lines = [], []
    for number, video in enumerate(videos, 1):
        name = text_of(video, "video_id", f"{document} video {number}")
        if split and (video.get("split") != split if ids is None else name not in ids):
            continue
        table.paths.append(fill(options["template"], video, f"{document} video {number}"))
        table.captions.append(tuple(captions[name]))
        table.words["video_id"].append(name)
        categories.append(video.get("category"))
        lines.append(number)
    table.lines = lines
    if ids is not None and len(ids) > len(lines):
        absent = ids - set(table.words["video_id"])
        raise UserError(
            f"{document}: {len(absent)} ids of split='{split}' are not in it, e.g. {short(min(absent))}"
        )
    if all(is_class(category) for category in categories):
        table.labels["category"] = np.array(categories, np.int32)
    return table

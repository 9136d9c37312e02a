"""Data sets of tensorflow-datasets that were prepared as ArrayRecord, read without TensorFlow.

The path is the folder of a version (`.../ucf101/ucf101_1/2.0.0`, with dataset_info.json and features.json), or a name
(`ucf101/ucf101_1:2.0.0`) of a set below data.root, with format="tfds". `split` is as in TFDS: "train", "train[:10%]".

TFDS says which records a split has and what its features mean; the records are the same that `tfds.data_source` gives
by index, and are read as other ArrayRecord shards are. Videos are `Video` features and sequences of `Image` (stored as
encoded frames), or texts and byte strings that hold a whole file. Remote sets are copied into the user's cache folder.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from input_pipeline import storage
from input_pipeline.atomic import appearing
from input_pipeline.formats.base import Table
from input_pipeline.records import read_bytes
from input_pipeline.stores.array_record import NOTHING, count_records, read_fields
from input_pipeline.stores.base import Request, children, tabulate
from input_pipeline.stores.examples import RecordMedia, columns_of, media_feature, parse_example
from vfm.errors import UserError

# `media`: the feature of videos; `label`: label columns; `labels`: class names; `fps`: of videos stored as frames.
OPTIONS = {"split": "", "media": "", "label": "label", "labels": "", "fps": 0.0}
_INFO, _FEATURES = "dataset_info.json", "features.json"
_OURS = "tensorflow_datasets."


def detect(path: str) -> bool:
    return not storage.has_pattern(path) and {_INFO, _FEATURES} <= set(children(path))


def read(request: Request) -> tuple[Table, RecordMedia]:
    builder = _builder(request)
    features = dict(_flat(builder.info.features))
    split = str(request.options["split"]) or _only_split(request, builder)
    given, rows = [], []
    for number, (file, first, stop) in enumerate(_instructions(request, builder, split)):
        given.append(file)
        rows += [(number, record) for record in range(first, stop)]
    if not rows:
        raise UserError(f"{request.key}='{request.path}': split='{split}' has no records")
    files = [storage.local_copy(file) for file in given]
    counts = [count_records(file) for file in files]
    bad = {i: NOTHING for i, (number, record) in enumerate(rows) if record >= counts[number]}
    where = f"{request.key}='{request.path}'"
    if len(bad) == len(rows):
        raise UserError(f"{where}: split='{split}' has no readable records, e.g. {given[0]}: {NOTHING}")
    feature = str(request.options["media"]) or _media(request, features)
    if not feature:
        number, record = next(row for i, row in enumerate(rows) if i not in bad)
        feature = media_feature(parse_example(read_bytes(files[number], record)), request.medium, where)
    if feature not in features:
        raise UserError(f"{where}: has no feature '{feature}' (media=); it has {', '.join(features)}")
    found = read_fields(files, feature)
    entries = [found[number][1][record] if i not in bad else {} for i, (number, record) in enumerate(rows)]
    names = [f"{given[number]}::record {record}" for number, record in rows]
    classes = {name: list(one.names) for name, one in features.items() if getattr(one, "names", None)}
    media = RecordMedia(
        files,
        [stamp for stamp, _ in found],
        names,
        np.array(rows),
        feature,
        bad,
        float(request.options["fps"]),
    )
    return tabulate(request, names, columns_of(entries), bad, classes), media


def _builder(request: Request) -> Any:
    """TFDS's description of a prepared set.

    Raises:
      UserError: there is none, or it takes TensorFlow.
    """
    import tensorflow_datasets as tfds

    _without_tensorflow()
    where = f"{request.key}='{request.path}'"
    try:
        if detect(request.path):
            _check_classes(request)
            return tfds.builder_from_directory(_metadata(request.path))
        return tfds.builder(request.path, data_dir=request.root or None, try_gcs=False)
    except UserError:
        raise
    except Exception as error:  # TFDS has many
        raise UserError(
            f"{where}: TFDS cannot read it ({type(error).__name__}: {str(error).strip().splitlines()[0]}); expected "
            f"the folder of a version with {_INFO} and {_FEATURES}, prepared with file_format='array_record'"
        ) from error


def _metadata(folder: str) -> str:
    """The folder of a set; of a remote one, a local folder with all of its files but the shards."""
    if not storage.is_remote(folder):
        return folder
    names = [name for name in children(folder) if name.endswith((".json", ".txt"))]
    stamps = [storage.stamp(storage.join(folder, name)) for name in names]
    key = hashlib.sha256("\0".join([folder, *names, *stamps]).encode()).hexdigest()[:20]
    copy = storage.cache_folder() / "tfds" / key / storage.place(folder).name
    copy.mkdir(parents=True, exist_ok=True)
    for name in names:
        with appearing(copy / name) as partial:
            partial.write_bytes(storage.read(storage.join(folder, name)))
    return str(copy)


@functools.cache
def _without_tensorflow() -> None:
    """Makes TFDS read `Video` features as what they are stored as: its own class cannot be made without TensorFlow."""
    import tensorflow_datasets as tfds

    class EncodedFrames(tfds.features.Sequence):
        ALIASES = [f"{_OURS}core.features.video_feature.Video"]

        @classmethod
        def from_json_content(cls, value: Any) -> "EncodedFrames":
            return cls(tfds.features.Text())


def _check_classes(request: Request) -> None:
    """Refuses features whose classes are not of TFDS: naming a module would import it."""
    text = (storage.place(request.path) / _FEATURES).read_text()
    found: list[str] = []

    def note(value: dict[str, Any]) -> dict[str, Any]:
        found.extend(
            str(value[key]) for key in ("type", "pythonClassName") if isinstance(value.get(key), str)
        )
        return value

    json.loads(text, object_hook=note)
    if strange := [name for name in found if "." in name and not name.startswith(_OURS)]:
        raise UserError(
            f"{request.key}='{request.path}': {_FEATURES} has features of the class {strange[0]}; expected those "
            f"of TFDS"
        )


def _only_split(request: Request, builder: Any) -> str:
    there = list(builder.info.splits)
    if "train" in there and request.key == "data.train":
        return "train"
    if len(there) == 1:
        return there[0]
    raise UserError(
        f"{request.key}='{request.path}': has the splits {', '.join(there) or '(none)'}; say which with split=NAME"
    )


def _instructions(request: Request, builder: Any, split: str) -> Iterator[tuple[str, int, int]]:
    """(file, first record, one after the last) of each shard of a split."""
    where = f"{request.key}='{request.path}'"
    form = getattr(builder.info.file_format, "value", "")
    if form != "array_record":
        raise UserError(
            f"{where}: is stored as {form or 'nothing known'}, which has no random access without TensorFlow; prepare "
            f"it with file_format='array_record'"
        )
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError, AssertionError) as error:
        there = ", ".join(builder.info.splits)
        raise UserError(f"{where}: has no split '{split}'; it has {there}") from error
    for one in instructions:
        count = one.examples_in_shard if one.take == -1 else one.skip + one.take
        path = str(one.filename)
        if storage.is_remote(request.path):
            path = storage.join(request.path, os.path.basename(path))
        yield path, one.skip, count


def _flat(features: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, feature) as examples have them: those of nested dicts joined by slashes."""
    for name, feature in features.items():
        if hasattr(feature, "items"):
            yield from _flat(feature, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", feature


def _media(request: Request, features: dict[str, Any]) -> str:
    """The feature that TFDS says is a video (or an image), "" where none is or several are."""
    kinds = {"video": [], "frames": [], "image": []}
    for name, feature in features.items():
        kind = type(feature).__name__
        if kind == "EncodedFrames":
            kinds["video"].append(name)
        elif kind == "Sequence" and type(getattr(feature, "feature", None)).__name__ == "Image":
            kinds["frames"].append(name)
        elif kind == "Image":
            kinds["image"].append(name)
    for kind in ("image",) if request.medium == "image" else ("video", "frames"):
        if kinds[kind]:
            return kinds[kind][0] if len(kinds[kind]) == 1 else ""
    return ""

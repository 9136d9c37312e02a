"""Several sources as one stream of training samples.

    data.train = {
        "sources": {
            "kinetics": {"path": "k400.csv", "weight": 3.0},
            "web": {"path": "web.csv", "weight": ((0, 1.0), (10_000, 5.0)), "crop": "center", "column": "title"},
            "pictures": {"path": "pictures.csv", "medium": "image", "weight": 0.5},
        },
        "temperature": 1.0,
        "unit": "row",
        "change": "steps",
    }

Each source is what a single one may be (see `input_pipeline.spec`), with these keys beside it:

  weight    its share of the rows, relative to the others'; given for no source, the number of samples of each. Pairs
            (step, weight) change it, as `change` says
  medium    "video" or "image" (a video of one frame, which is repeated)
  ...       keys of `config.data` that say how clips are taken (sampling, stride, crop, flip ...), for this source alone

`temperature` T makes shares weight^(1/T): 1 keeps them, more brings them closer together. `unit` is what one source has
to itself: "row" mixes sources in every batch, "batch" takes each batch from one of them. `change` is what happens
between the pairs of a weight: "steps" = each holds from its step on, "linear" = the weight moves evenly from one to the
next (where they are more than 1,024 steps apart, in 1,024 stairs), and stays at the last.

Which source a row shows, and which of its samples, is a function of the seed and the row's position, see
`input_pipeline.order`; in every stretch of rows sources have their shares to within a few rows.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from input_pipeline.clips import Recipe
from input_pipeline.order import Order, Turns
from input_pipeline.spec import resolve
from input_pipeline.videos import Batch, Share, Videos
from vfm.errors import UserError

UNITS = ("row", "batch")
CHANGES = ("steps", "linear")
_MIXTURE_KEYS = ("sources", "temperature", "unit", "change")
_STAIRS = 1024  # of constant weights, between two points of a linear change
_SHAPES = ("frames", "size", "clips_per_video")  # of the batch, so the same for all sources


@dataclass(frozen=True)
class Ingredient:
    """One source of a stream: its videos, and how clips of them are taken."""

    name: str
    videos: Videos
    recipe: Recipe


@dataclass(frozen=True)
class Mixture:
    """The sources of a stream of training samples, one or several.

    Attributes:
      parts: the sources.
      order: slot -> (source, place among its samples).
      label_names: column -> names of its classes, where they are known.
    """

    parts: Sequence[Ingredient]
    order: Order
    label_names: dict[str, list[str]]

    @property
    def names(self) -> list[str]:
        return [part.name for part in self.parts]

    def samples(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, sample) of each slot."""
        sources, places = self.order(slots)
        samples = np.empty(len(slots), np.int64)
        for source in np.unique(sources).tolist():
            samples[sources == source] = self.parts[source].videos.sample(places[sources == source])
        return sources, samples

    def rows(self, sources: np.ndarray, samples: np.ndarray, choices: Sequence[int]) -> Batch:
        """Labels, ids and texts of samples, and of sources with names `source`: which one each is from."""
        if self.names == [""]:
            videos = self.parts[0].videos
            return videos.labels(samples) | videos.text(samples, choices)
        rows: Batch = {"source": sources.astype(np.int32)}
        for source in np.unique(sources).tolist():
            here, videos = np.flatnonzero(sources == source), self.parts[source].videos
            found = self._labels(source, samples[here])
            found |= videos.text(samples[here], [choices[i] for i in here])
            for name, values in found.items():
                if name not in rows:
                    rows[name] = np.full((len(sources), *values.shape[1:]), -1, values.dtype)
                rows[name][here] = values
        return rows

    def _labels(self, source: int, samples: np.ndarray) -> Batch:
        """As `Videos.labels`, with the columns of all sources and, where their names are known, common classes."""
        videos = self.parts[source].videos
        found = videos.labels(samples)
        rows = {"id": found["id"], "label": np.full(len(samples), -1, np.int32)}
        for column, numbers in self._numbers[source].items():
            values = found.get(column) if column in videos.source.labels else None
            if values is None:
                values = np.full(len(samples), -1, np.int32)
            rows[column] = values if numbers is None else numbers[values]
        if videos.source.labels:
            rows["label"] = rows[next(iter(videos.source.labels))]
        return rows

    @functools.cached_property
    def _numbers(self) -> list[dict[str, np.ndarray | None]]:
        """Of each source, for the columns of all: the common numbers of its classes, None where they are its own."""
        columns = dict.fromkeys(column for part in self.parts for column in part.videos.source.labels)
        index = {
            column: {name: i for i, name in enumerate(names)} for column, names in self.label_names.items()
        }

        def numbers(part: Ingredient, column: str) -> np.ndarray | None:
            names = part.videos.source.label_names.get(column)
            if column not in part.videos.source.labels or column not in index or names == list(index[column]):
                return None
            return np.array([index[column][name] for name in names], np.int32)

        return [{column: numbers(part, column) for column in columns} for part in self.parts]


def is_mixture(spec: Any) -> bool:
    """Whether a spec names several sources."""
    return bool(spec) and "sources" in resolve(spec)


def open_stream(
    data: Any,
    medium: str,
    recipe: Recipe,
    seed: int,
    stream: int,
    batch_size: int,
    share: Share | None = None,
) -> Mixture:
    """The sources of `data.train`, or for medium "image" that of `data.images`.

    Args:
      data: the configuration's `data`.
      medium: of the stream.
      recipe: how clips are taken where a source does not say otherwise.
      seed, stream: of the order.
      batch_size: rows of the global batch.
      share: see `Videos`.

    Raises:
      UserError: sources or weights that cannot be used.
    """
    spec, key = (data.train, "data.train") if medium == "video" else (data.images, "data.images")
    most = float(data.max_bad_fraction)
    if not is_mixture(spec):
        videos = Videos(data, spec, key, most, medium, training=True, share=share)
        order = Order(seed, stream, [len(videos)])
        return Mixture([Ingredient("", videos, recipe)], order, videos.source.label_names)
    options = resolve(spec, key)
    if unknown := [name for name in options if name not in _MIXTURE_KEYS]:
        raise UserError(
            f"{key}.{unknown[0]}: no key of a mixture; expected one of {', '.join(_MIXTURE_KEYS)}"
        )
    if not isinstance(options["sources"], Mapping) or not options["sources"]:
        raise UserError(
            f"{key}.sources={options['sources']!r}: expected {{name: {{'path': ..., 'weight': ...}}}}"
        )
    parts, weights = [], []
    for name, entry in options["sources"].items():
        place = f"{key}.sources.{name}"
        entry = dict(entry.items()) if isinstance(entry, Mapping) else {"path": entry}
        weights.append(_weights(place, entry.pop("weight", None)))
        parts.append(_ingredient(data, place, name, entry, medium, most, recipe, share))
    unit, temperature = options.get("unit", "row"), options.get("temperature", 1.0)
    if unit not in UNITS:
        raise UserError(f"{key}.unit={unit!r}: expected one of {', '.join(UNITS)}")
    if (change := options.get("change", "steps")) not in CHANGES:
        raise UserError(f"{key}.change={change!r}: expected one of {', '.join(CHANGES)}")
    if not isinstance(temperature, int | float) or not temperature > 0:
        raise UserError(f"{key}.temperature={temperature!r}: expected a number above 0")
    repeats = recipe.clips_per_video
    if unit == "batch" and batch_size % repeats:
        raise UserError(
            f"{key}.unit='batch' with data.clips_per_video={repeats}: a batch of {batch_size} rows would end within a "
            f"video; expected a multiple"
        )
    first_turn = (lambda step: step) if unit == "batch" else (lambda step: -(-step * batch_size // repeats))
    sizes = [len(part.videos) for part in parts]
    steps, table = _stretches(key, weights, sizes, list(options["sources"]), change == "linear")
    largest = table.max(1, keepdims=True)
    shares = np.where(table > 0, (table / largest) ** (1 / float(temperature)), 0.0)
    turns = Turns(seed + stream, [first_turn(step) for step in steps], shares)
    order = Order(seed, stream, sizes, turns, batch_size // repeats if unit == "batch" else 1)
    return Mixture(parts, order, _common_classes(key, parts))


def _ingredient(
    data: Any,
    place: str,
    name: str,
    entry: dict,
    medium: str,
    most: float,
    recipe: Recipe,
    share: Share | None,
) -> Ingredient:
    medium = entry.pop("medium", medium)
    if medium not in ("video", "image"):
        raise UserError(f"{place}.medium={medium!r}: expected 'video' or 'image'")
    known = {field.name for field in fields(Recipe)} & set(data.keys())
    changes = {option: entry.pop(option) for option in list(entry) if option in known}
    if changes:
        changed = data.copy_and_resolve_references()
        for option, value in changes.items():
            try:
                if isinstance(value, Mapping):
                    changed[option].update(value)
                else:
                    changed[option] = value
            except (TypeError, ValueError, KeyError) as error:
                raise UserError(f"{place}.{option}={value!r}: {error}") from error
        try:
            own = Recipe.from_config(changed)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        for option in _SHAPES:
            if getattr(own, option) != getattr(recipe, option):
                raise UserError(
                    f"{place}.{option}={getattr(own, option)}: all rows have one shape, and data.{option}="
                    f"{getattr(recipe, option)}; leave it out, or change it for all"
                )
        recipe = own
    if medium == "image":  # its one frame is repeated
        recipe = replace(recipe, sampling="dense", stride=1)
    if "path" not in entry:
        raise UserError(f"{place}: has no 'path'; expected a list, a folder or a file of {medium}s")
    return Ingredient(name, Videos(data, entry, place, most, medium, training=True, share=share), recipe)


def _weights(place: str, value: Any) -> list[tuple[int, float]] | None:
    """(first step, weight) pairs; None = the number of samples."""
    if value is None:
        return None
    pairs = [(0, value)] if isinstance(value, int | float) else value
    try:
        pairs = [(int(step), float(weight)) for step, weight in pairs]
    except (TypeError, ValueError):
        pairs = []
    steps = [step for step, _ in pairs]
    if not pairs or any(not 0 <= weight < math.inf for _, weight in pairs):
        raise UserError(f"{place}.weight={value!r}: expected a number of 0 or more, or ((step, number), ...)")
    if steps[0] != 0 or steps != sorted(set(steps)):
        raise UserError(f"{place}.weight={value!r}: expected steps that begin with 0 and rise")
    return pairs


def _stretches(
    key: str, weights: Sequence[Any], sizes: Sequence[int], names: Sequence[str], linear: bool
) -> tuple[list[int], np.ndarray]:
    """The first steps of stretches of constant weights, and the weights [stretches, sources]."""
    without = [name for name, pairs in zip(names, weights, strict=True) if pairs is None]
    if 0 < len(without) < len(names):
        # Beside weights such as 2.0, a number of samples would be nearly everything.
        raise UserError(
            f"{key}.sources: {', '.join(without)} without 'weight', the others with one; give all sources a weight, or "
            f"none (then it is the number of samples, here {', '.join(map(str, sizes))})"
        )
    given = weights if not without else [[(0, float(size))] for size in sizes]
    points = sorted({step for pairs in given for step, _ in pairs})
    steps = points[-1:]
    if linear:
        for start, stop in reversed(list(zip(points, points[1:], strict=False))):
            stairs = min(stop - start, _STAIRS)
            steps = [start + (stop - start) * i // stairs for i in range(stairs)] + steps
        middles = [(a + b - 1) / 2 for a, b in zip(steps, steps[1:], strict=False)] + steps[-1:]
        table = np.stack([np.interp(middles, *zip(*pairs, strict=True)) for pairs in given], 1)
    else:
        steps = points
        table = np.array([[[w for s, w in pairs if s <= step][-1] for pairs in given] for step in steps])
    for step, row in zip(steps, table, strict=True):
        if not row.sum() > 0:
            raise UserError(f"{key}: the weights of {', '.join(names)} are all 0 from step {step} on")
    return steps, table


def _common_classes(key: str, parts: Sequence[Ingredient]) -> dict[str, list[str]]:
    """Names of the classes of each label column that all sources that have it name, in the order of the sources.

    Where one does not name them, numbers stay as they are.
    """
    classes: dict[str, list[str]] = {}
    first = [next(iter(part.videos.source.labels.values()), np.zeros(1)) for part in parts]
    if len({np.shape(column[:1])[1:] for column in first}) > 1:
        raise UserError(
            f"{key}: the first label column holds several classes for each sample in some sources and not in others; "
            f"put another first, or take it out"
        )
    columns = dict.fromkeys(column for part in parts for column in part.videos.source.labels)
    for column in columns:
        having = [part.videos.source for part in parts if column in part.videos.source.labels]
        shapes = {np.shape(source.labels[column][:1])[1:] for source in having}
        if len(shapes) > 1 or (shapes != {()} and len(having) < len(parts)):
            raise UserError(
                f"{key}: the label column '{column}' holds several classes for each sample in some sources and not in "
                f"others; rename it in one of them"
            )
        names = [source.label_names.get(column) for source in having]
        if all(names) and (shapes == {()} or all(some == names[0] for some in names)):
            classes[column] = list(dict.fromkeys(name for some in names for name in some))
    return classes

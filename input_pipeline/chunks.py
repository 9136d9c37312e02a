"""Which samples make batch k, by random access: a function of (seed, k) alone.

B rows of the global batch, b rows of this host, K clips of each video, T frames, S side in pixels, V views.

Position p (row p % B of batch p // B) shows clip p % K of slot p // K; slot s is the video at place s % n of a
permutation of all n usable samples drawn for epoch s // n. Any position can be computed directly, so a run resumes at
any step at once; hosts take rows, workers take chunks of rows, and neither changes what a row holds. Of several
captions one is drawn by the row's position as well.

A video that does not decode is skipped: its slot shows the next one of an order drawn for that slot. It is counted and
named, and too many of them end the run. In an evaluation nothing takes its place: its row has mask 0. Samples without
a caption are left out from the beginning where text is asked for.
"""

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from input_pipeline import clips
from input_pipeline.cache import Cache, CachedVideo, open_cache
from input_pipeline.clips import Part, Recipe
from input_pipeline.decode import BadVideo
from input_pipeline.media import OpenVideo
from input_pipeline.sources import Source, open_source
from input_pipeline.text import open_texts
from vfm.errors import UserError

Batch = dict[str, np.ndarray]

_ORDER, _CLIP, _REPLACEMENT, _CAPTION = 0, 1, 2, 3  # streams of random numbers
_STREAMS = {"video": 0, "image": 10}  # added to those, so that two media have orders of their own
_MOST_REPLACEMENTS = 100  # tried in one place
_FILES_CHECKED = 10_000  # whose presence is checked before the first batch
_FOR_EVER = 2**62  # chunks of a training run


class BadFiles:
    """Files that do not decode, each with its reason; too many are an error.

    Attributes:
      reasons: path -> reason, of files that give nothing.
      damaged: path -> reason, of files that are used in part.
    """

    def __init__(self, source: Source, most: float):
        self.reasons: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self._source, self._most = source, most
        self._names = (
            [source.clip_name(i) for i in range(len(source))] if source.spans is not None else source.paths
        )
        self._count = len(set(self._names))

    def add(self, path: str, reason: str, in_part: bool = False) -> None:
        """Notes a file; `in_part`: it is used as far as it goes.

        Raises:
          UserError: those that give nothing are more than the share that data.max_bad_fraction allows.
        """
        if in_part:
            self.damaged.setdefault(path, reason)
            return
        self.reasons.setdefault(path, reason)
        if len(self.reasons) > self._most * self._count:
            some = "; ".join(f"{path}: {reason}" for path, reason in list(self.reasons.items())[:3])
            if self._source.lines:
                first = self._source.where(self._names.index(next(iter(self.reasons))))
                some += f" (the first is {first})"
            raise UserError(
                f"{self._source.key}='{self._source.name}': {len(self.reasons)} of {self._count} files give no frames, "
                f"data.max_bad_fraction={self._most} allows {int(self._most * self._count)}: {some}; mend them, take "
                f"them out of the set, check data.root, or raise data.max_bad_fraction"
            )


class Videos:
    """The videos (or images) of a source with their texts, opened by sample: from files or from the cache.

    Attributes:
      texts: None where the configuration asks for none.
      usable: samples that training draws from; None = all.
    """

    def __init__(
        self, data: Any, spec: str, key: str, most: float, medium: str = "video", training: bool = False
    ):
        text = data.get("text")
        column = text.column if text else "caption"
        self.source = source = open_source(spec, data.root, key, column, medium)
        self.bad = BadFiles(source, most)
        self._check_presence()
        self.texts = open_texts(data, source, most if training else 1.0, required=training)
        self.usable = None
        if training and self.texts is not None and self.texts.left_out:
            self.usable = self.texts.usable
        self.cache: Cache | None = None
        if data.cache and source.spans is not None:
            raise UserError(
                f"{key}='{spec}' shows parts of files (start_time, end_time), and data.cache=True keeps frames without "
                f"their times; set data.cache=False"
            )
        if data.cache:
            self.cache = open_cache(source, int(data.cache_size), data.root)
            for path, reason in self.cache.bad.items():
                self.bad.add(path, reason)

    def __len__(self) -> int:
        return len(self.source) if self.usable is None else len(self.usable)

    def sample(self, place: int) -> int:
        """The sample at a place among those that training draws from."""
        return place if self.usable is None else int(self.usable[place])

    def _check_presence(self) -> None:
        step = -(-len(self.source) // _FILES_CHECKED)
        index_of = {self.source.paths[i]: i for i in range(0, len(self.source), step)}
        missing = self.source.store.missing(index_of.values())
        if missing and len(missing) == len(index_of):
            first, reason = next(iter(missing.items()))
            raise UserError(
                f"{self.source.key}='{self.source.name}': none of its files is there, e.g. {self.source.paths[first]}: "
                f"{reason} ({self.source.where(first)}); set data.root to the folder that the paths in it are relative "
                f"to"
            )
        for index, reason in missing.items():
            self.bad.add(self.source.clip_name(index), reason)

    def open(self, index: int) -> OpenVideo | Part | CachedVideo:
        return self.cache.open(index) if self.cache else self.source.open(index)

    def text(self, indices: Sequence[int], choices: Sequence[int] | None = None) -> Batch:
        """The rows of text of samples, by default their first captions; nothing where there are no texts."""
        if self.texts is None:
            return {}
        return self.texts.batch(indices, [0] * len(indices) if choices is None else choices)

    def choice(self, index: int, seed: tuple[int, ...]) -> int:
        """One of a sample's captions, drawn by `seed`."""
        count = len(self.texts.choices(index)) if self.texts is not None else 1
        return int(np.random.default_rng(seed).integers(count)) if count > 1 else 0

    def labels(self, indices: np.ndarray) -> Batch:
        """`id`, `label` (the first column, or -1) and all label columns of samples."""
        columns = {name: column[indices] for name, column in self.source.labels.items()}
        first = next(iter(columns.values()), np.full(len(indices), -1, np.int32))
        return {"label": first} | columns | {"id": indices.astype(np.int32)}


@functools.lru_cache(maxsize=6)
def _permutation(seed: int, stream: int, epoch: int, count: int) -> Int[np.ndarray, "n"]:
    return np.random.default_rng((seed, stream, epoch)).permutation(count)


class TrainingChunks:
    """Random access to chunks of `size` rows of this host's part of the batches from `start_step` on."""

    def __init__(
        self,
        videos: Videos,
        recipe: Recipe,
        seed: int,
        batch_size: int,
        start_step: int,
        rows: slice,
        medium: str = "video",
    ):
        self._stream = _STREAMS[medium]
        self._videos, self._recipe, self._seed = videos, recipe, seed
        self._batch_size, self._first_row, self._start = batch_size, rows.start, start_step
        repeats, count = recipe.clips_per_video, rows.stop - rows.start
        self.whole = videos.cache is not None and self._as_stored(videos.cache)
        if videos.cache is not None:
            self.size = count
        else:  # one video's clips, where hosts do not share a video
            self.size = (
                repeats if not (count % repeats or rows.start % repeats or batch_size % repeats) else 1
            )
        self.per_batch = count // self.size

    def __len__(self) -> int:
        return _FOR_EVER

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, chunk = divmod(index, self.per_batch)
        position = (self._start + step) * self._batch_size + self._first_row + chunk * self.size
        positions = range(position, position + self.size)
        noticed: dict[str, tuple[str, bool]] = {}
        if self.whole:
            indices = np.array([self._sample(p // self._recipe.clips_per_video) for p in positions])
            video = self._videos.cache.stack[self._videos.cache.place[indices]]
        else:
            slots = collections.defaultdict(list)
            for p in positions:
                slots[p // self._recipe.clips_per_video].append(p)
            found = [self._clips_of(slot, members, noticed) for slot, members in slots.items()]
            indices = np.repeat([sample for sample, _ in found], [len(made) for _, made in found])
            video = np.stack([clip for _, made in found for clip in made])
        choices = [
            self._videos.choice(int(i), (self._seed, self._stream + _CAPTION, p, int(i)))
            for p, i in zip(positions, indices, strict=True)
        ]
        rows = {"video": video} | self._videos.labels(indices) | self._videos.text(indices, choices)
        if (repeats := self._recipe.clips_per_video) > 1:  # tells the clips of one video apart, for masks
            rows["clip"] = np.array([p % repeats for p in positions], np.int32)
        return rows | {"bad": _listed(noticed)}

    def _as_stored(self, cache: Cache) -> bool:
        """Whether every clip is a whole cached video, so that a batch is one copy."""
        recipe, stack = self._recipe, cache.stack
        size = (recipe.frames, recipe.size, recipe.size, 3)
        fixed = recipe.crop in ("center", "resize") and not recipe.flip
        in_order = recipe.sampling == "sparse" or recipe.stride == 1
        return stack is not None and stack.shape[1:] == size and fixed and in_order

    def _sample(self, slot: int) -> int:
        epoch, place = divmod(slot, len(self._videos))
        order = _permutation(self._seed, self._stream + _ORDER, epoch, len(self._videos))
        return self._videos.sample(int(order[place]))

    def _candidates(self, slot: int) -> Iterator[int]:
        """The sample of a slot, then those that replace it."""
        first = self._sample(slot)
        yield first
        rng = np.random.default_rng((self._seed, self._stream + _REPLACEMENT, slot, first))
        for _ in range(_MOST_REPLACEMENTS):
            yield self._videos.sample(int(rng.integers(len(self._videos))))

    def _clips_of(
        self, slot: int, positions: Sequence[int], noticed: dict[str, tuple[str, bool]]
    ) -> tuple[int, list[UInt8[np.ndarray, "T S S 3"]]]:
        """(sample, clips) of some positions of one slot; puts files that do not decode into `noticed`."""
        bad = self._videos.bad
        for index in self._candidates(slot):
            path = self._videos.source.clip_name(index)
            if path in bad.reasons:
                continue
            rngs = [np.random.default_rng((self._seed, self._stream + _CLIP, p, index)) for p in positions]
            try:
                with self._videos.open(index) as video:
                    made = clips.training_clips(video, self._recipe, rngs)
                    if video.damage:
                        noticed[path] = video.damage, True
                    return index, made
            except BadVideo as error:
                noticed[path] = error.reason, False
                bad.add(path, error.reason)
        name, some = self._videos.source.name, next(iter(bad.reasons.items()), ("", ""))
        raise UserError(
            f"{self._videos.source.key}='{name}': none of {_MOST_REPLACEMENTS + 1} videos tried gives frames, e.g. "
            f"{some[0]}: {some[1]}; mend the set or data.root"
        )


class EvaluationChunks:
    """Random access to single samples, in the order of the source."""

    def __init__(self, videos: Videos, recipe: Recipe, views: tuple[int, int]):
        self._videos, self._recipe, self._views = videos, recipe, views

    def __len__(self) -> int:
        return len(self._videos.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, bad = self._videos.source.clip_name(index), self._videos.bad
        mask, noticed = np.ones(1, np.float32), {}
        try:
            if path in bad.reasons:
                raise BadVideo(path, bad.reasons[path])
            with self._videos.open(index) as video:
                views = clips.evaluation_views(video, self._recipe, *self._views)
                if video.damage:
                    noticed[path] = video.damage, True
        except BadVideo as error:
            bad.add(path, error.reason)
            noticed[path] = error.reason, False
            mask[:] = 0
            side = self._recipe.size
            views = np.zeros((self._views[0] * self._views[1], self._recipe.frames, side, side, 3), np.uint8)
        labels = self._videos.labels(np.array([index]))
        text = self._videos.text([index])
        return {"video": views[None]} | labels | text | {"mask": mask, "bad": _listed(noticed)}


def _listed(noticed: dict[str, tuple[str, bool]]) -> tuple[tuple[str, str, bool], ...]:
    """Path, reason and whether used in part, of each file; as what travels between processes."""
    return tuple((path, *entry) for path, entry in noticed.items())

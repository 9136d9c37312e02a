"""Which samples make batch k, by random access: a function of (seed, k) alone.

B rows of the global batch, b rows of this host, K clips of each video, T frames, S side in pixels, V views.

Position p (row p % B of batch p // B) shows clip p % K of slot p // K; slot s is the video at place s % n of a
permutation of all n videos drawn for epoch s // n. Any position can be computed directly, so a run resumes at any step
at once; hosts take rows, workers take chunks of rows, and neither changes what a row holds.

A video that does not decode is skipped: its slot shows the next one of an order drawn for that slot. It is counted and
named, and too many of them end the run. In an evaluation nothing takes its place: its row has mask 0.
"""

import collections
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from input_pipeline import clips
from input_pipeline.cache import Cache, CachedVideo, open_cache
from input_pipeline.clips import Recipe
from input_pipeline.decode import BadVideo, Video
from input_pipeline.sources import Source, open_source
from vfm.errors import UserError

Batch = dict[str, np.ndarray]

_ORDER, _CLIP, _REPLACEMENT = 0, 1, 2  # streams of random numbers
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
        self._count = len(set(source.paths))

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
                first = self._source.where(self._source.paths.index(next(iter(self.reasons))))
                some += f" (the first is {first})"
            raise UserError(
                f"{self._source.key}='{self._source.name}': {len(self.reasons)} of {self._count} files give no frames, "
                f"data.max_bad_fraction={self._most} allows {int(self._most * self._count)}: {some}; mend them, take "
                f"them out of the set, check data.root, or raise data.max_bad_fraction"
            )


class Videos:
    """The videos of a source, opened by sample: from files or from the cache."""

    def __init__(self, data: Any, spec: str, key: str, most: float):
        self.source = open_source(spec, data.root, key)
        self.bad = BadFiles(self.source, most)
        step = -(-len(self.source) // _FILES_CHECKED)
        for path in dict.fromkeys(self.source.paths[::step]):
            if not os.path.exists(path):
                self.bad.add(path, "no such file")
        self.cache: Cache | None = None
        if data.cache:
            self.cache = open_cache(self.source, int(data.cache_size), data.root)
            for path, reason in self.cache.bad.items():
                self.bad.add(path, reason)

    def open(self, index: int) -> Video | CachedVideo:
        return self.cache.open(index) if self.cache else Video(self.source.paths[index])

    def labels(self, indices: np.ndarray) -> Batch:
        """`id`, `label` (the first column, or -1) and all label columns of samples."""
        columns = {name: column[indices] for name, column in self.source.labels.items()}
        first = next(iter(columns.values()), np.full(len(indices), -1, np.int32))
        return {"label": first} | columns | {"id": indices.astype(np.int32)}


@functools.lru_cache(maxsize=3)
def _permutation(seed: int, epoch: int, count: int) -> Int[np.ndarray, "n"]:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)


class TrainingChunks:
    """Random access to chunks of `size` rows of this host's part of the batches from `start_step` on."""

    def __init__(
        self, videos: Videos, recipe: Recipe, seed: int, batch_size: int, start_step: int, rows: slice
    ):
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
        rows = {"video": video} | self._videos.labels(indices)
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
        epoch, place = divmod(slot, len(self._videos.source))
        return int(_permutation(self._seed, epoch, len(self._videos.source))[place])

    def _candidates(self, slot: int) -> Iterator[int]:
        """The sample of a slot, then those that replace it."""
        first = self._sample(slot)
        yield first
        rng = np.random.default_rng((self._seed, _REPLACEMENT, slot, first))
        for _ in range(_MOST_REPLACEMENTS):
            yield int(rng.integers(len(self._videos.source)))

    def _clips_of(
        self, slot: int, positions: Sequence[int], noticed: dict[str, tuple[str, bool]]
    ) -> tuple[int, list[UInt8[np.ndarray, "T S S 3"]]]:
        """(sample, clips) of some positions of one slot; puts files that do not decode into `noticed`."""
        bad = self._videos.bad
        for index in self._candidates(slot):
            path = self._videos.source.paths[index]
            if path in bad.reasons:
                continue
            rngs = [np.random.default_rng((self._seed, _CLIP, p, index)) for p in positions]
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
        path, bad = self._videos.source.paths[index], self._videos.bad
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
        return {"video": views[None]} | labels | {"mask": mask, "bad": _listed(noticed)}


def _listed(noticed: dict[str, tuple[str, bool]]) -> tuple[tuple[str, str, bool], ...]:
    """Path, reason and whether used in part, of each file; as what travels between processes."""
    return tuple((path, *entry) for path, entry in noticed.items())

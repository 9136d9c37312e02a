"""Which samples make batch k, by random access: a function of (seed, k) alone.

B rows of the global batch, b rows of this host, K clips of each video, T frames, S side in pixels, V views.

Position p (row p % B of batch p // B) shows clip p % K of slot p // K; which sample stands in a slot is said by
`input_pipeline.order`. Any position can be computed directly, so a run resumes at any step at once; hosts take rows,
workers take chunks of rows, and neither changes what a row holds. Of several captions one is drawn by the row's
position as well.

What is known to be bad before training is not in the plan. A video that does not decode later is skipped: its slot
shows the next one of an order drawn for that slot. It is counted and named, and too many of them end the run. In an
evaluation nothing takes its place: its row has mask 0.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from input_pipeline import clips
from input_pipeline.clips import Recipe
from input_pipeline.decode import BadVideo
from input_pipeline.mixture import Ingredient, Mixture
from input_pipeline.shared_memory import Reading
from input_pipeline.videos import Batch, Timed, Videos
from vfm.errors import UserError

ORDER, _CLIP, _REPLACEMENT, _CAPTION = 0, 1, 2, 3  # streams of random numbers
STREAMS = {"video": 0, "image": 10}  # added to those, so that two media have orders of their own
_MOST_REPLACEMENTS = 100  # tried in one place
_FOR_EVER = 2**62  # chunks of a training run


class Notice(NamedTuple):
    """A file that gives no frames, or not all of them; which source it belongs to."""

    source: int
    name: str
    reason: str
    in_part: bool


class _Chunks:
    """What both kinds of chunks have in common: they know which file each thread is at, and which to avoid.

    A chunk is a batch's rows with, beside them, `bad` (a tuple of `Notice`), and `times`: seconds of reading and of
    everything else.
    """

    def __init__(self, videos: Sequence[Videos]):
        self._all = videos
        self.reading: dict[int, Reading] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"reading": {}}

    def note(self, source: int, name: str) -> None:
        """Writes down which file this thread is at."""
        self.reading[threading.get_ident()] = Reading(source, name, time.monotonic())

    def avoid(self, source: int, name: str, reason: str) -> None:
        """Takes a file for bad from now on."""
        self._all[source].bad.reasons.setdefault(name, reason)

    def done(self) -> None:
        """This thread is at no file any more."""
        self.reading.pop(threading.get_ident(), None)


class TrainingChunks(_Chunks):
    """Random access to chunks of `size` rows of this host's part of the batches from `start_step` on."""

    def __init__(
        self,
        mixture: Mixture,
        recipe: Recipe,
        seed: int,
        batch_size: int,
        start_step: int,
        rows: slice,
        medium: str = "video",
    ):
        super().__init__([part.videos for part in mixture.parts])
        self._stream = STREAMS[medium]
        self._mixture, self._repeats, self._seed = mixture, recipe.clips_per_video, seed
        self._batch_size, self._rows, self._start = batch_size, rows, start_step
        repeats, count = self._repeats, rows.stop - rows.start
        cached = all(videos.cache is not None for videos in self._all)
        self.whole = cached and len(self._all) == 1 and _as_stored(self._all[0], recipe)
        if cached:
            self.size = count
        else:  # one video's clips, where hosts do not share a video
            shared = count % repeats or rows.start % repeats or batch_size % repeats
            self.size = 1 if shared else repeats
        self.per_batch = count // self.size

    def __len__(self) -> int:
        return _FOR_EVER

    def planned(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, sample) of this host's rows of a batch, when every file decodes."""
        first = step * self._batch_size
        slots = np.arange(first + self._rows.start, first + self._rows.stop) // self._repeats
        return self._mixture.samples(slots)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, repeats = time.perf_counter(), self._repeats
        step, chunk = divmod(index, self.per_batch)
        position = (self._start + step) * self._batch_size + self._rows.start + chunk * self.size
        positions = np.arange(position, position + self.size)
        noticed: dict[tuple[int, str], Notice] = {}
        slots, first, which = np.unique(positions // repeats, return_index=True, return_inverse=True)
        sources, samples = self._mixture.samples(slots)
        reading = 0.0
        if self.whole:
            cache = self._all[0].cache
            video = cache.stack[cache.place[samples[which]]]
        else:
            clips_of_rows = []
            for i, at in enumerate(first):
                members = positions[at : at + int((which == i).sum())].tolist()
                place = int(slots[i]), int(sources[i]), int(samples[i])
                samples[i], made, seconds = self._clips_of(*place, members, noticed)
                clips_of_rows += made
                reading += seconds
            self.done()
            video = clips_of_rows[0][None] if len(clips_of_rows) == 1 else np.stack(clips_of_rows)
        sources, samples = sources[which], samples[which]
        choices = [
            self._all[s].choice(i, (self._seed, self._stream + _CAPTION, p, i))
            for p, s, i in zip(positions.tolist(), sources.tolist(), samples.tolist(), strict=True)
        ]
        rows = {"video": video} | self._mixture.rows(sources, samples, choices)
        if repeats > 1:  # tells the clips of one video apart, for masks
            rows["clip"] = (positions % repeats).astype(np.int32)
        times = reading, time.perf_counter() - start - reading
        return rows | {"bad": tuple(noticed.values()), "times": times}

    def _candidates(self, slot: int, source: int, first: int) -> Iterator[int]:
        """The sample of a slot, then those that replace it."""
        yield first
        videos = self._all[source]
        rng = np.random.default_rng((self._seed, self._stream + _REPLACEMENT, slot, first))
        for _ in range(_MOST_REPLACEMENTS):
            yield int(videos.sample(rng.integers(len(videos))))

    def _clips_of(
        self,
        slot: int,
        source: int,
        sample: int,
        positions: Sequence[int],
        noticed: dict[tuple[int, str], Notice],
    ) -> tuple[int, list[UInt8[np.ndarray, "T S S 3"]], float]:
        """(sample, clips, seconds of reading) of some positions of one slot; notes files that do not decode."""
        part: Ingredient = self._mixture.parts[source]
        bad, seconds = part.videos.bad, 0.0
        for index in self._candidates(slot, source, sample):
            name = part.videos.source.clip_name(index)
            if name in bad.reasons:
                continue
            self.note(source, name)
            rngs = [np.random.default_rng((self._seed, self._stream + _CLIP, p, index)) for p in positions]
            start = time.perf_counter()
            try:
                with part.videos.open(index) as video:
                    timed = Timed(video, time.perf_counter() - start)
                    made = clips.training_clips(timed, part.recipe, rngs)
                    if video.damage:
                        noticed[source, name] = Notice(source, name, video.damage, True)
                    return index, made, seconds + timed.seconds
            except BadVideo as error:
                seconds += time.perf_counter() - start
                noticed[source, name] = Notice(source, name, error.reason, False)
                bad.add(name, error.reason)
        origin, some = part.videos.source, next(iter(bad.reasons.items()), ("", ""))
        raise UserError(
            f"{origin.key}='{origin.name}': none of {_MOST_REPLACEMENTS + 1} videos tried gives frames, e.g. "
            f"{some[0]}: {some[1]}; mend the set or data.root"
        )


def _as_stored(videos: Videos, recipe: Recipe) -> bool:
    """Whether every clip is a whole cached video, so that a batch is one copy."""
    stack = videos.cache.stack
    return stack is not None and recipe.keeps(*stack.shape[1:4])


class EvaluationChunks(_Chunks):
    """Random access to single samples, in the order of the source."""

    def __init__(self, videos: Videos, recipe: Recipe, views: tuple[int, int]):
        super().__init__([videos])
        self._videos, self._recipe, self._views = videos, recipe, views

    def __len__(self) -> int:
        return len(self._videos.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = time.perf_counter()
        name, bad = self._videos.source.clip_name(index), self._videos.bad
        mask, noticed, timed = np.ones(1, np.float32), [], None
        self.note(0, name)
        try:
            if index in self._videos.source.skipped:
                raise BadVideo(name, self._videos.source.skipped[index])
            if name in bad.reasons:
                raise BadVideo(name, bad.reasons[name])
            with self._videos.open(index) as video:
                timed = Timed(video, time.perf_counter() - start)
                views = clips.evaluation_views(timed, self._recipe, *self._views)
                if video.damage:
                    noticed.append(Notice(0, name, video.damage, True))
        except BadVideo as error:
            if index not in self._videos.source.skipped:
                bad.add(name, error.reason)
                noticed.append(Notice(0, name, error.reason, False))
            mask[:] = 0
            side = self._recipe.size
            views = np.zeros((self._views[0] * self._views[1], self._recipe.frames, side, side, 3), np.uint8)
        self.done()
        labels = self._videos.labels(np.array([index]))
        text: Batch = self._videos.text([index])
        reading = timed.seconds if timed else 0.0
        times = reading, time.perf_counter() - start - reading
        return {"video": views[None]} | labels | text | {"mask": mask, "bad": tuple(noticed), "times": times}

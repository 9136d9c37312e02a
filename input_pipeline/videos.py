"""The videos of a source as training and evaluation use them: which can be shown, and what is known to be bad.

Before training, everything that can be known is left out of the plan: samples of a skip list, samples without a
caption, and local files whose first frame does not decode. Then each sample that is left is shown exactly as often as
planned. A file that turns out bad later is replaced in its place, counted and named. In an evaluation nothing is left
out: a sample that cannot be shown has mask 0.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from input_pipeline.backends import check_decoder
from input_pipeline.cache import Cache, CachedVideo, open_cache
from input_pipeline.check import unreadable
from input_pipeline.clips import Part
from input_pipeline.media import OpenVideo
from input_pipeline.sources import Source, open_source
from input_pipeline.text import open_texts
from vfm.errors import UserError

Batch = dict[str, np.ndarray]
Share = Callable[[Callable[[], np.ndarray], Sequence[str]], np.ndarray]
"""(compute, names of n samples) -> the bool [n] of those to leave out, which `compute` finds; equal in all processes
of a run, and in a run that goes on."""

SKIPPED, UNREADABLE, NO_CAPTION = "left out by data.skip", "cannot be read", "no caption"
_FILES_LOOKED_FOR = 10_000  # whose presence is checked before the first batch


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
        self.add_all({path: reason})

    def add_all(self, found: dict[str, str], more: str = "") -> None:
        """Notes files that give nothing; `more` says that there may be others. Raises as `add` does."""
        self.reasons |= {path: reason for path, reason in found.items() if path not in self.reasons}
        if len(self.reasons) > self._most * self._count:
            some = "; ".join(f"{path}: {reason}" for path, reason in list(self.reasons.items())[:3])
            if self._source.lines:
                first = self._source.where(self._names.index(next(iter(self.reasons))))
                some += f" (the first is {first})"
            raise UserError(
                f"{self._source.key}='{self._source.name}': {more}{len(self.reasons)} of {self._count} files give no "
                f"frames, data.max_bad_fraction={self._most} allows {int(self._most * self._count)}: {some}; check "
                f"data.root, leave them out by data.skip (python -m scripts.validate_data lists them with their "
                f"reasons), or raise data.max_bad_fraction"
            )


class Videos:
    """The videos (or images) of a source with their texts, opened by sample: from files or from the cache.

    Args:
      data: the configuration's `data`.
      spec: the source, see `open_source`.
      key: the configuration key of `spec`.
      most: share of the files that may be bad.
      medium: "video" or "image".
      training: leave out what cannot be shown, and require text where `data` asks for it.
      share: makes all processes of a run leave out the same; None where there is one.

    Attributes:
      texts: None where the configuration asks for none.
      usable: samples that training draws from; None = all.
      left_out: reason -> how many samples training does not draw from.
    """

    def __init__(
        self,
        data: Any,
        spec: Any,
        key: str,
        most: float,
        medium: str = "video",
        training: bool = False,
        share: Share | None = None,
    ):
        text = data.get("text")
        column = text.column if text else "caption"
        decoder = data.get("decoder", "pyav")
        check_decoder(decoder)
        source = open_source(spec, data.root, key, column, medium, data.get("skip", ""))
        self.source = source = replace(source, decoder=decoder)
        self.bad = BadFiles(source, most)
        check = training and bool(data.get("check", True))
        self._look_for_files(more="at least " if check else "")
        self.texts = open_texts(data, source, most if training else 1.0, required=training)
        self.cache: Cache | None = None
        if data.cache and source.spans is not None:
            raise UserError(
                f"{key}='{spec}' shows parts of files (start_time, end_time), and data.cache=True keeps frames without "
                f"their times; set data.cache=False"
            )
        if data.cache:
            self.cache = open_cache(source, int(data.cache_size), data.root)
        self.usable: np.ndarray | None = None
        self.left_out: dict[str, int] = {}
        if training:
            self._leave_out(check, share)
        elif self.cache is not None:
            self.bad.add_all(self.cache.bad)

    def __len__(self) -> int:
        return len(self.source) if self.usable is None else len(self.usable)

    def sample(self, places: np.ndarray) -> np.ndarray:
        """The samples at places among those that training draws from."""
        return places if self.usable is None else self.usable[places]

    def _look_for_files(self, more: str) -> None:
        """Notes those that are not there, before the time is spent that opening all takes."""
        source, step = self.source, -(-len(self.source) // _FILES_LOOKED_FOR)
        index_of = {source.paths[i]: i for i in range(0, len(source), step) if i not in source.skipped}
        missing = source.store.missing(index_of.values())
        if missing and len(missing) == len(index_of):
            first, reason = next(iter(missing.items()))
            raise UserError(
                f"{source.key}='{source.name}': none of its files is there, e.g. {source.paths[first]}: {reason} "
                f"({source.where(first)}); set data.root to the folder that the paths in it are relative to"
            )
        self.bad.add_all({source.clip_name(index): reason for index, reason in missing.items()}, more)

    def _leave_out(self, check: bool, share: Share | None) -> None:
        """Finds out which samples training draws from."""
        source, count = self.source, len(self.source)
        skipped = np.zeros(count, bool)
        skipped[list(source.skipped)] = True

        def bad() -> np.ndarray:
            reasons = self.cache.bad if self.cache is not None else unreadable(source) if check else {}
            which = np.fromiter((path in reasons for path in source.paths), bool, count) & ~skipped
            self.bad.add_all({source.clip_name(i): reasons[source.paths[i]] for i in np.flatnonzero(which)})
            return which

        unusable = bad() if share is None else share(bad, source.paths)
        silent = np.zeros(count, bool)
        if self.texts is not None:
            silent[:] = True
            silent[self.texts.usable] = False
        why = {SKIPPED: skipped, UNREADABLE: unusable, NO_CAPTION: silent & ~skipped & ~unusable}
        self.left_out = {name: int(which.sum()) for name, which in why.items() if which.any()}
        if self.left_out:
            self.usable = np.flatnonzero(~(skipped | unusable | silent))
            if not len(self.usable):
                some = next(iter(self.bad.reasons.items()), None)
                raise UserError(
                    f"{source.key}='{source.name}': nothing is left to train on of {count} samples "
                    f"({', '.join(f'{n} {why}' for why, n in self.left_out.items())})"
                    + (f", e.g. {some[0]}: {some[1]}" if some else "")
                    + "; mend the set or data.root"
                )

    def open(self, index: int) -> OpenVideo | Part | CachedVideo:
        """The video of a sample; a context manager."""
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

    def bad_files(self) -> list[tuple[str, str]]:
        """(name, reason) of what was met so far: files, and samples without text or on a skip list."""
        skipped = self.source.skipped
        bad = [(self.source.clip_name(i), f"{SKIPPED}: {why}") for i, why in skipped.items()]
        bad += self.texts.left_out if self.texts is not None else []
        bad += list(self.bad.reasons.items())
        return bad + [(path, f"{why}; used in part") for path, why in list(self.bad.damaged.items())]


class Timed:
    """An open video that adds up the seconds it takes to read; `seconds` it took to open."""

    def __init__(self, video: Any, seconds: float):
        self._video, self.seconds = video, seconds

    def __getattr__(self, name: str) -> Any:
        start = time.perf_counter()
        found = getattr(self._video, name)
        self.seconds += time.perf_counter() - start  # the number of frames is found out when it is asked for
        return found if not callable(found) else self._timed(found)

    def _timed(self, function: Callable) -> Callable:
        def timed(*arguments, **options):
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - start

        return timed

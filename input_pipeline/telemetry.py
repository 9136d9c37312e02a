"""What the loader knows about itself: how long reading takes, what it waits for, what was planned and shown."""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from input_pipeline.mixture import Mixture
from input_pipeline.shared_memory import Reading

log = logging.getLogger(__name__)
_NAMED = 5  # files in one message
_KEPT = 64  # steps, more than are ever read ahead of training


class _Sums:
    """Of some batches: how many they are, their clips, rows that were replaced, and seconds."""

    def __init__(self):
        self.clips = self.batches = self.replaced = 0
        self.decode = self.transform = self.wait = 0.0


class Telemetry:
    """Sums of what reading one medium took since they were last asked for, whole batches only.

    One thread reads and adds, another may ask at any time: what belongs to a batch counts when the batch is complete.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._sums, self._next = _Sums(), _Sums()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._next.wait += time.perf_counter() - start

    def add(self, clips: int, decode: float, transform: float) -> None:
        """Counts a chunk: its clips, and the seconds of reading them and of everything else."""
        self._next.clips += clips
        self._next.decode += decode
        self._next.transform += transform

    def batch(self, replaced: int = 0) -> None:
        """Counts a batch, of which so many rows show another sample than planned."""
        self._next.batches, self._next.replaced = 1, replaced
        with self._lock:
            for name, value in vars(self._next).items():
                setattr(self._sums, name, getattr(self._sums, name) + value)
        self._next = _Sums()

    def means(self) -> dict[str, float]:
        """`decode_ms` and `transform_ms` of a clip, `wait_ms` for a batch and the number of `bad_clips` since the last
        call; nothing where there was no batch."""
        with self._lock:
            sums, self._sums = self._sums, _Sums()
        if not sums.batches:
            return {}
        return {
            "decode_ms": 1e3 * sums.decode / sums.clips,
            "transform_ms": 1e3 * sums.transform / sums.clips,
            "wait_ms": 1e3 * sums.wait / sums.batches,
            "bad_clips": float(sums.replaced),
        }


class Watchdog:
    """Says which files are being read when one wait takes long, again each time as much time has passed; a context.

    Args:
      reading: the files that are being read.
      name: of the source.
      seconds: that a wait may take; 0 = for ever.
    """

    def __init__(self, reading: Callable[[], Sequence[Reading]], name: str, seconds: float):
        self._reading, self._name, self._seconds = reading, name, seconds
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        if self._thread is None and self._seconds > 0:
            self._closed.clear()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._since = None

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        said = 0.0
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            since, now = self._since, time.monotonic()
            if since is None or now - max(since, said) < self._seconds:
                continue
            said = now
            files = sorted(self._reading(), key=lambda file: file.since)
            named = ", ".join(f"'{file.name}' (for {now - file.since:.0f} s)" for file in files[:_NAMED])
            more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
            log.warning(
                f"no clip of '{self._name}' for {now - since:.0f} s (data.stall_seconds={self._seconds:g}); being "
                f"read: {named or 'no file'}{more}"
            )


class Planned(NamedTuple):
    """One medium of a training run.

    Attributes:
      medium: "" of the videos, "images" of images beside them.
      mixture: the sources.
      batch_size: rows of the global batch.
      repeats: clips of each video that stand beside each other.
    """

    medium: str
    mixture: Mixture
    batch_size: int
    repeats: int


class Account:
    """What was planned and what was shown, by step; in steps of training, which batches are read ahead of.

    Args:
      media: what is shown.
      start: the first step.
    """

    def __init__(self, media: Sequence[Planned], start: int):
        self._media = media
        self._first = self._step = start
        self._clips = 0
        self._instead: Counter[str] = Counter()  # planned but not shown, by name
        self._ahead: dict[int, tuple[int, Counter[str]]] = {}
        self._lock = threading.Lock()

    def add(
        self, step: int, batches: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]
    ) -> list[int]:
        """Notes the (source, sample) of each row of a batch, as planned and as read; gives how many differ.

        Args:
          batches: (planned, read) of each medium.
        """
        clips, names, replaced = 0, Counter(), []
        for (_, mixture, _, _), (planned, shown) in zip(self._media, batches, strict=True):
            differ = (planned[0] != shown[0]) | (planned[1] != shown[1])
            names.update(
                mixture.parts[source].videos.source.clip_name(sample)
                for source, sample in zip(
                    planned[0][differ].tolist(), planned[1][differ].tolist(), strict=True
                )
            )
            clips += len(differ)
            replaced.append(int(differ.sum()))
        with self._lock:
            self._ahead[step] = clips, names
            if len(self._ahead) > _KEPT:  # nobody asks
                self._fold(min(self._ahead) + 1)
        return replaced

    def until(self, step: int) -> dict[str, Any]:
        """What was planned and shown before `step`, which may only grow; can be written as JSON.

        `steps` [first, end), `clips` (and images beside them) shown by this process, `replaced` (name -> how often
        another was shown instead), and of each source under `sources`: its `name`, `source`, samples `listed` and
        `left_out` (reason -> number), samples `planned` from, and `times` that each of those was planned for, all
        processes together (fewest, most).
        """
        with self._lock:
            self._fold(step)
            self._step = max(self._step, step)
            account = dict(steps=[self._first, self._step], clips=self._clips, replaced=dict(self._instead))
        return account | {"sources": [source for medium in self._media for source in self._sources(medium)]}

    def _fold(self, step: int) -> None:
        for done in [key for key in self._ahead if key < step]:
            clips, instead = self._ahead.pop(done)
            self._clips += clips
            self._instead += instead

    def resume(self, found: dict[str, Any]) -> None:
        """Goes on from what `until` gave when the run was saved, if that was where this one starts."""
        if found.get("steps", [0, -1])[1] == self._first:
            self._first, self._clips = found["steps"][0], found["clips"]
            self._instead = Counter(found["replaced"])

    def _sources(self, medium: Planned) -> Iterator[dict[str, Any]]:
        """The sources of a medium, with how often their samples were planned from step 0 to now: fewest and most."""
        slots = -(-self._step * medium.batch_size // medium.repeats)
        numbers = medium.mixture.order.numbers(slots)
        for part, number in zip(medium.mixture.parts, numbers, strict=True):
            videos = part.videos
            yield dict(
                name=" ".join(filter(None, [medium.medium, part.name])),
                source=videos.source.name,
                listed=len(videos.source),
                left_out=videos.left_out,
                planned=len(videos),
                times=[number // len(videos), -(-number // len(videos))],
            )

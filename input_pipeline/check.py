"""Whether the files of a source can be read, found out in processes of their own.

A file that crashes its decoder or takes too long costs its process, never the program: it is named, and the others go
on. What was found out about a file is kept beside the set until the file changes.
"""

import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from input_pipeline.atomic import appearing
from input_pipeline.cache import folders
from input_pipeline.decode import BadVideo, FewerFrames
from input_pipeline.media import Files
from input_pipeline.sources import Source
from input_pipeline.storage import digest
from input_pipeline.transforms import Window, whole_window
from input_pipeline.workers import Lost, Workers

LEVELS = ("first", "all")
SECONDS = 60.0  # for one file
_VERSION = "1"  # of what is kept, and of what a check is
_SHARE = 8  # files that are worth a process
_SAVED_EVERY = 100_000  # files after which what was found out is written down
_AT_ONCE = 2048  # frames in memory
_SIDE = 16  # in pixels, to which frames are reduced

log = logging.getLogger(__name__)


def _small(height: int, width: int) -> Window:
    return whole_window(_SIDE, _SIDE)


class _Probe:
    """Opens samples of a source: (reason or "", what was found)."""

    def __init__(self, source: Source, level: str):
        self._source, self._level = source, level

    def __getitem__(self, index: int) -> tuple[str, dict[str, Any]]:
        found: dict[str, Any] = {}
        try:
            with self._source.open(index) as video:
                found["frames"] = video.num_frames
                for name in ("fps", "duration", "size", "codec", "rotation"):
                    if hasattr(video, name):
                        found[name] = getattr(video, name)
                count = video.num_frames if self._level == "all" else 1
                try:
                    for start in range(0, count, _AT_ONCE):
                        video.read(range(start, min(start + _AT_ONCE, count)), _small)
                except FewerFrames:
                    found["frames"] = video.num_frames
                if video.damage:
                    found["damage"] = video.damage
        except BadVideo as error:
            return error.reason, found
        except Exception as error:  # whatever a library raises at a file is about that file
            return f"{type(error).__name__}: {error}", found
        return "", found


def check(
    source: Source,
    level: str = "first",
    workers: int = 0,
    seconds: float = SECONDS,
    indices: Iterable[int] | None = None,
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(index, reason or "", what was found) of samples, in order, read by several processes at once.

    What was found: `frames`, and as far as the file tells `fps`, `duration`, `size` (height, width), `codec`,
    `rotation`; `damage` where the file can be used in part.

    Args:
      source: the samples.
      level: "first" opens each and decodes its first frame; "all" decodes every frame.
      workers: processes; 0 = as many as there are cores, fewer for few samples.
      seconds: that one sample may take.
      indices: of the samples; all if not given.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r}: expected one of {', '.join(LEVELS)}")
    indices = list(range(len(source)) if indices is None else indices)
    count = workers or min(os.cpu_count() or 1, -(-len(indices) // _SHARE))
    count = max(1, min(count, len(indices)))
    with Workers(_Probe(source, level), count, 16 * count, limit=seconds, indices=indices) as results:
        for index, result in zip(indices, results, strict=True):
            yield (index, result.reason, {}) if isinstance(result, Lost) else (index, *result)


def unreadable(source: Source) -> dict[str, str]:
    """path -> reason, of the local files of a source that cannot be opened or whose first frame does not decode.

    Files that were found out about before are not opened again, unless they have changed since; those of samples on a
    skip list are not opened at all. Of videos that are no files of this machine, those count that their store knows to
    be absent.
    """
    store = source.store
    asked = [i for i in range(len(source)) if i not in source.skipped]
    if not isinstance(store, Files):
        return {source.paths[i]: why for i, why in store.missing(asked).items()}
    index_of = {source.paths[i]: i for i in reversed(asked)}
    stamps = {path: stamp for path, i in index_of.items() if (stamp := store.stamp(i))}
    bad = {
        source.paths[i]: why
        for i, why in store.missing(i for p, i in index_of.items() if p not in stamps).items()
    }
    keys = {path: _key(path, stamp) for path, stamp in stamps.items()}
    kept = _Kept(source)
    new = sorted(index_of[path] for path, key in keys.items() if key not in kept.good)
    if new:
        if not sys.stderr.isatty():
            print(
                f"opening {len(new):,} files of {source.name} to see which are bad",
                file=sys.stderr,
                flush=True,
            )
        found = check(source, indices=new)
        try:
            shown = tqdm(found, "opening files", len(new), unit=" files", disable=None, leave=False)
            for done, (index, reason, _) in enumerate(shown, 1):
                path = source.paths[index]
                if reason:
                    bad[path] = reason
                else:
                    kept.good.add(keys[path])
                if done % _SAVED_EVERY == 0:
                    kept.save()
        finally:
            found.close()
            kept.good &= set(keys.values())
            kept.save()
    return bad


def _key(path: str, stamp: str) -> int:
    name = "\0".join([_VERSION, os.path.abspath(path), stamp]).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


class _Kept:
    """Which files were found to be good, as numbers made of path, size and time; in a file beside the set.

    Bad ones are opened again by the next run: what was wrong may have been the disk or the network.
    """

    def __init__(self, source: Source):
        self._source = source
        family = digest([source.name, os.path.abspath(source.name)])[:8]
        self._name = f"checked-{Path(source.name).stem}-{family}.npy"
        self.good: set[int] = set()
        for folder in folders(source):
            with contextlib.suppress(OSError, ValueError, EOFError):
                self.good |= set(np.load(folder / self._name).tolist())

    def save(self) -> None:
        good = np.array(sorted(self.good), np.uint64)
        failures = []
        for folder in folders(self._source):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with appearing(folder / self._name) as partial, open(partial, "wb") as file:
                    np.save(file, good)
                return
            except OSError as error:
                failures.append(error)
        log.warning(
            f"which files of {self._source.name} can be read is not kept ({failures[0].filename}: "
            f"{failures[0].strerror}); the next run opens them again"
        )

"""Whether the files of a source can be read, found out in processes of their own.

A file that crashes its decoder or takes too long costs its process, never the program: it is named, and the others go
on.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from input_pipeline.decode import BadVideo, FewerFrames
from input_pipeline.sources import Source
from input_pipeline.transforms import Window, whole_window
from input_pipeline.workers import Lost, Workers

LEVELS = ("first", "all")
SECONDS = 60.0  # for one file
_AT_ONCE = 2048  # frames in memory
_SIDE = 16  # in pixels, to which frames are reduced


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
      workers: processes; 0 = as many as there are cores.
      seconds: that one sample may take.
      indices: of the samples; all if not given.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r}: expected one of {', '.join(LEVELS)}")
    indices = list(range(len(source)) if indices is None else indices)
    count = max(1, min(workers or os.cpu_count() or 1, len(indices)))
    with Workers(_Probe(source, level), count, 16 * count, limit=seconds, indices=indices) as results:
        for index, result in zip(indices, results, strict=True):
            yield (index, result.reason, {}) if isinstance(result, Lost) else (index, *result)

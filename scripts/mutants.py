"""Damaged copies of videos, and what decoding makes of them, in processes of their own."""

import contextlib
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from input_pipeline.decode import BadVideo, FewerFrames, Video
from input_pipeline.transforms import Window, short_side, whole_window
from input_pipeline.workers import Lost, Workers

MUTATIONS = ("flips", "header", "truncated", "removed", "overwritten")
OUTCOMES = ("frames", "damaged", "bad", "crash", "hang", "memory", "error")
FAILURES = OUTCOMES[3:]
_FRAMES, _SIDE = 8, 64
_MACHINE = 4096  # MiB of addresses at which a mutant ends that would take the whole machine's memory
_HEADER = 4096  # bytes at the start of a file, and after its index begins


class Result(NamedTuple):
    """What became of a mutant.

    `outcome`: frames (as if nothing had happened), damaged (of use in part), bad (a reason), or one of FAILURES;
    `seconds`: of processor time; `mebibytes`: at most in use, above what the process had before its first mutant.
    """

    name: str
    mutation: str
    outcome: str
    reason: str
    seconds: float
    mebibytes: float


def mutate(data: bytes, mutation: str, rng: np.random.Generator) -> bytes:
    """A damaged copy of a file."""
    copy: UInt8[np.ndarray, " n"] = np.frombuffer(data, np.uint8).copy()
    size = len(copy)
    if mutation == "truncated":
        return copy[: int(rng.integers(0, size))].tobytes()
    if mutation in ("removed", "overwritten"):
        start = int(rng.integers(0, size))
        stop = min(start + 1 + int(size * rng.random() ** 3), size)
        if mutation == "removed":
            return np.delete(copy, slice(start, stop)).tobytes()
        copy[start:stop] = rng.integers(0, 256, stop - start) if rng.random() < 0.5 else 0
        return copy.tobytes()
    low, high = 0, size
    if mutation == "header":
        begins = [0, *(place for word in (b"moov", b"stbl", b"avcC") if (place := data.find(word)) >= 0)]
        low = begins[int(rng.integers(len(begins)))]
        high = min(low + _HEADER, size)
    places = rng.integers(low, high, int(2 ** rng.uniform(0, 6)))
    copy[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
    return copy.tobytes()


class Mutants:
    """What became of each mutant of some files, by number.

    Args:
      paths: the files.
      seed: of all that is random.
      seconds: of processor time that opening, listing or one read of a mutant may take.
      memory: MiB that it may take.
    """

    def __init__(self, paths: Sequence[str], seed: int, seconds: float, memory: float):
        self._paths, self._seed, self._seconds, self._memory = list(paths), seed, seconds, memory
        self._before: float | None = None  # MiB of the process before its first mutant

    def name(self, index: int) -> tuple[str, str]:
        """File and mutation of a mutant."""
        turn, place = divmod(index, len(self._paths))
        return self._paths[place], MUTATIONS[(place + turn) % len(MUTATIONS)]

    def __getitem__(self, index: int) -> Result:
        name, mutation = self.name(index)
        data = mutate(Path(name).read_bytes(), mutation, np.random.default_rng([self._seed, index]))
        self._before = self._before or _memory("VmRSS")
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = int((_memory("VmSize") + _MACHINE) * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        began = time.process_time()
        try:
            outcome, reason = self._read(data)
        except BadVideo as error:
            outcome, reason = "bad", error.reason
        except MemoryError:
            outcome, reason = "memory", "out of memory"
        except Exception as error:
            outcome, reason = "error", f"{type(error).__name__}: {error}"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        seconds, taken = time.process_time() - began, max(_memory("VmHWM") - self._before, 0.0)
        if taken > self._memory:
            outcome, reason = "memory", f"takes {taken:.0f} MiB ({reason or outcome})"
        return Result(name, mutation, outcome, reason, seconds, taken)

    def _read(self, data: bytes) -> tuple[str, str]:
        with Video(data, "mutant", time_limit=self._seconds) as video:
            for _ in range(2):  # once more when it finds out that there are fewer
                try:
                    video.read(np.linspace(0, video.num_frames - 1, _FRAMES).round().astype(int), _small)
                    break
                except FewerFrames:
                    pass
            assert len(video.times) == video.num_frames and min(video.size) > 0
            if video.has_audio:
                with contextlib.suppress(BadVideo):  # its pictures are of use all the same
                    video.read_audio(0, 1)
            return ("damaged", video.damage) if video.damage else ("frames", "")


def _small(height: int, width: int) -> Window:
    return whole_window(*short_side(height, width, min(_SIDE, height, width)))


def _memory(key: str) -> float:
    """MiB, out of what Linux says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def results(mutants: Any, count: int, workers: int, seconds: float) -> Iterator[Result]:
    """What became of the first `count` mutants, read in processes; one that ends its process is named like others."""
    with Workers(mutants, workers, 4 * workers, limit=seconds, indices=range(count)) as found:
        for index, result in enumerate(found):
            if isinstance(result, Lost):
                outcome = "hang" if "no answer" in result.reason else "crash"
                result = Result(*mutants.name(index), outcome, result.reason, seconds, 0.0)
            yield result

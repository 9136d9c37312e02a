"""What reads clips in the benchmark of the input: plain decoders, and our own chunks; each in processes of its own."""

import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from input_pipeline.decode import Listing


class Job(NamedTuple):
    """A clip that is to be read: of a file, some frames; or of our chunks the one of a number."""

    reader: str
    path: str = ""
    frames: tuple[int, ...] = ()
    listing: Listing | None = None
    chunk: int = 0


def pyav(job: Job, convert: bool = True) -> int:
    """PyAV as plainly as it can be written: seek to the key frame, decode on to the last frame that is wanted.

    The frames' times are known beforehand, which spares listing them.
    """
    wanted = sorted({job.listing.times[i] for i in job.frames})
    found = []
    with av.open(job.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        container.seek(wanted[0], stream=stream)
        for frame in container.decode(stream):
            if frame.pts == wanted[len(found)]:
                found.append(frame.to_ndarray(format="rgb24") if convert else frame)
                if len(found) == len(wanted):
                    break
    return len(found)


def decode_only(job: Job) -> int:
    """The same, the frames left as the decoder gives them."""
    return pyav(job, convert=False)


def decord(job: Job) -> int:
    import decord

    return len(decord.VideoReader(job.path, num_threads=1).get_batch(list(job.frames)).asnumpy())


def torchcodec(job: Job) -> int:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(job.path, num_ffmpeg_threads=1, dimension_order="NHWC")
    return len(decoder.get_frames_at(list(job.frames)).data.numpy())


def chunk(job: Job) -> int:
    """Our own: open, sample, decode, resize, cut and flip one clip, in one process without a loader."""
    return len(_chunks[job.path][job.chunk]["video"])


READERS: dict[str, Callable[[Job], int]] = {
    "pyav": pyav,
    "decode only": decode_only,
    "decord": decord,
    "torchcodec": torchcodec,
    "chunk": chunk,
}
PEERS = ("decord", "torchcodec")
_chunks: dict[str, Any] = {}


def peers() -> list[str]:
    """The other decoders that are installed and can be loaded."""
    found = []
    for name in PEERS:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # a library that they need is missing
            print(f"{name} is installed but cannot be loaded: {str(error).strip().splitlines()[0]}")
            continue
        found.append(name)
    return found


def _begin(chunks: dict[str, Any]) -> None:
    _chunks.update(chunks)


def _read(job: Job) -> int:
    return READERS[job.reader](job)


class Pool:
    """Processes that read clips; a context manager.

    Args:
      count: processes.
      chunks: our chunks by name, for jobs of the reader "chunk".
    """

    def __init__(self, count: int, chunks: dict[str, Any]):
        self._count = count
        self._pool = multiprocessing.get_context("spawn").Pool(count, _begin, (chunks,))
        self._processes = [process.pid for process in self._pool._pool]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_) -> None:
        self._pool.terminate()
        self._pool.join()

    def time(self, jobs: Sequence[Job]) -> "Seconds":
        """How long some jobs take."""
        with Stopwatch(self._processes) as watch:
            self._pool.map(_read, jobs, chunksize=max(1, len(jobs) // (2 * self._count)))
        return watch.seconds


class Seconds(NamedTuple):
    """By the clock, and of processor time of all processes that took part."""

    wall: float
    processor: float


class Stopwatch:
    """Times what is done inside it, by this process and by others."""

    def __init__(self, processes: Sequence[int]):
        self._processes = processes
        self.seconds = Seconds(0.0, 0.0)

    def __enter__(self) -> "Stopwatch":
        self._start = self._now()
        return self

    def __exit__(self, *_) -> None:
        now = self._now()
        self.seconds = Seconds(*np.subtract(now, self._start).tolist())

    def _now(self) -> Seconds:
        return Seconds(
            time.perf_counter(), time.process_time() + sum(_processor_seconds(p) for p in self._processes)
        )


def _processor_seconds(process: int) -> float:
    """Processor time that another process has taken so far, in steps of a hundredth; 0 where that cannot be known."""
    file = Path(f"/proc/{process}/stat")
    if not file.exists():
        return 0.0
    fields = file.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

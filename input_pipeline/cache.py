"""Decoded videos, kept: sets that fit into memory are decoded once, and later only sliced.

T frames, H height, W width, C = 3 channels.

The frames lie behind each other in one file that is mapped into memory, in the folder `.vfm_cache` beside the list (or
in the folder of videos), or where that cannot be written, in the user's cache folder. A second run starts at once.
The file is named after what it was made from (paths, sizes and times of the videos, `cache_size`), so a changed video
is decoded again; it appears under its name only when complete. Where it cannot be written, the frames are kept in
memory alone, and a line says so.
"""

import logging
import os
import shutil
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from input_pipeline import atomic, storage, transforms
from input_pipeline.decode import BadVideo, FewerFrames, WindowOf
from input_pipeline.sources import Source
from input_pipeline.storage import digest
from input_pipeline.transforms import Window
from vfm.errors import UserError

_VERSION = "1"  # of the file's layout and of how frames are made: a change makes existing files stale
_MEMORY_SHARE = 0.8  # of the machine's memory, for all decoded frames

log = logging.getLogger(__name__)


class CachedVideo:
    """A decoded video; reads like `decode.Video`, except that numpy resizes instead of the decoder."""

    def __init__(self, frames: UInt8[np.ndarray, "T H W 3"], damage: str):
        self._frames = frames
        self.damage = damage
        self.num_frames = len(frames)

    def __enter__(self) -> "CachedVideo":
        return self

    def __exit__(self, *_) -> None:
        pass

    def read(self, indices: Sequence[int], window_of: WindowOf | None = None) -> UInt8[np.ndarray, "T h w 3"]:
        """The frames at `indices`, resized and cut by the window of their size."""
        frames = self._frames[np.clip(indices, 0, self.num_frames - 1)]
        return transforms.resize(frames, window_of(*frames.shape[1:3])) if window_of else frames


class Cache:
    """All videos of a source, decoded.

    Attributes:
      bad: path -> reason, of the files that do not decode.
      stack: all videos as one array [videos, T, H, W, 3], where they have one shape and none is damaged; else None.
      place: sample -> its video's place in `stack` (samples may share a video).
    """

    def __init__(
        self,
        source: Source,
        shapes: np.ndarray,
        reasons: Sequence[str],
        frames: UInt8[np.ndarray, "bytes"] | list[np.ndarray],
    ):
        distinct = {path: i for i, path in enumerate(dict.fromkeys(source.paths))}
        self._paths = source.paths
        self._shapes, self._frames = shapes, frames
        self._starts = np.concatenate([[0], np.cumsum(shapes.prod(1))])
        self.place = np.fromiter((distinct[path] for path in source.paths), np.int64, len(source))
        self._damage = dict(zip(distinct, reasons, strict=True))
        self.bad = {path: reasons[i] for path, i in distinct.items() if not shapes[i].all()}
        one_shape = len(shapes) > 0 and not any(reasons) and (shapes == shapes[0]).all()
        self.stack = frames.reshape(-1, *shapes[0]) if one_shape and isinstance(frames, np.ndarray) else None

    def open(self, index: int) -> CachedVideo:
        """The video of a sample.

        Raises:
          BadVideo: it does not decode.
        """
        path = self._paths[index]
        if path in self.bad:
            raise BadVideo(path, self.bad[path])
        place = self.place[index]
        if isinstance(self._frames, list):
            return CachedVideo(self._frames[place], self._damage[path])
        start, stop = self._starts[place], self._starts[place + 1]
        return CachedVideo(self._frames[start:stop].reshape(self._shapes[place]), self._damage[path])


def open_cache(source: Source, cache_size: int, root: str = "", threads: int = 0) -> Cache:
    """The decoded videos of a source, from an earlier run's file or decoded now.

    Args:
      source: the videos.
      cache_size: short side that larger frames are reduced to; 0 = as stored.
      root: the configuration's data.root; caches of one list with different roots live beside each other.
      threads: videos decoded at once; 0 = as many as there are cores.

    Raises:
      UserError: the decoded videos do not fit into memory.
    """
    first = {path: i for i, path in reversed(list(enumerate(source.paths)))}
    indices = sorted(first.values())  # one sample for each video
    family = digest([source.name, os.path.abspath(source.name), os.path.abspath(root), str(cache_size)])[:8]
    name = f"{Path(source.name).stem}-{family}-{_content_key(source, indices, cache_size)}"
    for folder in folders(source):
        if (folder / name).is_dir():
            try:
                return _load(source, folder / name)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                shutil.rmtree(folder / name, ignore_errors=True)  # damaged since: made again
    with _Sink(source, name) as sink:
        shapes, reasons = [], []
        for frames, reason in _decode_all(source, indices, cache_size, threads or os.cpu_count() or 1):
            shapes.append(frames.shape)
            reasons.append(reason)
            sink.add(frames)
            _check_memory(source, sink.size, len(shapes), len(indices))
        shapes = np.array(shapes, np.int64).reshape(-1, 4)
        return sink.finish(shapes, reasons)


def _content_key(source: Source, indices: Sequence[int], cache_size: int) -> str:
    parts = [_VERSION, str(cache_size)]
    for index in indices:
        name = source.paths[index]
        parts += [os.path.abspath(name) if source.media is None else name, source.store.stamp(index)]
    return digest(parts)[:16]


def folders(source: Source) -> Iterator[Path]:
    """Where what is known about a source may be kept, the best place first."""
    if not storage.is_remote(source.name):
        path = Path(storage.above_pattern(source.name))
        yield (path if path.is_dir() else path.parent) / ".vfm_cache"
    yield storage.cache_folder()


def _load(source: Source, folder: Path) -> Cache:
    with np.load(folder / "index.npz") as index:
        shapes, reasons = index["shapes"], [str(reason) for reason in index["reasons"]]
    size = int(shapes.prod(1).sum())
    frames = np.memmap(folder / "frames.bin", np.uint8, "r", shape=(size,)) if size else np.empty(0, np.uint8)
    return Cache(source, shapes, reasons, frames)


def _decode_all(
    source: Source, indices: Sequence[int], cache_size: int, threads: int
) -> Iterator[tuple[UInt8[np.ndarray, "T H W 3"], str]]:
    """(frames, what is damaged) or (no frames, why) of each sample's file, in order, decoded in parallel."""

    def window_of(height: int, width: int) -> Window:
        side = min(height, width, cache_size or min(height, width))
        return transforms.whole_window(*transforms.short_side(height, width, side))

    def decode(index: int) -> tuple[np.ndarray, str]:
        try:
            with source.open(index) as video:
                try:
                    frames = video.read(range(video.num_frames), window_of)
                except FewerFrames:
                    frames = video.read(range(video.num_frames), window_of)
                return frames, video.damage
        except BadVideo as error:
            return np.empty((0, 0, 0, 3), np.uint8), error.reason

    if not sys.stderr.isatty():
        print(f"decoding {len(indices)} videos of {source.name} into the cache", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(threads, thread_name_prefix="cache") as pool:
        waiting = deque()
        try:
            for index in tqdm(indices, "decoding videos", unit=" videos", disable=None, leave=False):
                waiting.append(pool.submit(decode, index))
                if len(waiting) > 4 * threads:  # bounded: decoded videos wait in memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _check_memory(source: Source, size: int, done: int, total: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    expected = size * total / done
    if (done >= 16 or done == total) and expected > _MEMORY_SHARE * memory:
        raise UserError(
            f"data.cache=True: the {total} videos of '{source.name}' would take about {expected / 2**30:.1f} GiB "
            f"decoded, this machine has {memory / 2**30:.1f} GiB; set data.cache_size to a smaller short side, or "
            f"data.cache=False"
        )


class _Sink:
    """Takes decoded videos one by one and puts them on disk, or in memory where that fails."""

    def __init__(self, source: Source, name: str):
        self.size = 0  # bytes so far
        self._source, self._name = source, name
        self._kept: list[np.ndarray] = []  # instead of a file
        self._shapes: list[tuple[int, ...]] = []
        self._partial: Path | None = None
        self._try(self._create)

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, *_) -> None:
        if self._partial is not None:
            self._file.close()
            atomic.remove(self._partial)

    def add(self, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
        self.size += frames.nbytes
        if self._partial is not None and self._try(self._write, frames):
            self._shapes.append(frames.shape)
        else:
            self._kept.append(frames)

    def finish(self, shapes: np.ndarray, reasons: Sequence[str]) -> Cache:
        if self._partial is not None and self._try(self._publish, shapes, reasons):
            return _load(self._source, self._folder / self._name)
        return Cache(self._source, shapes, reasons, self._kept)

    def _try(self, action: Callable, *arguments) -> bool:
        try:
            action(*arguments)
            return True
        except OSError as error:
            log.warning(
                "the decoded videos of %s cannot be kept on disk (%s: %s); they stay in memory, and the next run "
                "decodes them again",
                self._source.name,
                error.filename or self._partial,
                error.strerror or error,
            )
            self._take_back()
            return False

    def _create(self) -> None:
        failures = []
        for folder in folders(self._source):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                partial = atomic.partial_of(folder / self._name)
                partial.mkdir()
                self._file = open(partial / "frames.bin", "w+b", buffering=0)
                self._folder, self._partial = folder, partial
                return
            except OSError as error:
                failures.append(error)
        raise failures[0]

    def _write(self, frames: np.ndarray) -> None:
        data = memoryview(np.ascontiguousarray(frames)).cast("B") if frames.size else b""
        while len(data):
            data = data[self._file.write(data) :]

    def _publish(self, shapes: np.ndarray, reasons: Sequence[str]) -> None:
        os.fsync(self._file.fileno())
        with open(self._partial / "index.npz", "wb") as file:
            np.savez(file, shapes=shapes, reasons=np.array(reasons, dtype=np.str_))
            file.flush()
            os.fsync(file.fileno())
        target = self._folder / self._name
        try:
            atomic.publish(self._partial, target)
        except OSError:
            if not (
                target / "index.npz"
            ).is_file():  # else another process was quicker, with the same contents
                raise
            atomic.remove(self._partial)
        self._file.close()
        self._partial = None
        self._remove_stale()

    def _remove_stale(self) -> None:
        """Removes what earlier contents of the same list left behind."""
        family = self._name.rpartition("-")[0]
        for folder in self._folder.glob(f"{family}-*"):
            if folder.name != self._name:
                shutil.rmtree(folder, ignore_errors=True)
        atomic.remove_stale(self._folder, family)

    def _take_back(self) -> None:
        """Reads what was written so far into memory and gives up the file."""
        if self._partial is None:
            return
        self._file.seek(0)
        for shape in self._shapes:
            count = int(np.prod(shape))
            data = np.fromfile(self._file, np.uint8, count) if count else np.empty(0, np.uint8)
            self._kept.append(data.reshape(shape))
        self._file.close()
        atomic.remove(self._partial)
        self._partial = None

"""Where the frames of a sample come from: files by default, members of shards or rows of tables otherwise.

A `Media` opens samples by their index. It can be pickled (loader processes get a copy) and opens its own files only
when they are first asked for, in each process and thread for itself.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Protocol, Self

import numpy as np
from jaxtyping import UInt8

from input_pipeline import storage
from input_pipeline.backends import open_video
from input_pipeline.decode import BadVideo, Video, WindowOf


class OpenVideo(Protocol):
    """An open video, a context manager: `decode.Video`, or frames that were stored one by one."""

    path: str

    @property
    def damage(self) -> str: ...

    @property
    def num_frames(self) -> int: ...

    def frames_between(self, start: float, end: float) -> tuple[int, int]: ...

    def read(
        self, indices: Sequence[int], window_of: WindowOf | None = None
    ) -> UInt8[np.ndarray, "T H W 3"]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_) -> None: ...


class Media(Protocol):
    """The videos of a source, by index."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> OpenVideo:
        """The video of a sample.

        Raises:
          BadVideo: it cannot be read.
        """
        ...

    def missing(self, indices: Iterable[int]) -> dict[int, str]:
        """Those of `indices` that are known to be absent, each with the reason; only what is cheap to find out."""
        ...

    def name(self, index: int) -> str:
        """What the sample is called in messages, lists and caches: stable, and unique unless a video is repeated."""
        ...

    def stamp(self, index: int) -> str:
        """Changes when the sample's bytes do, as far as that is cheap to see (size and time of its file)."""
        ...


class Files:
    """Videos that are files of their own, on this machine or elsewhere.

    Args:
      paths: of the files.
      decoder: of those on this machine, see `backends`.
    """

    def __init__(self, paths: Sequence[str], decoder: str = "pyav"):
        self._paths, self._decoder = paths, decoder

    def __len__(self) -> int:
        return len(self._paths)

    def open(self, index: int) -> Video:
        path = self._paths[index]
        return open_part(path, path) if storage.is_remote(path) else open_video(path, backend=self._decoder)

    def missing(self, indices: Iterable[int]) -> dict[int, str]:
        local = ((i, self._paths[i]) for i in indices)
        return {
            i: "no such file" for i, path in local if not storage.is_remote(path) and not os.path.exists(path)
        }

    def name(self, index: int) -> str:
        return self._paths[index]

    def stamp(self, index: int) -> str:
        path = self._paths[index]
        return "" if storage.is_remote(path) else storage.stamp(path)


def open_part(name: str, path: str, start: int = 0, size: int | None = None) -> Video:
    """A video that is a file, or a part of one.

    Args:
      name: what messages call it.
      path: the file, local or remote.
      start: its first byte.
      size: how many bytes; None = the whole file.

    Raises:
      BadVideo: it cannot be read.
    """
    try:
        data = storage.content(path, start, size)
    except FileNotFoundError as error:
        raise BadVideo(name, "no such file" if name == path else f"no such file: {path}") from error
    except OSError as error:
        raise BadVideo(name, f"cannot be read ({error.strerror or error})") from error
    return Video(data, name)

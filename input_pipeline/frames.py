"""Videos whose frames are stored one by one, as encoded images.

T frames, H height, W width, C = 3 channels.
"""

import bisect
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Self

import numpy as np
from jaxtyping import UInt8

from input_pipeline.decode import BadVideo, Video, WindowOf
from input_pipeline.transforms import Window


class StoredFrames:
    """A video of images; reads like `decode.Video`, a context manager.

    Args:
      path: what messages call it.
      load: gives image i: a file, its bytes, or an open file. It may raise OSError.
      count: of frames.
      fps: frames a second, 0 = not known: then no part can be found by its times.
      damage: what is known to be wrong with it.

    Raises:
      BadVideo: it has no frames; from `read`, an image cannot be decoded.
    """

    def __init__(
        self,
        path: str,
        load: Callable[[int], str | os.PathLike | bytes | BinaryIO],
        count: int,
        fps: float = 0.0,
        damage: str = "",
    ):
        if count < 1:
            raise BadVideo(path, "has no frames")
        self.path, self.damage, self.num_frames, self.fps = path, damage, count, fps
        self._load = load

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        pass

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first frame."""
        with self._image(0) as image:
            return image.size

    @property
    def times(self) -> Sequence[float] | None:
        """Seconds of each frame, None where they are not known."""
        return [i / self.fps for i in range(self.num_frames)] if self.fps else None

    @property
    def duration(self) -> float:
        """In seconds, 0 where it is not known."""
        return self.num_frames / self.fps if self.fps else 0.0

    def frames_between(self, start: float, end: float) -> tuple[int, int]:
        """The first frame shown from `start` to `end`, in seconds, and the one after the last; at least one.

        Raises:
          BadVideo: the video ends before `start`, or its frames have no times.
        """
        times = self.times
        if times is None:
            raise BadVideo(self.path, "its frames have no times, so that no part of it can be found; set fps")
        if start >= self.duration:
            raise BadVideo(self.path, f"ends after {self.duration:.2f} s, before start_time={start:g}")
        first = min(bisect.bisect_left(times, start - 1e-6), self.num_frames - 1)
        stop = bisect.bisect_left(times, end - 1e-6)
        return (first, stop) if stop > first else (max(stop - 1, 0), max(stop, 1))

    def read(self, indices: Sequence[int], window_of: WindowOf | None = None) -> UInt8[np.ndarray, "T H W 3"]:
        """The frames at `indices` (beyond the end: the last), see `decode.Video.read`.

        All take the window that the size of the first gives, so that images of several sizes become one video.
        """
        places = [min(max(int(i), 0), self.num_frames - 1) for i in indices]
        chosen: list[Window] = []

        def once(height: int, width: int) -> Window:
            if not chosen:
                chosen.append(window_of(height, width))
            return chosen[0]

        found: dict[int, np.ndarray] = {}
        for place in sorted(set(places)):
            with self._image(place) as image:
                found[place] = image.read([0], once if window_of else None)[0]
        if len({frame.shape for frame in found.values()}) > 1:
            raise BadVideo(self.path, "its images have several sizes")
        return np.stack([found[place] for place in places])

    @contextlib.contextmanager
    def _image(self, place: int) -> Iterator[Video]:
        """The image of a frame, open; what is wrong with it is said of the video."""
        try:
            with Video(self._load(place), f"{self.path}, frame {place}") as image:
                yield image
        except BadVideo as error:
            raise BadVideo(self.path, f"frame {place}: {error.reason}") from error
        except OSError as error:
            raise BadVideo(self.path, f"frame {place} cannot be read ({error.strerror or error})") from error

"""From one video to the clips of a training or evaluation sample.

T frames, H height, W width, C = 3 channels; V views (clips x crops) of one video.

A `VideoReader` is an open file (`decode.Video`), a part of one, or a video of the cache (`cache.CachedVideo`).
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from input_pipeline import resize, sampling, transforms
from input_pipeline.augment import Augment
from input_pipeline.decode import FewerFrames, Video, WindowOf
from input_pipeline.limits import check_loading
from input_pipeline.transforms import Window
from vfm.errors import UserError


class VideoReader(Protocol):
    """A video whose frames can be read by index."""

    @property
    def damage(self) -> str: ...

    @property
    def num_frames(self) -> int: ...

    def read(
        self, indices: Sequence[int], window_of: WindowOf | None = None
    ) -> UInt8[np.ndarray, "T H W 3"]: ...


class Part:
    """A video's frames from `start` to `end` (in seconds), as a video; closes what it was made of."""

    def __init__(self, video: Video, start: float, end: float):
        self._video, self._span = video, (start, end)
        self._places = -1, (0, 0)  # how many frames the video had, and which of them are the part
        try:
            self._frames()
        except BaseException:
            video.close()
            raise

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_) -> None:
        self._video.close()

    def _frames(self) -> tuple[int, int]:
        """The part's first frame and the one after its last, found anew when the video turns out to have fewer."""
        count = self._video.num_frames
        if count != self._places[0]:
            self._places = count, self._video.frames_between(*self._span)
        return self._places[1]

    @property
    def damage(self) -> str:
        return self._video.damage

    @property
    def num_frames(self) -> int:
        first, stop = self._frames()
        return stop - first

    @property
    def fps(self) -> float:
        return getattr(self._video, "fps", 0.0)

    @property
    def times(self) -> Sequence[float] | None:
        """Seconds of each frame, None where they are not known; they need not begin at 0."""
        times = getattr(self._video, "times", None)
        return None if times is None else times[slice(*self._frames())]

    def read(self, indices: Sequence[int], window_of: WindowOf | None = None) -> UInt8[np.ndarray, "T H W 3"]:
        first, stop = self._frames()
        return self._video.read([min(first + max(int(i), 0), stop - 1) for i in indices], window_of)


@dataclass(frozen=True)
class Recipe:
    """How clips are taken; the keys of `config.data` with the same names say what each means."""

    frames: int
    sampling: str
    stride: int
    size: int
    crop: str
    crop_scales: tuple[float, ...]
    crop_area: tuple[float, float]
    crop_aspect: tuple[float, float]
    flip: bool
    clips_per_video: int
    fps: float = 0.0
    resize: str = "decoder"
    short_side: int = 0
    augment: Augment | None = None

    @classmethod
    def from_config(cls, data: Any) -> "Recipe":
        """Takes the keys out of `config.data`.

        Raises:
          UserError: a value is impossible; the message names the key.
        """
        check_loading(data)
        recipe = cls(
            frames=int(data.frames),
            sampling=data.sampling,
            stride=int(data.stride),
            size=int(data.size),
            crop=data.crop,
            crop_scales=tuple(data.crop_scales),
            crop_area=tuple(data.crop_area),
            crop_aspect=tuple(data.crop_aspect),
            flip=bool(data.flip),
            clips_per_video=int(data.clips_per_video),
            # Configs of runs from before there were these keys lack them.
            fps=float(data.get("fps", 0.0)),
            resize=data.get("resize", "decoder"),
            short_side=int(data.get("short_side", 0)),
            augment=Augment.from_config(data),
        )
        recipe._check()
        if recipe.fps and data.cache:
            raise UserError(
                f"data.fps={recipe.fps:g} needs the times of frames, and data.cache=True keeps frames without them; "
                f"set data.cache=False, or data.fps=0"
            )
        return recipe

    def _check(self) -> None:
        sampling.check_kind(self.sampling)
        if self.fps < 0 or (self.sampling == "fps" and not self.fps):
            raise UserError(
                f"data.fps={self.fps:g}: expected frames a second, such as 1.0 (0 = as stored, not for "
                f"data.sampling='fps')"
            )
        if self.resize not in resize.METHODS:
            raise UserError(f"data.resize={self.resize!r}: expected one of {', '.join(resize.METHODS)}")
        if self.crop not in transforms.CROPS:
            raise UserError(f"data.crop={self.crop!r}: expected one of {', '.join(transforms.CROPS)}")
        for key in ("frames", "stride", "size", "clips_per_video"):
            if getattr(self, key) < 1:
                raise UserError(f"data.{key}={getattr(self, key)}: expected at least 1")
        if self.short_side and (self.short_side < self.size or self.crop == "resize"):
            raise UserError(
                f"data.short_side={self.short_side}: expected 0, or at least data.size={self.size}; and 0 for "
                f"data.crop='resize' (found '{self.crop}')"
            )
        if not self.crop_scales or not all(0 < scale <= 1 for scale in self.crop_scales):
            raise UserError(
                f"data.crop_scales={self.crop_scales}: expected shares in (0, 1] of the short side"
            )
        for key, limit in (("crop_area", 1), ("crop_aspect", math.inf)):
            value = getattr(self, key)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= limit:
                raise UserError(
                    f"data.{key}={value}: expected (smallest, largest), above 0 and at most {limit}"
                )

    def of_images(self) -> "Recipe":
        """The same for images, which are videos of one frame."""
        return replace(self, frames=1, stride=1, clips_per_video=1)

    def keeps(self, num_frames: int, height: int, width: int) -> bool:
        """Whether every training clip of a video of this shape is that video as it is."""
        fixed = self.crop in ("center", "resize") and not self.flip and self.augment is None
        fixed = fixed and self.short_side in (0, self.size) and not self.fps
        in_order = self.sampling != "dense" or self.stride == 1
        return fixed and in_order and (num_frames, height, width) == (self.frames, self.size, self.size)

    def training_window(self, height: int, width: int, rng: np.random.Generator) -> Window:
        """The (random) crop of one clip."""
        if self.crop == "multiscale":
            return transforms.multiscale_window(height, width, self.size, self.crop_scales, rng)
        if self.crop == "random_resized":
            return transforms.random_resized_window(
                height, width, self.size, self.crop_area, self.crop_aspect, rng
            )
        return self.evaluation_windows(height, width, 1)[0]

    def evaluation_windows(self, height: int, width: int, crops: int) -> list[Window]:
        """The crops of an evaluation: one in the middle, or several along the long side."""
        if self.crop == "resize":
            return [transforms.whole_window(self.size, self.size)]
        published = self.resize != "decoder"
        return transforms.view_windows(height, width, self.size, crops, self.short_side, published)

    def shared_window(self, height: int, width: int) -> Window:
        """A frame small enough to be cheap, large enough that no crop of several of one video is enlarged."""
        share = {"multiscale": min(self.crop_scales), "random_resized": math.sqrt(self.crop_area[0])}
        side = math.ceil(self.size / share.get(self.crop, 1.0))
        side = min(height, width, max(side, self.short_side) if self.crop == "center" else side)
        return transforms.whole_window(*transforms.short_side(height, width, side))


def training_clips(
    video: VideoReader, recipe: Recipe, rngs: Sequence[np.random.Generator]
) -> list[UInt8[np.ndarray, "T S S 3"]]:
    """One random clip for each generator; what it shows depends on that generator (and the video) alone.

    Where a recipe takes several clips of each video, they are cut out of frames that are decoded once. Of a file that
    decodes in part only, clips are taken from that part.
    """
    try:
        return _training_clips(video, recipe, rngs)
    except FewerFrames:  # the video now knows how many there are
        return training_clips(video, recipe, rngs)


def _training_clips(
    video: VideoReader, recipe: Recipe, rngs: Sequence[np.random.Generator]
) -> list[UInt8[np.ndarray, "T S S 3"]]:
    shown = _clock(video, recipe)
    chosen = [
        sampling.training_indices(
            recipe.sampling, video.num_frames, recipe.frames, recipe.stride, rng, recipe.fps, shown
        )
        for rng in rngs
    ]
    if recipe.clips_per_video == 1:
        # A window is drawn once, even if the reader has to start again.
        windows = [functools.cache(functools.partial(recipe.training_window, rng=rng)) for rng in rngs]
        clips = [_read(video, recipe, *pair) for pair in zip(chosen, windows, strict=True)]
    else:
        places, inverse = np.unique(np.concatenate(chosen), return_inverse=True)
        frames = video.read(places, recipe.shared_window if recipe.resize == "decoder" else None)
        clips = [
            _resize(
                frames[inverse[i : i + recipe.frames]],
                recipe,
                recipe.training_window(*frames.shape[1:3], rng),
            )
            for i, rng in zip(range(0, len(inverse), recipe.frames), rngs, strict=True)
        ]
    if recipe.flip:
        clips = [
            clip[:, :, ::-1] if rng.random() < 0.5 else clip for clip, rng in zip(clips, rngs, strict=True)
        ]
    if recipe.augment is not None:
        clips = [recipe.augment(clip, rng) for clip, rng in zip(clips, rngs, strict=True)]
    return clips


def examples(
    video: VideoReader, recipe: Recipe, seed: int = 0, count: int = 8
) -> Iterator[UInt8[np.ndarray, "T S S 3"]]:
    """Training clips of one video, to look at: `count` draws of what training would show of it."""
    for i in range(count):
        yield training_clips(video, replace(recipe, clips_per_video=1), [np.random.default_rng((seed, i))])[0]


def _clock(video: VideoReader, recipe: Recipe) -> sampling.Clock | None:
    """When the frames are shown, where that is asked for."""
    if not recipe.fps:
        return None
    return sampling.clock(getattr(video, "fps", 0.0), getattr(video, "times", None))


def _read(
    video: VideoReader, recipe: Recipe, indices: Sequence[int], window_of: WindowOf
) -> UInt8[np.ndarray, "T h w 3"]:
    """Frames resized and cut, by the decoder or after it."""
    if recipe.resize == "decoder":
        return video.read(indices, window_of)
    frames = video.read(indices)
    return _resize(frames, recipe, window_of(*frames.shape[1:3]))


def _resize(
    frames: UInt8[np.ndarray, "T H W 3"], recipe: Recipe, window: Window
) -> UInt8[np.ndarray, "T h w 3"]:
    if recipe.resize == "decoder":
        return transforms.resize(frames, window)
    return resize.resize(frames, window, recipe.resize)


def evaluation_views(
    video: VideoReader, recipe: Recipe, clips: int, crops: int
) -> UInt8[np.ndarray, "V T S S 3"]:
    """All views of a video, those of one clip beside each other: view = clip * crops + crop. Nothing is random."""
    if recipe.crop == "resize" and crops > 1:
        raise UserError(
            f"views=({clips}, {crops}): data.crop='resize' shows the whole frame, of which there is one crop; "
            f"ask for 1 crop, or set data.crop='center'"
        )
    chosen = sampling.evaluation_indices(
        recipe.sampling,
        video.num_frames,
        recipe.frames,
        recipe.stride,
        clips,
        recipe.fps,
        _clock(video, recipe),
    )
    places, inverse = np.unique(chosen, return_inverse=True)
    windows: list[Window] = []

    def window_of(height: int, width: int) -> Window:
        windows[:] = recipe.evaluation_windows(height, width, crops)
        return windows[0] if crops == 1 else transforms.whole_window(windows[0].height, windows[0].width)

    try:
        frames = _read(video, recipe, places, window_of)
    except FewerFrames:  # the video now knows how many there are
        return evaluation_views(video, recipe, clips, crops)
    cut = [frames if crops == 1 else window.cut(frames) for window in windows]
    inverse = inverse.reshape(chosen.shape)
    return np.stack([part[inverse[i]] for i in range(clips) for part in cut])

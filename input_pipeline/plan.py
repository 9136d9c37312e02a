"""What a prepared set is made of: which videos lie in which shard, and how one video becomes a record.

Which video lies in which shard follows from the source and the size of shards alone, and a video's bytes from its
frames and the encoding alone: any number of processes, on any number of machines, gives the same files.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from input_pipeline import records
from input_pipeline.decode import BadVideo, FewerFrames, Video
from input_pipeline.encode import Encoding, encode_stream
from input_pipeline.labels import MultiLabel
from input_pipeline.records import Record
from input_pipeline.sources import Source
from input_pipeline.transforms import Window, whole_window

_AT_ONCE = 2**28  # bytes of decoded frames in memory


@dataclass(frozen=True)
class Plan:
    """What is to be prepared, and how.

    Attributes:
      source: the samples.
      encoding: how videos are encoded; None = they are packed as they are.
      shard_size: videos of one shard.
      videos: the samples that show each video: its number is the place in this list.
      folder: what names of videos are relative to, where they are below it.
    """

    source: Source
    encoding: Encoding | None
    shard_size: int
    videos: list[list[int]]
    folder: str

    @classmethod
    def of(cls, source: Source, encoding: Encoding | None, shard_size: int, root: str = "") -> "Plan":
        """The plan for a source; `root` is the folder of its videos, where it is not that of its list."""
        videos: dict[str, list[int]] = {}
        for i in range(len(source)):
            # A file that is packed as it is serves all parts of it that are shown.
            videos.setdefault(source.clip_name(i) if encoding else source.paths[i], []).append(i)
        place = source.name if os.path.isdir(source.name) else os.path.dirname(source.name)
        return cls(source, encoding, shard_size, list(videos.values()), os.path.abspath(root or place))

    def original(self, index: int) -> str:
        """What a sample is called in a skip list for the source."""
        name = self.source.clip_name(index)
        return os.path.abspath(name) if self.source.media is None and "://" not in name else name

    @property
    def shards(self) -> int:
        return -(-len(self.videos) // self.shard_size)

    def members(self, shard: int) -> range:
        """The videos of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, len(self.videos)))

    def name(self, index: int) -> str:
        """What a sample is called in the prepared set."""
        name = self.source.clip_name(index) if self.encoding else self.source.paths[index]
        if "://" in name or not os.path.abspath(name).startswith(self.folder + os.sep):
            return name
        return os.path.relpath(name, self.folder)

    def sample(self, index: int) -> dict[str, Any]:
        """What is known about a sample, as JSON has it."""
        source = self.source
        found: dict[str, Any] = {"name": self.name(index)}
        if source.labels:
            found["labels"] = {name: _label(column, index) for name, column in source.labels.items()}
        if source.captions:
            found["captions"] = list(source.captions[index])
        if source.words:
            found["words"] = {name: column[index] for name, column in source.words.items()}
        if source.turns:
            found["turns"] = [list(turn) for turn in source.turns[index]]
        if source.lines:
            found["line"] = int(source.lines[index])
        if self.encoding is None and (span := self.span(index)):
            found["span"] = [span[0], None if np.isinf(span[1]) else span[1]]
        return found

    def span(self, index: int) -> tuple[float, float] | None:
        """The part of its file that a sample shows."""
        spans = self.source.spans
        return None if spans is None or np.isnan(spans[index, 0]) else tuple(map(float, spans[index]))

    def columns(self) -> dict[str, Any]:
        """Which of its parts the source has; of label columns with several classes, how many."""
        source = self.source
        return dict(
            labels={k: v.count if isinstance(v, MultiLabel) else 0 for k, v in source.labels.items()},
            captions=bool(source.captions),
            words=list(source.words),
            turns=bool(source.turns),
            lines=bool(source.lines),
            unit=source.unit,
            spans=self.encoding is None and source.spans is not None,
        )

    def digest(self) -> str:
        """Of everything that the result depends on but the videos themselves."""
        digest = hashlib.sha256(json.dumps([self.recipe(), self.shard_size, self.columns()]).encode())
        digest.update(json.dumps(self.source.label_names).encode())
        for index in range(len(self.source)):
            entry = [self.sample(index), self.span(index), self.source.skipped.get(index)]
            digest.update(json.dumps(entry).encode())
        return digest.hexdigest()

    def recipe(self) -> dict[str, Any]:
        return asdict(self.encoding) if self.encoding else {"as_is": True}


def _label(column: Any, index: int) -> int | list[int]:
    return list(column.classes[index]) if isinstance(column, MultiLabel) else int(column[index])


# One video


class PackedVideos:
    """The videos of a plan, packed: {"packed": bytes of the record, "note": ...} or {"note": {"bad": reason}}."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def __getitem__(self, number: int) -> dict[str, Any]:
        plan = self._plan
        try:
            if all(index in plan.source.skipped for index in plan.videos[number]):
                raise BadVideo("", plan.source.skipped[plan.videos[number][0]])
            record = _encoded(plan, number) if plan.encoding else _as_is(plan, number)
        except BadVideo as error:
            return {"note": {"bad": error.reason}}
        except Exception as error:  # whatever a library raises at a video is about that video
            return {"note": {"bad": f"{type(error).__name__}: {error}"}}
        frames = len(record.video.times) if plan.encoding else record.video.num_frames
        note = dict(frames=frames, bytes=len(record.data), damage=record.damage)
        return {"packed": records.pack(record), "note": note}


def _samples(plan: Plan, number: int) -> list[dict[str, Any]]:
    return [{"id": index} | plan.sample(index) for index in plan.videos[number]]


def _as_is(plan: Plan, number: int) -> Record:
    """A video as the file that it is; its frames are listed, and the first is decoded."""
    index = plan.videos[number][0]
    with plan.source.store.open(index) as video:
        if not isinstance(video, Video):
            raise BadVideo(video.path, "is no single file that could be packed as it is; encode it")
        video.read([0], lambda height, width: whole_window(16, 16))
        listing = video.listing
        return Record(plan.name(index), _samples(plan, number), video.content(), listing, damage=video.damage)


def _encoded(plan: Plan, number: int) -> Record:
    """A video, or the part of it that is shown, encoded."""
    with plan.source.store.open(plan.videos[number][0]) as video:
        while True:
            try:
                return _encoded_once(plan, number, video)
            except FewerFrames:  # the video now knows how many there are, and when each is shown
                continue


def _encoded_once(plan: Plan, number: int, video: Any) -> Record:
    index, encoding = plan.videos[number][0], plan.encoding
    span = plan.span(index)
    first, stop = video.frames_between(*span) if span else (0, video.num_frames)
    times = _times(video)
    chosen = _chosen(times[first:stop], encoding.fps) + first
    try:
        data, stream = encode_stream(_frames(video, chosen, encoding), times[chosen], encoding)
    except BadVideo:
        raise
    except ValueError as error:
        raise BadVideo(video.path, f"cannot be encoded ({error})") from error
    name = plan.name(index)
    return Record(name, _samples(plan, number), data, stream, span and _bounded(span), video.damage)


def _bounded(span: tuple[float, float]) -> tuple[float, float | None]:
    return span[0], None if np.isinf(span[1]) else span[1]


def _times(video: Any) -> np.ndarray:
    """Seconds of each frame from the first; where the video does not say, as if there were 25 a second."""
    try:
        times = getattr(video, "times", None)
    except BadVideo:
        times = None
    return np.arange(video.num_frames) / 25 if times is None else np.asarray(times, np.float64)


def _chosen(times: np.ndarray, fps: float) -> np.ndarray:
    """The frames that are kept at a rate of `fps` (0 = all): those shown at 0, 1 / fps, 2 / fps ... seconds."""
    if not fps:
        return np.arange(len(times))
    shown = times - times[0]
    wanted = np.arange(int(shown[-1] * fps + 1e-6) + 1) / fps
    return np.unique(np.searchsorted(shown, wanted + 1e-6, side="right") - 1)


def _frames(video: Any, chosen: Sequence[int], encoding: Encoding) -> Iterator[np.ndarray]:
    """The frames at some places in the size that they are stored in, some at a time. Raises FewerFrames."""

    def window_of(height: int, width: int) -> Window:
        side = encoding.short_side
        if not side or min(height, width) <= side:
            return whole_window(height, width)
        # Even sizes: colour is stored at half the resolution.
        scale = side / min(height, width)
        return whole_window(*(max(2 * round(length * scale / 2), 2) for length in (height, width)))

    start, some = 0, 1
    while start < len(chosen):
        part = video.read(chosen[start : start + some], window_of)
        yield part
        start += len(part)
        some = max(1, _AT_ONCE // part[0].nbytes)

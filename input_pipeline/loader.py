"""Batches in a global order, which `input_pipeline.chunks` defines, read ahead by threads or processes.

b rows of this host, T frames, S side in pixels, V views.

Chunks of rows (the clips of one video; a whole batch where nothing is decoded) are read ahead by grain's threads, or by
the processes of `input_pipeline.workers`. Rows are put together after that, so workers do not change their order.
"""

import atexit
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from input_pipeline.chunks import ORDER, STREAMS, EvaluationChunks, TrainingChunks
from input_pipeline.clips import Recipe
from input_pipeline.mixture import Mixture, open_stream
from input_pipeline.shared_memory import Reading
from input_pipeline.telemetry import Account, Planned, Telemetry, Watchdog
from input_pipeline.videos import Batch, Share, Videos
from input_pipeline.workers import Workers
from vfm.errors import UserError

_BESIDE = 2**16  # bytes of a chunk's arrays beside its frames that travel through shared memory


def _by_threads(chunks: Any, ahead: int, threads: int) -> Iterator[dict[str, Any]]:
    """Grain's iterator over chunks in their order, about `ahead` of them read in advance."""
    import grain  # it imports jax, for which the processes that decode have no use

    return iter(
        grain.MapDataset.source(chunks).to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads) if threads else 0)
        )
    )


class _Stream:
    """Chunks of one medium, read ahead in their order."""

    def __init__(self, data: Any, videos: Sequence[Videos], chunks: Any, ahead: int, chunk_bytes: int):
        self.videos, self.chunks, self._ahead = videos, chunks, ahead
        self._chunk_bytes = chunk_bytes + _BESIDE
        # Cached videos are sliced in this process: sending them to others would cost more.
        cached = all(some.cache is not None for some in videos)
        self._workers = 0 if cached else int(data.workers)
        self._threads = 0 if getattr(chunks, "whole", False) else int(data.threads)
        self._iterator: Any = None
        self._name = videos[0].source.name
        self._watchdog = Watchdog(self.reading, self._name, float(data.get("stall_seconds", 0.0)))
        self.telemetry = Telemetry()

    def take(self, count: int) -> Batch:
        """The rows of the next `count` chunks, each of which has the same number of them."""
        if self._iterator is None:
            atexit.register(self.close)
            self._iterator = self._start()
        batch: Batch = {}
        for place in range(count):
            with self.telemetry.waiting(), self._watchdog:
                part = next(self._iterator)
            self._notice(part.pop("bad"))
            self.telemetry.add(len(part["id"]), *part.pop("times"))
            if count == 1 and not self._workers:
                batch = part
                break
            rows = len(part["id"])
            for name, values in part.items():
                if name not in batch:
                    batch[name] = np.empty((count * rows, *values.shape[1:]), values.dtype)
                batch[name][place * rows : (place + 1) * rows] = values
        return batch

    def _start(self) -> Any:
        if self._workers:
            return Workers(
                self.chunks, self._workers, self._ahead, self._chunk_bytes, indices=range(len(self.chunks))
            )
        return _by_threads(self.chunks, self._ahead, self._threads)

    def _notice(self, bad: Sequence[tuple[int, str, str, bool]]) -> None:
        found = list(bad)
        if isinstance(self._iterator, Workers):
            found += [(*entry, False) for entry in self._iterator.avoided()]
        for source, name, reason, in_part in found:
            self.videos[source].bad.add(name, reason, in_part)

    def reading(self) -> list[Reading]:
        """The files that are being read."""
        found = (
            self._iterator.reading() if isinstance(self._iterator, Workers) else self.chunks.reading.values()
        )
        return list(found)

    def bad_files(self) -> list[dict[str, str]]:
        return [{"path": name, "reason": why} for videos in self.videos for name, why in videos.bad_files()]

    def processes(self) -> list[int]:
        """The numbers of the processes that read."""
        return self._iterator.processes() if isinstance(self._iterator, Workers) else []

    def interrupt(self) -> None:
        """Ends a `take` that waits in another thread, as far as that is possible."""
        if isinstance(self._iterator, Workers):
            self._iterator.close()

    def close(self) -> None:
        atexit.unregister(self.close)
        self._watchdog.close()
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


class _Batches:
    """What training and evaluation batches have in common.

    Attributes:
      label_names: label column -> names of its classes, where they are known.
    """

    def __init__(self, streams: Sequence[_Stream], label_names: dict[str, list[str]]):
        self._streams = streams
        self.label_names = label_names

    @property
    def bad_files(self) -> list[dict[str, str]]:
        """What cannot be shown, as far as that is known: {"path": ..., "reason": ...}.

        Files that give no frames, or not all, samples without text, and those of a skip list.
        """
        return [entry for stream in self._streams for entry in stream.bad_files()]

    def telemetry(self) -> dict[str, float]:
        """Means since the last call: `decode_ms` and `transform_ms` of a clip, `wait_ms` for a batch; and `bad_clips`,
        how many rows showed another sample than planned. Of images beside videos the same, as `image_decode_ms` ..."""
        found, *images = [stream.telemetry.means() for stream in self._streams]
        return found | {f"image_{name}": value for means in images for name, value in means.items()}

    def processes(self) -> list[int]:
        """The numbers of the processes that read."""
        return [number for stream in self._streams for number in stream.processes()]

    def interrupt(self) -> None:
        """Lets a thread that waits for a batch go on, with StopIteration; then `close`."""
        for stream in self._streams:
            stream.interrupt()

    def close(self) -> None:
        """Stops threads and processes."""
        for stream in self._streams:
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class TrainBatches(_Batches):
    """Endless iterator of training batches; see `train_batches`.

    Attributes:
      num_examples: clips of one epoch, all clips of each video counted; of a mixture, those of all its sources.
      source_names: names of a mixture's sources, which the batch's `source` counts; [""] of a single source.
      account: what was planned and shown, see `Account`.
    """

    def __init__(
        self, data: Any, batch_size: int, seed: int, start_step: int, rows: slice, share: Share | None = None
    ):
        recipe = Recipe.from_config(data)
        images = int(data.get("image_batch", 0))
        if images < 0 or bool(images) != bool(data.get("images", "")):
            raise UserError(
                f"data.images='{data.images}' and data.image_batch={images}: expected both, a source of images and how "
                f"many go beside each batch, or neither"
            )
        order = dict(seed=seed, start_step=start_step, share=share)
        videos, self._mixture = _training_stream(
            data, "video", recipe, batch_size=batch_size, rows=rows, **order
        )
        streams = [videos]
        media = [Planned("", self._mixture, batch_size, recipe.clips_per_video)]
        if images:
            part = _share(rows, batch_size, images)
            options = dict(batch_size=images, rows=part) | order
            stream, mixture = _training_stream(data, "image", recipe.of_images(), **options)
            streams.append(stream)
            media.append(Planned("images", mixture, images, 1))
        super().__init__(streams, self._mixture.label_names)
        self._step = self._start = start_step
        self.source_names = self._mixture.names
        self.num_examples = sum(len(some) for some in videos.videos) * recipe.clips_per_video
        self.account = Account(media, start_step)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        found = [stream.take(stream.chunks.per_batch) for stream in self._streams]
        pairs = [
            (stream.chunks.planned(self._step), (rows.get("source", np.zeros_like(rows["id"])), rows["id"]))
            for stream, rows in zip(self._streams, found, strict=True)
        ]
        for stream, replaced in zip(self._streams, self.account.add(self._step, pairs), strict=True):
            stream.telemetry.batch(replaced)
        self._step += 1
        batch, *images = found
        for rows in images:
            kept = {name: rows[name] for name in rows if name in ("id", "source") or name.startswith("text")}
            batch |= {"image": rows["video"]} | {f"image_{name}": array for name, array in kept.items()}
        return batch

    def close(self) -> None:
        """Stops threads and processes; whoever asks again gets the batches from the first on."""
        super().close()
        self._step = self._start


def _training_stream(
    data: Any,
    medium: str,
    recipe: Recipe,
    *,
    batch_size: int,
    rows: slice,
    seed: int,
    start_step: int,
    share: Share | None,
) -> tuple[_Stream, Mixture]:
    """The stream of one medium, and what it is made of."""
    mixture = open_stream(data, medium, recipe, seed, STREAMS[medium] + ORDER, batch_size, share)
    chunks = TrainingChunks(mixture, recipe, seed, batch_size, start_step, rows, medium)
    chunk_bytes = chunks.size * recipe.frames * recipe.size**2 * 3
    videos = [part.videos for part in mixture.parts]
    return _Stream(data, videos, chunks, max(chunks.per_batch, 2), chunk_bytes), mixture


def _share(rows: slice, batch_size: int, images: int) -> slice:
    """The rows of a batch of images that stand beside some rows of the batch of videos."""
    start, stop = rows.start * images, rows.stop * images
    if start % batch_size or stop % batch_size:
        raise UserError(
            f"data.image_batch={images} cannot be shared out as the batch of {batch_size} videos is, of which this "
            f"process has rows {rows.start} to {rows.stop}; expected a multiple of the number of processes"
        )
    return slice(start // batch_size, stop // batch_size)


class EvalBatches(_Batches):
    """Evaluation batches, each pass in the same order; see `eval_batches`.

    Attributes:
      num_examples: samples of the source.
    """

    def __init__(self, data: Any, spec: Any, batch_size: int, views: tuple[int, int]):
        recipe = Recipe.from_config(data)
        videos = Videos(data, spec, "evaluation data", float(data.max_bad_fraction))
        chunk_bytes = views[0] * views[1] * recipe.frames * recipe.size**2 * 3
        chunks = EvaluationChunks(videos, recipe, views)
        super().__init__(
            [_Stream(data, [videos], chunks, batch_size, chunk_bytes)], videos.source.label_names
        )
        self.num_examples = len(videos.source)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.num_examples // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        for start in range(0, self.num_examples, self._batch_size):
            count = min(self._batch_size, self.num_examples - start)
            batch = self._streams[0].take(count)
            self._streams[0].telemetry.batch()
            yield {name: _pad(array, self._batch_size) for name, array in batch.items()}
        self.close()


def _pad(array: np.ndarray, count: int) -> np.ndarray:
    if len(array) == count:
        return array
    return np.concatenate([array, np.zeros((count - len(array), *array.shape[1:]), array.dtype)])


def train_batches(
    data: Any,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: slice | None = None,
    share: Share | None = None,
) -> TrainBatches:
    """Endless training batches from step `start_step` on; global batch k is a function of (seed, k) only.

    Each batch is a dict: `video` uint8 [b, T, S, S, 3]; `label` int32 [b] (the first label column, -1 if there is
    none), every label column under its own name; `id` int32 [b], the sample's index in the source. Every video is
    shown once an epoch, in an order drawn for that epoch; batches run across the border of epochs. Where `data.train`
    is a mixture (see `input_pipeline.mixture`), `source` int32 [b] says which of its sources a row is from.

    Where `data.text.tokenizer` is set: `text` int32 [b, L], `text_mask` bool [b, L] (False = padding), `text_loss` bool
    [b, L] (tokens to predict: captions or answers with their ends), `text_id` int32 [b] (equal for equal captions).
    Where `data.images` is set: `image` uint8 [i, 1, S, S, 3], `image_id` and, with text, `image_text` and so on.

    Args:
      data: the configuration's `data`.
      batch_size: rows of the global batch.
      seed: of order, clips, crops and flips.
      start_step: the first batch.
      rows: this host's rows of the global batch; all if not given.
      share: (compute, names of n samples) -> the bool [n] of those to leave out, which `compute` finds; makes all
        processes of a run, and a run that goes on, leave out the same. None where there is no need.

    Raises:
      UserError: data that cannot be used, now; later, when too many files do not decode.
    """
    start, stop, stride = (rows or slice(None)).indices(batch_size)
    if stride != 1 or stop <= start:
        raise ValueError(
            f"rows={rows} of a batch of {batch_size}: expected a slice of one row or more, in order"
        )
    return TrainBatches(data, batch_size, seed, start_step, slice(start, stop), share)


def eval_batches(data: Any, spec: Any, *, batch_size: int, views: tuple[int, int] = (1, 1)) -> EvalBatches:
    """Evaluation batches: every sample of `spec` once, in the order of the source; nothing is random.

    As `train_batches`, but `video` is [B, V, T, S, S, 3] with V = clips * crops views, those of one clip beside each
    other, and `mask` float32 [B] is 0 for the rows that fill up the last batch, for videos that do not decode and for
    samples of a skip list (all of them are black). Where `data.text.tokenizer` is set and the source has captions, text
    is that of the first caption; samples without one have an empty `text_mask` and `text_id` -1. All captions are in
    `open_source(spec).captions`.

    Args:
      data: the configuration's `data` (its `train` is not used).
      spec: the source, see `open_source`.
      batch_size: rows of a batch.
      views: (clips, crops) of each video.

    Raises:
      UserError: as `train_batches`.
    """
    return EvalBatches(data, spec, batch_size, views)

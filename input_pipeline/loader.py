"""Batches in a global order, which `input_pipeline.chunks` defines, read ahead by grain.

b rows of this host, T frames, S side in pixels, V views.

A `MapDataset` of chunks of rows (the clips of one video; a whole batch where nothing is decoded) is read ahead by
threads, or by processes with threads. Rows are put together after that, so workers do not change their order.
"""

import atexit
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from absl import flags

from input_pipeline.chunks import Batch, EvaluationChunks, TrainingChunks, Videos
from input_pipeline.clips import Recipe
from vfm.errors import UserError

_SHARED_MEMORY = "/dev/shm"  # where workers leave arrays
_SMALL = 2**16  # bytes of an array that is sooner copied than shared


def _outlive_signals(index: int, count: int) -> None:
    """A cluster sends SIGTERM to all processes of a job, a terminal Ctrl-C: the trainer still wants batches then,
    to come to the end of its step and save. It stops its workers itself when it leaves."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _read(chunks: Any, ahead: int, threads: int, workers: int, chunk_bytes: int) -> Iterator[dict[str, Any]]:
    """Grain's iterator over chunks in their order, about `ahead` of them read in advance."""
    import grain  # it imports jax, for which the processes that decode have no use

    per_worker = max(1, -(-ahead // max(workers, 1)))
    buffered = max(per_worker, threads) if threads else 0
    dataset = grain.MapDataset.source(chunks).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its own flags when it starts processes
            flags.FLAGS.mark_as_parsed()
        # Arrays travel through shared memory where there is room; containers often have 64 MiB of it.
        needed = 2 * workers * (per_worker + 1) * chunk_bytes
        room = shutil.disk_usage(_SHARED_MEMORY).free if os.path.isdir(_SHARED_MEMORY) else 0
        options = grain.experimental.DatasetOptions(min_shm_size=_SMALL if needed < room else sys.maxsize)
        dataset = grain.experimental.WithOptionsIterDataset(dataset, options)
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=per_worker),
            worker_init_fn=_outlive_signals,
        )
    return iter(dataset)


class _Stream:
    """Chunks of one medium, read ahead in their order."""

    def __init__(self, data: Any, videos: Videos, chunks: Any, ahead: int, chunk_bytes: int):
        self.videos, self._chunks, self._ahead, self._chunk_bytes = videos, chunks, ahead, chunk_bytes
        # Cached videos are sliced in this process: sending them to others would cost more.
        self._workers = 0 if videos.cache is not None else int(data.workers)
        self._threads = 0 if getattr(chunks, "whole", False) else int(data.threads)
        self._iterator = None

    def take(self, count: int) -> Batch:
        """The rows of the next `count` chunks."""
        if self._iterator is None:
            atexit.register(self.close)  # workers end at no signal but this
            self._iterator = _read(self._chunks, self._ahead, self._threads, self._workers, self._chunk_bytes)
        parts = [next(self._iterator) for _ in range(count)]
        for part in parts:
            for entry in part.pop("bad"):
                self.videos.bad.add(*entry)
        if len(parts) == 1 and not self._workers:
            return parts[0]
        # In processes, arrays are views of shared memory that goes with them: always copy those.
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def bad_files(self) -> list[dict[str, str]]:
        bad = list(self.videos.texts.left_out) if self.videos.texts is not None else []
        bad += list(self.videos.bad.reasons.items())
        bad += [(path, f"{why}; used in part") for path, why in list(self.videos.bad.damaged.items())]
        return [{"path": path, "reason": why} for path, why in bad]

    def close(self) -> None:
        atexit.unregister(self.close)
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


class _Batches:
    """What training and evaluation batches have in common.

    Attributes:
      label_names: label column -> names of its classes, where they are known.
    """

    def __init__(self, streams: Sequence[_Stream]):
        self._streams = streams
        self.label_names = streams[0].videos.source.label_names

    @property
    def bad_files(self) -> list[dict[str, str]]:
        """Files met so far that give no frames, or not all, and samples without text: {"path": ..., "reason": ...}."""
        return [entry for stream in self._streams for entry in stream.bad_files()]

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
      num_examples: clips of one epoch, all clips of each video counted.
    """

    def __init__(self, data: Any, batch_size: int, seed: int, start_step: int, rows: slice):
        recipe = Recipe.from_config(data)
        images = int(data.get("image_batch", 0))
        if images < 0 or bool(images) != bool(data.get("images", "")):
            raise UserError(
                f"data.images='{data.images}' and data.image_batch={images}: expected both, a source of images and how "
                f"many go beside each batch, or neither"
            )
        order = dict(seed=seed, start_step=start_step)
        videos = _training_stream(data, "video", recipe, batch_size=batch_size, rows=rows, **order)
        streams = [videos]
        if images:
            part = _share(rows, batch_size, images)
            streams.append(
                _training_stream(data, "image", recipe.of_images(), batch_size=images, rows=part, **order)
            )
        super().__init__([stream for stream, _ in streams])
        self._counts = [count for _, count in streams]
        self.num_examples = len(videos[0].videos) * recipe.clips_per_video

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        batch, *images = (
            stream.take(count) for stream, count in zip(self._streams, self._counts, strict=True)
        )
        for rows in images:
            kept = {name: rows[name] for name in rows if name == "id" or name.startswith("text")}
            batch |= {"image": rows["video"]} | {f"image_{name}": array for name, array in kept.items()}
        return batch


def _training_stream(
    data: Any, medium: str, recipe: Recipe, *, batch_size: int, rows: slice, seed: int, start_step: int
) -> tuple[_Stream, int]:
    """The stream of one medium, and how many of its chunks make a batch."""
    spec, key = (data.train, "data.train") if medium == "video" else (data.images, "data.images")
    videos = Videos(data, spec, key, float(data.max_bad_fraction), medium=medium, training=True)
    chunks = TrainingChunks(videos, recipe, seed, batch_size, start_step, rows, medium)
    chunk_bytes = chunks.size * recipe.frames * recipe.size**2 * 3
    return _Stream(data, videos, chunks, max(chunks.per_batch, 2), chunk_bytes), chunks.per_batch


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

    def __init__(self, data: Any, spec: str, batch_size: int, views: tuple[int, int]):
        recipe = Recipe.from_config(data)
        videos = Videos(data, spec, "evaluation data", float(data.max_bad_fraction))
        chunk_bytes = views[0] * views[1] * recipe.frames * recipe.size**2 * 3
        chunks = EvaluationChunks(videos, recipe, views)
        super().__init__([_Stream(data, videos, chunks, batch_size, chunk_bytes)])
        self.num_examples = len(videos.source)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.num_examples // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        for start in range(0, self.num_examples, self._batch_size):
            count = min(self._batch_size, self.num_examples - start)
            batch = self._streams[0].take(count)
            yield {name: _pad(array, self._batch_size) for name, array in batch.items()}
        self.close()


def _pad(array: np.ndarray, count: int) -> np.ndarray:
    if len(array) == count:
        return array
    return np.concatenate([array, np.zeros((count - len(array), *array.shape[1:]), array.dtype)])


def train_batches(
    data: Any, *, batch_size: int, seed: int, start_step: int = 0, rows: slice | None = None
) -> TrainBatches:
    """Endless training batches from step `start_step` on; global batch k is a function of (seed, k) only.

    Each batch is a dict: `video` uint8 [b, T, S, S, 3]; `label` int32 [b] (the first label column, -1 if there is
    none), every label column under its own name; `id` int32 [b], the sample's index in the source. Every video is
    shown once an epoch, in an order drawn for that epoch; batches run across the border of epochs.

    Where `data.text.tokenizer` is set: `text` int32 [b, L], `text_mask` bool [b, L] (False = padding), `text_loss` bool
    [b, L] (tokens to predict: captions or answers with their ends), `text_id` int32 [b] (equal for equal captions).
    Where `data.images` is set: `image` uint8 [i, 1, S, S, 3], `image_id` and, with text, `image_text` and so on.

    Args:
      data: the configuration's `data`.
      batch_size: rows of the global batch.
      seed: of order, clips, crops and flips.
      start_step: the first batch.
      rows: this host's rows of the global batch; all if not given.

    Raises:
      UserError: data that cannot be used, now; later, when too many files do not decode.
    """
    start, stop, stride = (rows or slice(None)).indices(batch_size)
    if stride != 1 or stop <= start:
        raise ValueError(
            f"rows={rows} of a batch of {batch_size}: expected a slice of one row or more, in order"
        )
    return TrainBatches(data, batch_size, seed, start_step, slice(start, stop))


def eval_batches(data: Any, spec: str, *, batch_size: int, views: tuple[int, int] = (1, 1)) -> EvalBatches:
    """Evaluation batches: every sample of `spec` once, in the order of the source; nothing is random.

    As `train_batches`, but `video` is [B, V, T, S, S, 3] with V = clips * crops views, those of one clip beside each
    other, and `mask` float32 [B] is 0 for the rows that fill up the last batch and for videos that do not decode (both
    are black). Where `data.text.tokenizer` is set and the source has captions, text is that of the first caption;
    samples without one have an empty `text_mask` and `text_id` -1. All captions are in `open_source(spec).captions`.

    Args:
      data: the configuration's `data` (its `train` is not used).
      spec: the source, see `open_source`.
      batch_size: rows of a batch.
      views: (clips, crops) of each video.

    Raises:
      UserError: as `train_batches`.
    """
    return EvalBatches(data, spec, batch_size, views)

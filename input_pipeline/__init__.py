"""From videos on disk to batches of numpy arrays: sources, decoding, sampling, transforms, loading.

Numpy only: nothing here imports jax.
"""

from input_pipeline.decode import BadVideo, read_frames
from input_pipeline.encode import write_mp4
from input_pipeline.loader import EvalBatches, TrainBatches, eval_batches, train_batches
from input_pipeline.sources import Sample, Source, open_source

__all__ = [
    "BadVideo",
    "EvalBatches",
    "Sample",
    "Source",
    "TrainBatches",
    "eval_batches",
    "open_source",
    "read_frames",
    "train_batches",
    "write_mp4",
]

"""From videos on disk to batches of numpy arrays: sources, decoding, sampling, transforms, text, loading.

Numpy only: nothing here imports jax.
"""

from input_pipeline.decode import BadVideo, read_frames
from input_pipeline.encode import write_mp4
from input_pipeline.loader import EvalBatches, TrainBatches, eval_batches, train_batches
from input_pipeline.sources import Sample, Source, open_source
from input_pipeline.text import batch_shapes
from input_pipeline.tokenizers import Tokenizer, open_tokenizer, tokenizer_of

__all__ = [
    "BadVideo",
    "EvalBatches",
    "Sample",
    "Source",
    "Tokenizer",
    "TrainBatches",
    "batch_shapes",
    "eval_batches",
    "open_source",
    "open_tokenizer",
    "read_frames",
    "tokenizer_of",
    "train_batches",
    "write_mp4",
]

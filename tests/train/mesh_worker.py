"""Train and resume a tiny model on the devices of this process; run by test_meshes.py in processes of its own.

python mesh_worker.py DATA,FSDP,TENSOR STEPS:FROM:TO ...
    each STEPS:FROM:TO copies the checkpoints of the run FROM up to step 2 to TO (where FROM is not empty) and trains
    TO up to STEPS; a TO that ends in "contrast" learns video-text contrast
"""

import itertools
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import common
from vfm.errors import UserError
from vfm.train import checkpoint, processes, progress, train

ROWS, FRAMES, SIDE, LENGTH = 8, 4, 16, 4


def batches(start, rows):
    for step in itertools.count(start):
        rng = np.random.default_rng(step)
        video = rng.integers(0, 256, (ROWS, FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
        batch = dict(
            video=video,
            id=np.arange(ROWS * step, ROWS * (step + 1), dtype=np.int32),
            text=rng.integers(4, 260, (ROWS, LENGTH), dtype=np.int32),
            text_mask=np.ones((ROWS, LENGTH), bool),
            text_id=rng.integers(0, 6, ROWS, dtype=np.int32),
        )
        yield {name: array[rows] for name, array in batch.items()}


def config(mesh: tuple[int, ...], steps: int, contrast: bool = False) -> ConfigDict:
    c = common.get_config()
    c.total_steps, c.batch_size, c.accumulate = steps, ROWS, 2 if mesh != (2, 1, 1) else 1
    c.data.frames, c.data.size = FRAMES, SIDE
    c.model.encoder = ConfigDict(
        common.vit(width=16, depth=2, heads=2, mlp_dim=32, frames=FRAMES, image_size=SIDE, patch=8)
    )
    c.objective.mask = ConfigDict(dict(name="random", ratio=0.5))
    c.objective.predictor.update(width=16, depth=1, heads=1)
    c.optim.lr, c.optim.lr_scaling, c.optim.warmup, c.optim.clip, c.ema = 1e-3, False, "2 steps", 1.0, 0.9
    c.mesh = ConfigDict(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    c.checkpoint.every, c.checkpoint.keep, c.log_every = "2 steps", 9, "1 step"
    if contrast:
        # Micro-batches would be other contrasts; chunks are not.
        c.accumulate, c.data.text.tokenizer = 1, "bytes"
        c.optim.eps = 1e-4  # keys' biases have no gradient but rounding, which Adam would make steps of
        c.model.text = ConfigDict(dict(name="text", width=16, depth=1, heads=2, length=LENGTH))
        mask = dict(name="random", ratio=0.5)
        c.objective = ConfigDict(common.contrast(dim=8, mask=mask, chunks=2, loss_chunk=3))
    return c


def agree() -> None:
    """Prints what all processes take over from the first, and what they hear of its mistakes."""

    def fails() -> np.ndarray:
        raise UserError("too many files are bad")

    print("agreed", processes.from_first(lambda: np.arange(4) % 2 == jax.process_index(), 4).tolist())
    try:
        processes.from_first(fails, 4)
    except UserError as error:
        print("heard", error)


def main() -> None:
    processes.initialize()
    progress.show_logs()
    agree()
    mesh = tuple(int(size) for size in sys.argv[1].split(","))
    for job in sys.argv[2:]:
        steps, source, target = job.split(":")
        if source and jax.process_index() == 0:
            shutil.copytree(source, target)
            for step in checkpoint.steps(target)[1:]:
                shutil.rmtree(Path(target) / "checkpoints" / str(step))
        if jax.process_count() > 1:
            jax.experimental.multihost_utils.sync_global_devices(target)
        contrast = Path(target).name.endswith("contrast")
        state = train(config(mesh, int(steps), contrast), target, batches=batches)
        kernel = state["opt"]["mu"]["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
        print(
            "placed",
            tuple(kernel.sharding.spec),
            [shard.data.shape for shard in kernel.addressable_shards][0],
        )


if __name__ == "__main__":
    main()

"""Our contender of `scripts.bench.step`: the trainer's own compiled step on one batch of noise.

Not called by hand; `scripts.bench.protocol` says what goes in and out.
"""

import importlib.metadata
import math
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from scripts.bench import protocol
from vfm.train import config as configs
from vfm.train import sharding
from vfm.train.program import Program

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("width", "depth", "heads", "mlp_dim")


def run_config(settings: dict) -> ConfigDict:
    """The published recipe (`configs/videomae.py`) at the batch and clip size of the benchmark."""
    config = config_flags.ConfigFileFlagParser("config").parse(
        f"{ROOT}/configs/videomae.py:{settings['size']}"
    )
    config.batch_size = settings["batch"]
    config.total_epochs, config.total_steps = None, 1_000_000
    config.precision, config.unroll, config.remat = (
        settings["precision"],
        settings["unroll"],
        settings["remat"],
    )
    config.data.frames, config.data.size = settings["frames"], settings["image_size"]
    config.model.encoder.frames, config.model.encoder.image_size = settings["frames"], settings["image_size"]
    # A constant rate that moves the parameters from the first step.
    config.optim.schedule, config.optim.warmup, config.optim.lr_scaling = "constant", "", False
    config.mesh = ConfigDict(dict(data=1, fsdp=1, tensor=1))
    return config


def architecture(config: ConfigDict, program: Program) -> dict:
    """What another framework needs to know to build the same model and optimiser."""
    encoder, decoder, optim = program.objective.encoder, program.objective.predictor, config.optim
    return dict(
        encoder={name: getattr(encoder, name) for name in FIELDS},
        decoder={name: getattr(decoder, name) for name in FIELDS},
        tubelet=encoder.tubelet,
        patch=encoder.patch,
        norm_eps=encoder.norm_eps,
        mask_ratio=config.objective.mask.ratio,
        optim=dict(lr=optim.lr, betas=(optim.b1, optim.b2), eps=optim.eps, weight_decay=optim.weight_decay),
    )


def build(settings: dict):
    config = run_config(settings)
    configs.check(config, need_data=False)
    mesh = sharding.make_mesh(config.mesh)
    size, frames, pixels = settings["batch"], settings["frames"], settings["image_size"]
    noise = np.random.default_rng(0).integers(0, 256, (size, frames, pixels, pixels, 3), np.uint8)
    batch = dict(video=noise, label=np.zeros(size, np.int32), id=np.arange(size, dtype=np.int32))
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    with jax.set_mesh(mesh):
        program = Program(config, mesh, shapes, config.total_steps, None)
        step, state = program.compile(), program.new()
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, batch, {})
        jax.block_until_ready(state)
        total, weight = metrics["loss"]
        return float(total / weight)

    device = mesh.devices.flat[0]
    about = dict(
        name=f"ours, jax {jax.__version__}, flax {importlib.metadata.version('flax')}",
        device=device.device_kind,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.like["params"])),
        flops=program.flops,
        architecture=architecture(config, program),
    )
    stats = device.memory_stats()
    return about, run, (lambda: device.memory_stats()["peak_bytes_in_use"]) if stats else None


if __name__ == "__main__":
    protocol.serve(build)

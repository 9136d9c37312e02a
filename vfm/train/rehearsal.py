"""A run without running it: compile the true step for the shapes that the config implies, and say what it takes."""

import math
import os

import jax
from ml_collections import ConfigDict

import input_pipeline
from vfm.train import config as configs
from vfm.train import sharding, summary
from vfm.train.program import Program


def dry_run(config: ConfigDict) -> str:
    """Parameters with their shardings, FLOPs and memory a device, as text; reads no data and writes nothing.

    Raises:
      UserError: what a run would raise before its first batch.
    """
    configs.check(config, need_data=False)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.batch_size, config.accumulate, mesh)
    if images := config.data.get("image_batch", 0):
        sharding.check_batch(images, config.accumulate, mesh, "config.data.image_batch")
    size = config.batch_size
    batch = {
        name: jax.ShapeDtypeStruct(shape, kind)
        for name, (shape, kind) in input_pipeline.batch_shapes(config.data, size).items()
    }
    # The learning rate does not change what is compiled; a nominal epoch stands for the data.
    examples = max(1, config.batch_size)
    with jax.set_mesh(mesh):
        program = Program(config, mesh, batch, configs.total_steps(config, examples), examples)
        compiled = program.compile()
    params = program.like["params"] | ({"teachers": program.teachers} if program.teachers else {})
    shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
    clips = program.flops / size
    lines = [
        summary.parameter_table(params, shardings),
        "",
        summary.parameter_table(params, depth=1),
        "",
        f"mesh        {', '.join(f'{axis} {n}' for axis, n in mesh.shape.items())}: {mesh.devices.size} x "
        f"{mesh.devices.flat[0].device_kind}",
        *(f"batch       {k} {v.dtype} {'x'.join(map(str, v.shape))}" for k, v in batch.items()),
        f"FLOPs       {program.flops:.4g} a step, {clips:.4g} a clip (matrix products, forward and backward)",
        f"memory      {summary.memory(compiled) or 'this backend does not tell'}",
    ]
    return "\n".join(lines)


def virtual_devices(config: ConfigDict) -> None:
    """As many virtual devices as the mesh names, where the CPU is what there is; nothing is ever computed on them.

    Call it before anything uses a device; afterwards it has no effect.
    """
    wanted = math.prod(config.mesh.values())
    if wanted > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        try:
            jax.config.update("jax_num_cpu_devices", wanted)
        except RuntimeError:
            return

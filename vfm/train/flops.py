"""Model FLOPs, counted on the traced program, and what the hardware could do at most.

Counted are matrix products and convolutions, forward and backward, 2 for each multiply and add, each pass of a
scan; element-wise work and recomputation (count a program without remat) are left out, as in published numbers.
"""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# bfloat16 matrix products without sparsity, per chip as jax counts devices, from the vendors' data sheets.
PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}


def count(jaxpr: Any) -> float:
    """FLOPs of a (closed) jaxpr. A loop of unknown length counts once, a branch as its dearest."""
    total = 0.0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _dot(eqn)
        elif name == "conv_general_dilated":
            total += _conv(eqn)
        elif name == "scan":
            total += eqn.params["length"] * count(eqn.params["jaxpr"])
        elif name == "cond":
            total += max(count(branch) for branch in eqn.params["branches"])
        elif name == "shard_map":  # its program is that of one shard
            total += _shards(eqn.params) * sum(count(inner) for inner in _inner(eqn.params))
        elif name == "pallas_call":
            total += math.prod(eqn.params["grid_mapping"].grid) * count(eqn.params["jaxpr"])
        else:
            total += sum(count(inner) for inner in _inner(eqn.params))
    return total


def peak(device: jax.Device) -> tuple[float | None, str]:
    """(FLOP/s of one device at most, where the number is from); None where nothing is known about it.

    The cores of a CPU are shared by all devices that jax makes of them, so its measured peak is split.
    """
    if device.platform == "cpu":
        return measure_peak() / jax.local_device_count(), "measured on this CPU, float32 matrix product"
    for kind, flops in PEAKS.items():
        if kind in device.device_kind:
            return flops, f"data sheet of {kind}, bfloat16"
    return None, f"no peak known for '{device.device_kind}'"


def measure_peak(size: int = 1024, repeats: int = 5) -> float:
    """FLOP/s of the fastest of a few float32 products of `size` x `size` matrices on this process's device."""
    with jax.default_device(jax.local_devices()[0]):
        matrix = jnp.ones((size, size), jnp.float32)
        product = jax.jit(jnp.matmul)
        product(matrix, matrix).block_until_ready()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            product(matrix, matrix).block_until_ready()
            times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _dot(eqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval
    return 2.0 * np.prod(eqn.outvars[0].aval.shape) * math.prod(lhs.shape[d] for d in contracted)


def _conv(eqn) -> float:
    # Each output value sums over the window and the input channels of its group, which the kernel holds.
    kernel, layout = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
    return 2.0 * np.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / kernel[layout[0]]


def _shards(params: dict) -> int:
    """Parts that a shard_map splits its arrays into."""
    dimensions = [dim for spec in params["in_specs"] + params["out_specs"] for dim in spec if dim]
    axes = {axis for dim in dimensions for axis in ((dim,) if isinstance(dim, str) else dim)}
    return math.prod(params["mesh"].shape[axis] for axis in axes)


def _inner(params: dict) -> list[Any]:
    """The programs inside an equation's parameters (calls, custom derivatives, checkpoints, loops)."""
    found = []
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if hasattr(item, "eqns") or hasattr(getattr(item, "jaxpr", None), "eqns"):
                found.append(item)
    return found

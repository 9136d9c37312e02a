"""What a run is about, before it runs: parameters, shardings, FLOPs and memory; and where it ran."""

import importlib.metadata
import math
import os
import platform
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vfm import rules

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "av", "numpy")


def parameter_table(params: Any, shardings: Any = None, depth: int = 0) -> str:
    """A line for each parameter (name, shape, type, how it is split), or for each group of the first `depth` names."""
    leaves = rules.flatten(params)
    total = sum(math.prod(leaf.shape) for leaf in leaves.values())
    if depth:
        groups: dict[str, int] = {}
        for path, leaf in leaves.items():
            group = "/".join(path.split("/")[:depth])
            groups[group] = groups.get(group, 0) + math.prod(leaf.shape)
        rows = [(name, f"{size:,}", f"{size / total:.1%}") for name, size in groups.items()]
    else:
        specs = {path: s.spec for path, s in rules.flatten(shardings).items()} if shardings else {}
        rows = [
            (
                path,
                f"{math.prod(leaf.shape):,}",
                "x".join(map(str, leaf.shape)),
                str(leaf.dtype),
                ", ".join(_axis(a) for a in specs[path]) if any(specs.get(path, ())) else "",
            )
            for path, leaf in leaves.items()
        ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    align = [str.ljust, str.rjust] + [str.ljust] * len(widths)
    lines = ["  ".join(align[i](cell, widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]
    return "\n".join([*lines, f"{'total'.ljust(widths[0])}  {total:,} parameters"])


def environment(mesh: Mesh) -> dict[str, Any]:
    """Versions, devices and the machine, as environment.json holds them."""
    device = mesh.devices.flat[0]
    return dict(
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        platform=device.platform,
        device=device.device_kind,
        devices=mesh.devices.size,
        processes=jax.process_count(),
        mesh=dict(mesh.shape),
        cpu_cores=os.cpu_count(),
        system=platform.platform(),
        command=" ".join(os.path.relpath(a) if os.path.isabs(a) else a for a in sys.argv),
    )


def memory(compiled: Any) -> str | None:
    """Memory of one device as the compiler plans it, in words; None where the backend does not tell."""
    planned = compiled.memory_analysis()
    if planned is None:
        return None
    kept = planned.argument_size_in_bytes + planned.output_size_in_bytes - planned.alias_size_in_bytes
    return (
        f"{_size(kept + planned.temp_size_in_bytes)} a device: {_size(planned.argument_size_in_bytes)} state and "
        f"batch, {_size(planned.temp_size_in_bytes)} temporary"
    )


def _axis(axis: Any) -> str:
    return "-" if axis is None else "+".join(axis) if isinstance(axis, tuple) else axis


def _size(count: float) -> str:
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = min(int(np.log2(max(count, 1)) // 10), len(units) - 1)
    return f"{count / 1024**power:.1f} {units[power]}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

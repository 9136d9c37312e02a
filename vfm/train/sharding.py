"""The mesh of devices, and where parameters and batches lie on it.

Axes: `data` copies parameters, `fsdp` splits parameters and batch, `tensor` splits parameters and the work of a
layer. The compiler adds the communication (jit with Auto axes).
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vfm import rules
from vfm.errors import UserError

log = logging.getLogger(__name__)
AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(shape: Mapping[str, int]) -> Mesh:
    """A mesh of all devices; one of the axis sizes may be -1, the devices that the others leave.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    sizes = {axis: int(shape[axis]) for axis in AXES}
    devices, text = (
        len(jax.devices()),
        ", ".join(f"config.mesh.{axis}={size}" for axis, size in sizes.items()),
    )
    rest = [axis for axis, size in sizes.items() if size == -1]
    if len(rest) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"{text}: expected positive numbers, and -1 (the remaining devices) at most once")
    known = math.prod(size for size in sizes.values() if size != -1)
    if rest and devices % known == 0:
        sizes[rest[0]] = devices // known
    if math.prod(sizes.values()) != devices:
        raise UserError(
            f"{text}: the sizes must multiply to the {devices} devices that there are; -1 fills one"
        )
    # Process after process rather than along the wires of a torus: so each host supplies neighbouring rows.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    shaped = np.array(ordered).reshape(tuple(sizes.values()))
    return Mesh(shaped, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(batch_size: int, accumulate: int, mesh: Mesh, key: str = "config.batch_size") -> None:
    """Raise a UserError where the mesh does not divide the batch."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (shards * accumulate):
        near = max(1, round(batch_size / (shards * accumulate))) * shards * accumulate
        raise UserError(
            f"{key}={batch_size} does not divide by mesh data x fsdp = {mesh.shape['data']} x "
            f"{mesh.shape['fsdp']} times config.accumulate={accumulate}; expected a multiple of "
            f"{shards * accumulate}: set it to {near}, or change config.mesh or config.accumulate"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 of every array of a batch over data and fsdp."""
    return NamedSharding(mesh, BATCH)


def local_rows(mesh: Mesh, batch_size: int) -> slice:
    """The rows of a global batch that this process has to supply."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    spans = sorted({index[0].indices(batch_size)[:2] for index in indices})
    for (_, stop), (start, _) in zip(spans, spans[1:], strict=False):
        if start != stop:
            raise UserError(
                f"mesh {dict(mesh.shape)}: the devices of process {jax.process_index()} hold rows {spans} of the "
                "batch, which are not contiguous; order the mesh so that a process keeps neighbouring rows"
            )
    return slice(spans[0][0], spans[-1][1])


def state_shardings(sharding_rules: rules.Rules, state: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """A sharding for every array of the state: parameters by rules, their moments and averages like them.

    A rule names the mesh axes of a parameter's LAST dimensions, so that a leading axis of stacked layers stays
    whole: ("fsdp", "tensor") splits [layers, in, out] as (whole, fsdp, tensor). "" leaves a dimension whole, and
    so does an axis that does not divide it.
    """
    axes_of = _axes(sharding_rules, state["params"])
    undivided = []

    def place(key, leaf):
        name = rules.path_name(key)
        part, _, path = name.removeprefix("opt/").partition("/")
        if part not in ("params", "ema", "mu", "nu"):
            return NamedSharding(mesh, PartitionSpec())
        axes = axes_of[path][-leaf.ndim :] if leaf.ndim else ()
        spec = [None] * (leaf.ndim - len(axes)) + [axis or None for axis in axes]
        for dim, axis in enumerate(spec):
            if axis and leaf.shape[dim] % mesh.shape[axis]:
                spec[dim] = None
                if part == "params":
                    undivided.append(f"{path} {tuple(leaf.shape)} by {axis}={mesh.shape[axis]}")
        return NamedSharding(mesh, PartitionSpec(*spec))

    placed = jax.tree_util.tree_map_with_path(place, state)
    if undivided:
        log.info(f"note: not split, the mesh axis does not divide the dimension: {'; '.join(undivided)}")
    return placed


def _axes(sharding_rules: rules.Rules, params: Any) -> dict[str, tuple[str, ...]]:
    """{parameter path: mesh axes of its last dimensions}."""
    for regex, axes in sharding_rules:
        for axis in axes:
            if axis and axis not in AXES:
                raise UserError(
                    f"config.sharding_rules: '{regex}' names the axis '{axis}'; "
                    f"expected {', '.join(AXES)} or '' for a dimension that stays whole"
                )
    # Match indices of rules: a tuple of axes would be taken for a subtree.
    indexed = [(regex, index) for index, (regex, _) in enumerate(sharding_rules)]
    winners = rules.flatten(rules.match(indexed, params, "config.sharding_rules"))
    return {path: tuple(sharding_rules[index][1]) for path, index in winners.items()}

"""Tensor names and layouts of an original model <-> paths and layouts of our parameters, strictly both ways.

A rule is `(pattern, target, transform)`: the pattern matches a whole original name; the target is a path of ours
in which `\\1` stands for a group of the pattern. A target may end in

  `[3]`, `[3][1]`  one layer (and direction, ...) of a parameter that is stacked over its leading axes
  `#0/3`           one of three equal parts along the last axis, as separate q, k and v in a fused kernel

None means that the tensor is deliberately unused, COPY that it is no parameter of its own: another tensor stored a
second time (tied weights), or a constant. The first rule that matches wins.
"""

import re
from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from vfm.errors import UserError
from vfm.parts import nearest

Shape = tuple[int, ...]
Tree = dict[str, Any]


class Transform(NamedTuple):
    """A change of layout and its inverse, which is given the original shape."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray, Shape], np.ndarray]


def _conv_to_rows(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, (0, 1), (-1, -2)).reshape(-1, x.shape[0])


def _rows_to_conv(x: np.ndarray, shape: Shape) -> np.ndarray:
    width, channels, *kernel = shape
    return np.moveaxis(x.reshape(*kernel, channels, width), (-1, -2), (0, 1))


TRANSFORMS = {
    "same": Transform(lambda x: x, lambda x, shape: x),
    # torch Linear [out, in] -> kernel [in, out]
    "linear": Transform(lambda x: rearrange(x, "o i -> i o"), lambda x, shape: rearrange(x, "i o -> o i")),
    # torch Conv [D, C, t, p, p] with stride = kernel -> kernel [(t p p c), D]
    "conv": Transform(_conv_to_rows, _rows_to_conv),
    # [1, N, D] -> [N, D]
    "first": Transform(lambda x: x.reshape(x.shape[1:]), lambda x, shape: x.reshape(shape)),
}

COPY = "="
Rule = tuple[str, str | None, str | Transform]


@dataclass(frozen=True)
class Slot:
    """Where one original tensor goes."""

    path: str
    index: tuple[int, ...]
    part: int
    parts: int
    transform: Transform


class Mapping:
    """The mapping of the tensors of one model.

    Args:
      rules: see the module's docstring.
      shapes: the original tensors' names and shapes.

    Raises:
      UserError: a tensor that no rule knows, or two tensors for one place.
    """

    def __init__(self, rules: Iterable[Rule], shapes: MappingType[str, Shape]):
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.unused: list[str] = []  # tensors that a rule leaves out
        self.copies: list[str] = []  # tensors that are no parameters of their own
        self.slots: dict[str, Slot] = {}
        rules = [(re.compile(pattern), target, transform) for pattern, target, transform in rules]
        unknown = [name for name in self.shapes if not self._place(name, rules)]
        if unknown:
            raise UserError(f"{len(unknown)} tensors that no rule maps: {_some(unknown)}")
        taken: dict[tuple, str] = {}
        for name, slot in self.slots.items():
            place = (slot.path, slot.index, slot.part)
            if place in taken:
                raise UserError(f"tensors '{taken[place]}' and '{name}' both map to '{slot.path}'")
            taken[place] = name
        self.ours = self._our_shapes()

    def _place(self, name: str, rules: list) -> bool:
        for pattern, target, transform in rules:
            match = pattern.fullmatch(name)
            if match is None:
                continue
            if target is None:
                self.unused.append(name)
            elif target == COPY:
                self.copies.append(name)
            else:
                path, indices, part, parts = re.fullmatch(
                    r"([^\[#]+)((?:\[\d+\])*)(?:#(\d+)/(\d+))?", match.expand(target)
                ).groups()
                self.slots[name] = Slot(
                    path,
                    tuple(int(i) for i in re.findall(r"\d+", indices)),
                    int(part or 0),
                    int(parts or 1),
                    transform if isinstance(transform, Transform) else TRANSFORMS[transform],
                )
            return True
        return False

    def _our_shapes(self) -> dict[str, Shape]:
        """Shapes of our parameters by path, from the original shapes alone (no memory is used)."""
        zero, shapes = np.zeros((), np.float32), {}
        for path, members in self._members().items():
            sizes = set()
            for name, slot in members:
                shape = slot.transform.to_ours(np.broadcast_to(zero, self.shapes[name])).shape
                sizes.add((*shape[:-1], shape[-1] * slot.parts) if slot.parts > 1 else shape)
            if len(sizes) > 1:
                raise UserError(f"tensors of '{path}' differ in shape: {_some(n for n, _ in members)}")
            slots = [slot for _, slot in members]
            leading = tuple(max(axis) + 1 for axis in zip(*(slot.index for slot in slots), strict=True))
            expected = int(np.prod(leading)) * slots[0].parts
            if len(slots) != expected:
                raise UserError(
                    f"'{path}' needs {expected} tensors, found {len(slots)}: {_some(n for n, _ in members)}"
                )
            shapes[path] = (*leading, *sizes.pop())
        return shapes

    def _members(self) -> dict[str, list[tuple[str, Slot]]]:
        members: dict[str, list] = {}
        for name, slot in self.slots.items():
            members.setdefault(slot.path, []).append((name, slot))
        return members

    def check(self, template: Tree) -> None:
        """UserError unless the mapped tensors fill `template` (a tree of anything with a shape) exactly."""
        wanted = {path: tuple(leaf.shape) for path, leaf in flatten(template).items()}
        missing = sorted(wanted.keys() - self.ours.keys())
        unexpected = sorted(self.ours.keys() - wanted.keys())
        wrong = [
            f"{p} {self.ours[p]}, expected {wanted[p]}"
            for p in wanted
            if self.ours.get(p, wanted[p]) != wanted[p]
        ]
        problems = [
            f"{len(names)} {what}: {_some(names)}"
            for what, names in (
                ("parameters that nothing fills", missing),
                ("tensors without a parameter", unexpected),
                ("wrong shapes", wrong),
            )
            if names
        ]
        if problems:
            raise UserError("; ".join(problems))

    def to_ours(self, tensors: MappingType[str, np.ndarray], template: Tree | None = None) -> Tree:
        """Our parameter tree of numpy arrays; checked against `template` if it is given."""
        missing, unexpected = self.shapes.keys() - tensors.keys(), tensors.keys() - self.shapes.keys()
        if missing or unexpected:
            missing, unexpected = (_some(sorted(names)) or "none" for names in (missing, unexpected))
            raise UserError(f"tensors missing: {missing}; unexpected: {unexpected}")
        if template is not None:
            self.check(template)
        flat = {}
        for path, members in self._members().items():
            for name, slot in members:
                value = slot.transform.to_ours(np.asarray(tensors[name]))
                whole = flat.setdefault(path, np.empty(self.ours[path], value.dtype))
                _part(whole[(*slot.index, ...)], slot)[...] = value
        return unflatten(flat)

    def to_theirs(self, tree: Tree) -> dict[str, np.ndarray]:
        """A tree of our shapes (parameters, gradients) under the original names and in the original layout."""
        flat = flatten(tree)
        lost = self.ours.keys() - flat.keys()
        if lost:
            raise UserError(f"parameters missing: {_some(sorted(lost))}{nearest(min(lost), flat)}")
        return {
            name: slot.transform.to_theirs(
                _part(np.asarray(flat[slot.path])[slot.index], slot), self.shapes[name]
            )
            for name, slot in self.slots.items()
        }


def _part(whole: np.ndarray, slot: Slot) -> np.ndarray:
    """A view of the slot's part along the last axis."""
    if slot.parts == 1:
        return whole
    size = whole.shape[-1] // slot.parts
    return whole[..., slot.part * size : (slot.part + 1) * size]


def _some(names: Iterable[str], limit: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested dict by "/"-joined path."""
    if not isinstance(tree, MappingType):
        return {prefix: tree}
    return {
        path: leaf
        for key, child in tree.items()
        for path, leaf in flatten(child, f"{prefix}/{key}" if prefix else key).items()
    }


def unflatten(flat: MappingType[str, Any]) -> Tree:
    """Inverse of `flatten`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree

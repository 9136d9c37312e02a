"""Files that hold numbers, or names and shapes, of an original model.

`FAMILY.VARIANT.safetensors`: weights, inputs, outputs and gradients of a tiny model with random weights.
`FAMILY.VARIANT.names.json`: tensor names, shapes and the parameter total of a published size.
Only safetensors and JSON are read: neither can execute anything.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vfm.errors import UserError

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Golden:
    """Numbers of an original model; tensors are numpy arrays under their original names."""

    path: Path
    family: str
    variant: str
    config: dict[str, Any]  # the original's constructor arguments
    metadata: dict[str, str]
    groups: dict[str, Tensors] = field(repr=False)  # "weights", "input", "output", "grad" and others

    @property
    def weights(self) -> Tensors:
        return self.groups.get("weights", {})

    @property
    def inputs(self) -> Tensors:
        return self.groups.get("input", {})

    @property
    def expected(self) -> Tensors:
        """All results: "output/NAME", "grad/NAME" and whatever else is neither a weight nor an input."""
        return keyed(**{g: t for g, t in self.groups.items() if g not in ("weights", "input")})


@dataclass(frozen=True)
class Names:
    """Names and shapes of an original model of a published size."""

    path: Path
    family: str
    variant: str
    config: dict[str, Any]
    metadata: dict[str, Any]
    tensors: dict[str, tuple[int, ...]] = field(repr=False)
    params: int


def keyed(**groups: Mapping[str, Any]) -> dict[str, Any]:
    """`keyed(output={"loss": x}, grad={...})` is `{"output/loss": x, "grad/...": ...}`."""
    return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}


def read(path: str | Path) -> Golden | Names:
    """Read a golden file or a names file.

    Raises:
      UserError: there is no such file, or it is not one of the two kinds.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.name.endswith(".names.json"):
        return _read_names(path)
    if path.suffix == ".safetensors":
        return _read_golden(path)
    raise UserError(f"{path}: expected a file FAMILY.VARIANT.safetensors or FAMILY.VARIANT.names.json")


def _read_golden(path: Path) -> Golden:
    groups: dict[str, Tensors] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            for key in file.keys():
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
        config = json.loads(metadata.get("config", "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a readable golden file ({error})") from error
    family, variant = _family_and_variant(path.name.removesuffix(".safetensors"), metadata.get("family"))
    return Golden(path, family, variant, config, metadata, groups)


def _read_names(path: Path) -> Names:
    try:
        content = json.loads(path.read_text())
        tensors = {name: tuple(shape) for name, shape in content.pop("tensors").items()}
        config, params = content.pop("config"), int(content.pop("params"))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: not a names file: no valid tensors, config and params ({error!r})"
        ) from error
    family, variant = _family_and_variant(path.name.removesuffix(".names.json"), content.get("family"))
    return Names(path, family, variant, config, content, tensors, params)


def _family_and_variant(stem: str, family: str | None) -> tuple[str, str]:
    """The family as the file says, else the file name up to its first dot; the variant is the rest of the name."""
    family = family or stem.partition(".")[0]
    return family, stem.removeprefix(family).removeprefix(".")

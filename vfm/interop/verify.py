"""Do our models reproduce an original's numbers?  `python -m vfm.interop.verify FILE...`

Prints a line for each output, loss and gradient with its largest error relative to the output's magnitude, then
`N passed, M failed`; exits with 0 only if all pass. A names file passes if all its names and shapes map and the
parameter totals are equal.
"""

import argparse
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import jax
import numpy as np

import vfm.interop
from vfm.errors import UserError
from vfm.interop.golden import Golden, Names, read
from vfm.interop.mapping import flatten
from vfm.parts import nearest

FURTHER = ("eval.originals",)  # families of rooms above this one, found by name where they are installed
TOLERANCE = 3e-5  # exact against tanh GELU moves logits by 3e-4, float32 noise by less than 1e-5


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    passed: bool
    text: str
    left_out: bool = False  # what cannot be compared here; neither passed nor failed


def families() -> dict[str, ModuleType]:
    """The module of each family that is known."""
    found = {}
    names = [entry.name for entry in pkgutil.walk_packages(vfm.interop.__path__, "vfm.interop.")]
    for name in (*names, *filter(_installed, FURTHER)):
        module = importlib.import_module(name)
        found |= dict.fromkeys(getattr(module, "FAMILIES", ()), module)
    return found


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None


def family_module(family: str) -> ModuleType:
    """The module of one family; UserError names the nearest known one."""
    known = families()
    if family not in known:
        raise UserError(f"no family '{family}'{nearest(family, known)}; known: {', '.join(sorted(known))}")
    return known[family]


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest absolute difference over the largest magnitude of the original; not finite where ours is not.

    Where the original is not finite, ours has to be the same.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    equal = ~np.isfinite(theirs) & ((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    ours, theirs = ours[~equal], theirs[~equal]
    if theirs.size == 0:
        return 0.0
    scale = np.abs(theirs).max()
    return float(np.abs(ours - theirs).max() / (scale if scale > 0 else 1.0))


def verify(path: str) -> Iterator[Check]:
    """All checks of one file; whatever stops them is a failed check of its own."""
    try:
        file = read(path)
        module = family_module(file.family)
        yield from _golden(file, module) if isinstance(file, Golden) else _names(file, module)
    except UserError as error:
        yield Check("error", False, str(error))
    except Exception as error:  # a file that lies about its family must not hide the other files' results
        yield Check("error", False, f"{type(error).__name__}: {error}")


def _golden(golden: Golden, module: ModuleType) -> Iterator[Check]:
    tolerance = getattr(module, "TOLERANCE", TOLERANCE)
    exceptions = getattr(module, "NOISY", {}).get(f"{golden.family}.{golden.variant}", {})
    if not golden.expected:
        raise UserError(f"{golden.path}: holds no output to compare with")
    # Checks at 3e-5 need products in true float32, also where a platform's default is less.
    with jax.default_matmul_precision("highest"):
        found = {name: np.asarray(value) for name, value in module.evaluate(golden).items()}
    for name, theirs in golden.expected.items():
        ours = found.get(name)
        if ours is None and (why := getattr(module, "optional", lambda golden, name: "")(golden, name)):
            yield Check(name, True, why, left_out=True)
        elif ours is None:
            yield Check(name, False, "not computed")
        elif ours.shape != theirs.shape:
            yield Check(name, False, f"shape {ours.shape}, expected {theirs.shape}")
        elif theirs.dtype.kind in "biu":
            wrong = int((ours != theirs).sum())
            yield Check(name, wrong == 0, f"{wrong} of {theirs.size} differ")
        else:
            error, allowed = relative_error(ours, theirs), exceptions.get(name, tolerance)
            note = f" ({allowed:.0e} allowed: the original's own noise)" if name in exceptions else ""
            yield Check(name, error <= allowed, f"{error:.1e}{note}")


def _names(names: Names, module: ModuleType) -> Iterator[Check]:
    mapping, template = module.template(names)
    try:
        mapping.check(template)
        text = f"{len(mapping.slots)} tensors map" + (
            f", {len(mapping.unused)} unused" if mapping.unused else ""
        )
        yield Check("names and shapes", True, text)
    except UserError as error:
        yield Check("names and shapes", False, str(error))
    total = sum(int(np.prod(leaf.shape)) for leaf in flatten(template).values())
    total += sum(int(np.prod(names.tensors[name])) for name in mapping.unused)
    yield Check("parameters", total == names.params, f"{total:,}, original {names.params:,}")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m vfm.interop.verify", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help="FAMILY.VARIANT.safetensors or .names.json")
    passed = failed = left_out = 0
    for path in parser.parse_args(arguments).files:
        print(path)
        for check in verify(path):
            left_out += check.left_out
            passed, failed = passed + (check.passed and not check.left_out), failed + (not check.passed)
            word = "--  " if check.left_out else "ok  " if check.passed else "FAIL"
            print(f"  {word}  {check.name:<60} {check.text}", flush=True)
    print(f"{passed} passed, {failed} failed" + (f", {left_out} left out" if left_out else ""))
    return 0 if failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

"""SPEC: what a configuration or a command line may say a source of videos is.

"clips.csv"            a path: a list file, a folder, one video, shards
"set.py" "set.py:arg"  a Python file whose `get_config()` (or `get_config(arg)`) returns any of these; of the config
                       of an experiment, `data.train` counts
{"path": ..., ...}     a path with options: `format` ("auto", or a name of `input_pipeline.formats`), `root` (what paths
                       in a list are relative to), `column` (of captions), `skip` (a list of samples to leave out),
                       and those of the format, such as `template`, `split`, `labels`
{"sources": {...}}     a mixture of named sources, see `input_pipeline.mixture`
"""

import difflib
import importlib.util
import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vfm.errors import UserError

Spec = str | os.PathLike | Mapping[str, Any]
_CONFIG = re.compile(r"^(.*\.py)(?::(.*))?$")


def resolve(spec: Spec, key: str = "data.train") -> dict[str, Any]:
    """A spec as a mapping with `path` (a path, no config file) or `sources`.

    Args:
      key: the configuration key that `spec` comes from, for messages.

    Raises:
      UserError: it is no spec, or its config file cannot be used.
    """
    if is_mapping(spec):
        found = _plain(spec)
        if ("path" in found) == ("sources" in found):
            raise UserError(
                f"{key} is a mapping with {', '.join(map(str, found)) or 'no keys'}; expected 'path' (a source) or "
                f"'sources' (a mixture)"
            )
        if "sources" in found:
            return found
        path = found.pop("path")
        return resolve(path, key) | found
    if not isinstance(spec, str | os.PathLike):
        raise UserError(f"{key}={spec!r}: expected a path or a mapping with 'path'")
    match = _CONFIG.match(os.fspath(spec))
    if not match:
        return {"path": os.fspath(spec)}
    return resolve(_from_file(Path(match[1]).expanduser(), match[2], key), key)


def _plain(value: Any) -> Any:
    """Dicts instead of configs, all the way down."""
    return {name: _plain(part) for name, part in value.items()} if is_mapping(value) else value


def is_mapping(spec: Any) -> bool:
    """Whether a spec is a mapping: a dict, or a config, which is none by its type."""
    return isinstance(spec, Mapping) or hasattr(spec, "items")


def describe(spec: Spec) -> str:
    """A spec in a word, for messages and titles: its path, or the names of a mixture."""
    if not is_mapping(spec):
        return os.fspath(spec)
    if "sources" in spec:
        return f"mixture of {', '.join(spec['sources'])}"
    return str(spec.get("path", ""))


def sibling(spec: Spec, split: str) -> Spec | None:
    """The spec of another split: `split`.csv beside the CSV (or a folder beside the folder), with the same options.

    None where there is no such file, or the spec names no file of its own.
    """
    if is_mapping(spec):
        beside = sibling(spec["path"], split) if spec.get("path") and not spec.get("split") else None
        return None if beside is None else dict(spec.items()) | {"path": beside}
    if not spec or _CONFIG.match(os.fspath(spec)):
        return None
    place = Path(spec)
    beside = place.with_name(split + place.suffix) if place.name else place
    return str(beside) if beside != place and beside.exists() else None


def absent(path: str | os.PathLike, key: str, expected: str) -> UserError:
    """The error that a path leads nowhere: of a local one, where it was looked for, and the nearest name there."""
    place = Path(path)
    remote = "://" in str(path)
    there = os.listdir(place.parent) if not remote and place.parent.is_dir() else []
    near = difflib.get_close_matches(place.name, there, n=1, cutoff=0.7)  # endings alone make names alike
    hint = f" (did you mean '{place.with_name(near[0])}'?)" if near else ""
    relative = not remote and not place.is_absolute()
    where = f" below {os.getcwd()}, which relative paths are relative to" if relative else ""
    return UserError(f"{key}='{path}': no such file or folder{where}{hint}; expected {expected}")


def folder_of(spec: Spec) -> Path:
    """The folder that a spec's file is in."""
    return Path(describe(spec)).parent


def _from_file(file: Path, argument: str | None, key: str) -> Spec:
    if not file.is_file():
        raise absent(file, key, "a Python file with get_config()")
    loader = importlib.util.spec_from_file_location(f"_source_{abs(hash(str(file.resolve())))}", file)
    module = importlib.util.module_from_spec(loader)
    try:
        loader.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{key}='{file}': does not run ({type(error).__name__}: {error})") from error
    make = getattr(module, "get_config", None)
    if not callable(make):
        raise UserError(f"{key}='{file}': has no get_config(); expected a function that returns a source")
    if argument is not None and not inspect.signature(make).parameters:
        raise UserError(
            f"{key}='{file}:{argument}': its get_config() takes no argument; leave ':{argument}' out"
        )
    found = make() if argument is None else make(argument)
    if is_mapping(found) and "data" in found:  # of an experiment
        data = found["data"]
        if not data.get("train"):
            raise UserError(f"{key}='{file}': its data.train is not set; expected a source")
        root = {"root": data["root"]} if data.get("root") else {}
        return root | resolve(data["train"], key)
    if isinstance(found, str | os.PathLike) and not os.fspath(found).startswith(str(file)):
        return found
    if is_mapping(found):
        return found
    raise UserError(
        f"{key}='{file}': get_config() returned {found!r}; expected a path or a mapping with 'path'"
    )

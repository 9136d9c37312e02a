"""A run's config: checked, measured in steps, written beside its checkpoints and compared when it resumes."""

import json
import math
import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.atomic import appearing
from input_pipeline.limits import check_loading, check_numbers
from input_pipeline.normalise import statistics
from vfm import rules
from vfm.errors import UserError
from vfm.parts import nearest

LENGTHS = ("total_steps", "total_epochs", "total_examples")
# What a checkpoint is made for: when one of these differs, its parameters belong to another model.
IDENTITY = ("model.", "objective.")
TOP = {"unroll": (0, math.inf, False)}
OPTIM = {
    "lr": (0, math.inf, False),
    "min_lr": (0, math.inf, False),
    "b1": (0, 1, False),
    "b2": (0, 1, False),
    "eps": (0, math.inf, False),
    "weight_decay": (0, math.inf, False),
    "clip": (0, math.inf, False),
}
DROPPED = {"drop_path": (0, 1, False), "dropout": (0, 1, False)}


def check(config: ConfigDict, *, need_data: bool = True) -> None:
    """Look for mistakes that no device and no file is needed to find; names of normalisations become numbers.

    Raises:
      UserError: names the key, the value found, what was expected and what to do.
    """
    if need_data and not config.data.train:
        raise UserError(
            "config.data.train is not set: it is the CSV file or the folder of videos to train on; "
            "add --config.data.train=PATH"
        )
    given = {key: config[key] for key in LENGTHS if config[key] is not None}
    if len(given) != 1:
        found = ", ".join(f"config.{key}={value}" for key, value in given.items()) or "none of them"
        names = ", ".join(f"config.{key}" for key in LENGTHS)
        raise UserError(
            f"how long to train: exactly one of {names} must be set, found {found}; unset with None"
        )
    positive = [*given, "batch_size", "accumulate", "max_bad_steps"]
    for key in positive:
        if config[key] <= 0:
            raise UserError(f"config.{key}={config[key]}: expected a number above 0")
    if not 0 <= config.ema < 1:
        raise UserError(f"config.ema={config.ema}: expected a decay from 0 (off) to below 1, such as 0.9999")
    if config.checkpoint.keep < 1:
        raise UserError(f"config.checkpoint.keep={config.checkpoint.keep}: expected at least 1")
    check_numbers(config, TOP, "config")
    check_numbers(config.optim, OPTIM, "config.optim")
    if not 0 < config.optim.layer_decay <= 1:
        raise UserError(
            f"config.optim.layer_decay={config.optim.layer_decay}: expected a factor above 0 and at most 1 (off)"
        )
    for group in ("model", "objective"):
        _check_dropped(config[group], f"config.{group}")
    check_loading(config.data)
    _check_rules(config)
    _statistics_as_numbers(config)


def _check_dropped(part: ConfigDict, name: str) -> None:
    """Rates of dropping, in a group of keys and those inside."""
    check_numbers(part, DROPPED, name)
    for key, inside in part.items():
        if isinstance(inside, ConfigDict):
            _check_dropped(inside, f"{name}.{key}")


def _check_rules(config: ConfigDict) -> None:
    """The form of rule lists; what they match is looked at with the parameters at hand."""
    for key, values in (("lr_rules", config.optim.lr_rules), ("decay_rules", config.optim.decay_rules)):
        rules.check(values, f"config.optim.{key}")
        for regex, value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UserError(f"config.optim.{key}: '{regex}' has the value {value!r}: expected at least 0")
    rules.check(config.sharding_rules, "config.sharding_rules")
    for regex, axes in config.sharding_rules:
        if not isinstance(axes, list | tuple) or not all(isinstance(axis, str) for axis in axes):
            raise UserError(
                f"config.sharding_rules: '{regex}' has the value {axes!r}: expected names of axes, such as "
                "('fsdp', '')"
            )


def _statistics_as_numbers(config: ConfigDict) -> None:
    """Puts numbers where a mean or a deviation is given by name (data.mean="clip"): all that follows reads numbers."""
    teachers = {f"config.teachers.{name}": keys for name, keys in config.get("teachers", {}).items()}
    for name, keys in ({"config.data": config.data} | teachers).items():
        mean, std = statistics(keys, name)
        if (mean, std) != (keys.mean, keys.std):
            with keys.ignore_type():
                keys.mean, keys.std = mean, std


def duration(
    text: str, *, total_steps: int, batch_size: int, examples: int | None, key: str = "duration"
) -> int:
    """Steps in `text`: "500 steps", "40 epochs", "1e6 examples" or "5%" (of `total_steps`); "" is 0.

    Args:
      total_steps: steps of the whole run.
      batch_size: examples of one step.
      examples: examples of one epoch, or None where the data is not known.
      key: what errors call it.
    """
    found = re.fullmatch(r"\s*([0-9.,_]+(?:e\+?[0-9]+)?)\s*(%|[a-z]*)\s*", text)
    try:
        amount = float(found[1].replace(",", "").replace("_", "")) if text.strip() else 0.0
        if not text.strip():
            return 0
    except (TypeError, ValueError):
        raise UserError(
            f"{key}='{text}' is no duration; expected a number and a unit: '500 steps', '40 epochs', '1e6 examples' "
            "or '5%'"
        ) from None
    unit = found[2].rstrip("s")
    if unit == "%":
        return round(amount / 100 * total_steps)
    if unit == "step":
        return round(amount)
    if unit == "example":
        return round(amount / batch_size)
    if unit == "epoch":
        if examples is None:
            raise UserError(
                f"{key}='{text}': how many examples an epoch has is not known here; give it in steps"
            )
        return round(amount * examples / batch_size)
    raise UserError(
        f"{key}='{text}': unknown unit '{found[2]}'{nearest(found[2], ['steps', 'epochs', 'examples'])}; "
        "expected steps, epochs, examples or %"
    )


def total_steps(config: ConfigDict, examples: int | None) -> int:
    """Steps of the run, at least 1; `examples` of one epoch are needed for `total_epochs` only."""
    if config.total_steps is not None:
        return int(config.total_steps)
    key = "total_epochs" if config.total_epochs is not None else "total_examples"
    text = f"{config[key]} {key.removeprefix('total_')}"
    units = dict(total_steps=0, batch_size=config.batch_size, examples=examples)
    return max(1, duration(text, key=f"config.{key}", **units))


def save_config(config: ConfigDict, workdir: str | Path) -> None:
    """Write WORKDIR/config.json; the old file stays until the new one is complete."""
    write_json(Path(workdir) / "config.json", config.to_dict())


def load_config(workdir: str | Path) -> ConfigDict:
    """The locked config of a run's folder.

    Raises:
      UserError: the folder has no config.json, or one that is no config of a run.
    """
    file = Path(workdir) / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"'{workdir}' is no run: it has no config.json; give the --workdir of a training run"
        ) from None
    except ValueError as error:
        raise UserError(
            f"'{file}' is not readable as JSON ({error}); restore it or start in another folder"
        ) from None
    groups = ("model", "data", "objective")
    if not isinstance(values, dict) or not all(isinstance(values.get(group), dict) for group in groups):
        raise UserError(
            f"'{file}' is no config of a run: expected an object with {', '.join(groups)}; restore it or give the "
            "folder of a training run"
        )
    return ConfigDict({key: _tuples(value) for key, value in values.items()}).lock()


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{dotted key: (old value, new value)} wherever the two differ; None for a key that one does not have."""
    old_values, new_values = _dotted(old.to_dict()), _dotted(new.to_dict())
    keys = sorted(old_values.keys() | new_values.keys())
    pairs = {key: (old_values.get(key), new_values.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if _tuples(pair[0]) != _tuples(pair[1])}


def check_same_model(old: ConfigDict, new: ConfigDict, workdir: str | Path) -> dict[str, tuple[Any, Any]]:
    """What changed since the run in `workdir` was saved, where that does not make another model of it.

    Raises:
      UserError: a key of the model or the objective differs.
    """
    changed = differences(old, new)
    # A key that the run's config did not know came later, with a default that changes nothing.
    known = _dotted(old.to_dict())
    other = {key: pair for key, pair in changed.items() if key.startswith(IDENTITY) and key in known}
    if other:
        listed = "; ".join(f"config.{key} was {was!r}, is {now!r}" for key, (was, now) in other.items())
        raise UserError(
            f"'{workdir}' holds checkpoints of another model: {listed}. Use another --workdir, or the old values; "
            "to start from parts of that run, set config.init.encoder to its folder"
        )
    return changed


def write_json(file: Path, values: Any) -> None:
    """Write a JSON file, whole or not at all."""
    replace_text(file, json.dumps(values, indent=2) + "\n")


def replace_text(file: Path, text: str) -> None:
    """Write a file so that a reader, or a run that starts after this one was killed, sees the old or the new one."""
    with appearing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def _tuples(value: Any) -> Any:
    """JSON knows lists only; configs hold tuples."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
    return value


def _dotted(values: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat

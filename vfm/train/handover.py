"""Parts of the parameters taken over from another run: an encoder handed from one stage to the next.

A part is a top-level entry of the parameters ("encoder", "text", "lm", ...). What is loaded, missing and unused is
logged; what does not fit stops the run unless `config.init.allow` names it. Learned position tables of an encoder for
clips of another size are resampled as the encoder itself resamples them at run time.
"""

import logging
import math
import re
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vfm import models, rules
from vfm.errors import UserError
from vfm.ops import positions
from vfm.train import checkpoint
from vfm.train import config as configs
from vfm.train.optim import merge

log = logging.getLogger(__name__)
Grid = tuple[int, int, int]
# Keys of an encoder that do not change what its parameters mean: rates, names of sizes, and initial values. Where they
# add or remove parameters (LayerScale), the report of these says so.
FREE = ("drop_path", "size", "init", "layer_scale")
LEARNED = ("learned", "learned_from_sincos")  # positions that differ in their initial values alone
FREE_LM = ("size", "vocab_size", "lora_rank", "lora_alpha")
SIZES = ("width", "depth", "heads", "kv_heads", "head_dim", "mlp_dim")  # 0 = those of the named size
NATIVE = ("frames", "image_size")  # keys that learned position tables are resampled over


def parts_of(init: ConfigDict) -> dict[str, str]:
    """{part: run folder} that `config.init` asks for."""
    return {key: run for key, run in init.items() if key not in ("run", "allow") and run}


def newest(run: str, key: str) -> int:
    """Step of the newest checkpoint of a run that a config key names.

    Raises:
      UserError: it has none.
    """
    there = checkpoint.steps(run)
    if not there:
        raise UserError(f"{key}: '{run}' has no complete checkpoint; give the --workdir of a training run")
    return there[-1]


def take_part(part: str, run: str, params: dict, config: ConfigDict) -> dict:
    """`params` with those of `part` taken from a run.

    Raises:
      UserError: there is no such part, another encoder, another shape, or parameters are missing or unused.
    """
    key = f"config.init.{part}='{run}'"
    if part not in params:
        raise UserError(f"{key}: this model has no part '{part}', it has {', '.join(params)}")
    stored, step = checkpoint.restore_params(run, newest(run, key))
    if part not in stored:
        raise UserError(f"{key}: the checkpoint has no part '{part}', it has {', '.join(stored)}")
    source, target = (rules.flatten({part: tree[part]}) for tree in (stored, params))
    if part == "lm":
        check_same_lm(key, configs.load_config(run).model.lm, config.model.lm)
    if part == "encoder":
        there = configs.load_config(run)
        check_same_encoder(key, there.model.encoder, config.model.encoder)
        source = resampled(source, target, there.model.encoder, config.model.encoder)
    loaded = [path for path in target if path in source]
    for path in loaded:
        if source[path].shape != target[path].shape:
            raise UserError(
                f"{key}: '{path}' has shape {source[path].shape} there and {target[path].shape} here; use the "
                f"keys of config.model.{part} of that run's config.json"
            )
    _report(key, part, run, step, target, source, config.init.allow)
    return merge(
        params, nested({path: jax.device_put(source[path], target[path].sharding) for path in loaded})
    )


def _report(key: str, part: str, run: str, step: int, target: dict, source: dict, allow: tuple) -> None:
    """Says what was loaded, missing and unused, and stops where that is not allowed."""
    missing = [path for path in target if path not in source]
    unused = [path for path in source if path not in target]
    loaded = [path for path in target if path in source]
    count = sum(target[path].size for path in loaded)
    log.info(
        f"{part} from step {step:,} of '{run}': loaded {len(loaded)} arrays ({count:,} parameters), "
        f"missing here: {', '.join(missing) or 'none'}; unused there: {', '.join(unused) or 'none'}"
    )
    strange = [path for path in missing + unused if not any(re.fullmatch(regex, path) for regex in allow)]
    if strange:
        kind = "not in the checkpoint" if strange[0] in missing else "not in this model"
        raise UserError(
            f"{key}: {len(strange)} parameters do not fit, first '{strange[0]}' ({kind}); make the configs agree, or "
            f"allow it: --config.init.allow=\"('{re.escape(strange[0])}',)\""
        )


def check_same_encoder(key: str, there: ConfigDict, here: ConfigDict) -> None:
    """Equal shapes are not yet an equal encoder: heads, positions and norms have none."""
    changed = configs.differences(_with_sizes(there), _with_sizes(here))
    free = (*FREE, *NATIVE) if str(here.get("positions", "")).startswith("learned") else FREE
    other = {
        name: pair
        for name, pair in changed.items()
        if name not in free and None not in pair and not _same_parameters(name, pair)
    }
    if other:
        listed = "; ".join(f"{name} is {was!r} there, {now!r} here" for name, (was, now) in other.items())
        native = [name for name in other if name in NATIVE]
        hint = (
            f" (fixed positions belong to the clip they were made for: leave {' and '.join(native)}, and change "
            "config.data.frames or config.data.size; positions are resampled at run time)"
            if native
            else ""
        )
        raise UserError(
            f"{key} is another encoder: {listed}; make config.model.encoder agree with that run's{hint}"
        )


def check_same_lm(key: str, there: ConfigDict, here: ConfigDict) -> None:
    """The same for a language model: heads, rotations and activations have no shapes that would tell."""
    changed = configs.differences(_with_sizes(there), _with_sizes(here))
    other = {name: pair for name, pair in changed.items() if name not in FREE_LM and None not in pair}
    if other:
        listed = "; ".join(f"{name} is {was!r} there, {now!r} here" for name, (was, now) in other.items())
        raise UserError(
            f"{key} is another language model: {listed}; make config.model.lm agree with that run's config.json"
        )


def _with_sizes(part: ConfigDict) -> ConfigDict:
    """A part's keys with the numbers that its named size stands for."""
    keys = part.to_dict()
    if keys["name"] not in ("vit", "mamba", "lm"):
        return part
    network = models.build(keys | ({"vocab_size": 1} if "vocab_size" in keys else {}))
    return ConfigDict(
        keys | {name: getattr(network, name) for name in SIZES if name in keys and hasattr(network, name)}
    )


def _same_parameters(name: str, pair: tuple) -> bool:
    """Whether a key's two values read the parameters that both have alike."""
    if name == "image_positions":
        return "own" in pair  # a table beside the others, for single frames
    return name == "positions" and set(pair) <= set(LEARNED)


def grid_of(encoder: ConfigDict) -> Grid:
    """The token grid of the clip that an encoder's position tables are made for."""
    size = encoder.image_size
    height, width = (size, size) if isinstance(size, int) else size
    patch = encoder.patch
    stride = encoder.get("stride", 0) or patch
    return (
        encoder.frames // encoder.tubelet, (height - patch) // stride + 1, (width - patch) // stride + 1,
    )  # fmt: skip


def resampled(source: dict, target: dict, there: ConfigDict, here: ConfigDict) -> dict:
    """{path: array} of an encoder with its learned position tables resampled to the target's grid."""
    old, new = grid_of(there), grid_of(here)
    kinds: dict[str, tuple[Grid, Grid]] = {
        "pos": (old, new),
        "space_pos": ((1, *old[1:]), (1, *new[1:])),
        "image_pos": ((1, *old[1:]), (1, *new[1:])),
        "time_pos": ((old[0], 1, 1), (new[0], 1, 1)),
    }
    changed = dict(source)
    for path, table in source.items():
        was, now = kinds.get(path.rpartition("/")[2], (None, None))
        if was != now and path in target:
            extra = len(table) - math.prod(was)  # rows of class tokens, which come first
            rows = positions.interpolate(np.asarray(table[extra:]), was, now)
            changed[path] = np.concatenate([table[:extra], np.asarray(rows)])
            log.info(f"{path}: resampled from a grid of {was} to one of {now}")
    return changed


def nested(flat: dict[str, Any]) -> dict:
    """The nested dict of "/"-joined paths."""
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = leaf
    return tree

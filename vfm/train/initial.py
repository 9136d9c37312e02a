"""The state that a run starts from: resumed, continued, put together from parts, or new."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vfm import rules
from vfm.errors import UserError
from vfm.train import checkpoint
from vfm.train import config as configs
from vfm.train.optim import merge

log = logging.getLogger(__name__)
State = dict[str, Any]
FREE = ("drop_path", "size")  # keys of an encoder that do not change what its parameters mean


def initial_state(
    config: ConfigDict, workdir: str | Path, step: int | None, new: Callable[[], State], like: State
) -> State:
    """The state to train on from.

    Args:
      config: the run's config; `config.init` says what to start from.
      workdir: the run's folder.
      step: its newest checkpoint, or None.
      new: makes a state from the seed, placed on the mesh.
      like: shapes and shardings of the state.

    Raises:
      UserError: a checkpoint does not fit the model.
    """
    # Where parameters come from; the first that applies:
    # 1. resume: this run has a checkpoint.
    if step is not None:
        log.info(f"resume from step {step:,} of '{workdir}'")
        return checkpoint.restore(workdir, step, like)
    # 2. continue another run: its parameters, optimiser and extra state; steps count from 0 again.
    parts = {key: run for key, run in config.init.items() if key not in ("run", "allow") and run}
    if config.init.run:
        if parts:
            raise UserError(
                f"config.init.run and config.init.{next(iter(parts))} are both set: a run is continued whole, or "
                "parts are taken; set one of them"
            )
        there = _newest(config.init.run, "config.init.run")
        log.info(f"continue from step {there:,} of '{config.init.run}', counting steps from 0")
        state = checkpoint.restore(config.init.run, there, like)
        return state | {"step": jax.device_put(np.zeros((), np.int32), like["step"].sharding)}
    state = new()
    # 3. take parts of the parameters from other runs, the rest is new.
    for part, run in parts.items():
        params = _take_part(part, run, state["params"], config.init.allow, config.model.encoder)
        state["params"] = params
        if "ema" in state:
            state["ema"] = jax.tree.map(lambda x: x.copy(), params)
    # 4. from scratch.
    if not parts:
        log.info(f"start from scratch, seed {config.seed}")
    return state


def _take_part(part: str, run: str, params: dict, allow: tuple[str, ...], encoder: ConfigDict) -> dict:
    """Parameters with those of `part` taken from a run; says what was loaded, missing and unused."""
    key = f"config.init.{part}='{run}'"
    if part not in params:
        raise UserError(f"{key}: this model has no part '{part}', it has {', '.join(params)}")
    stored, step = checkpoint.restore_params(run, _newest(run, key))
    if part == "encoder":
        _check_same_encoder(key, run, encoder)
    if part not in stored:
        raise UserError(f"{key}: the checkpoint has no part '{part}', it has {', '.join(stored)}")
    source = rules.flatten({part: stored[part]})
    target = rules.flatten({part: params[part]})
    loaded = [path for path in target if path in source]
    for path in loaded:
        if source[path].shape != target[path].shape:
            raise UserError(
                f"{key}: '{path}' has shape {source[path].shape} there and {target[path].shape} here; use the "
                "encoder's keys of that run's config.json"
            )
    missing = [path for path in target if path not in source]
    unused = [path for path in source if path not in target]
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
    return merge(
        params, _nested({path: jax.device_put(source[path], target[path].sharding) for path in loaded})
    )


def _check_same_encoder(key: str, run: str, encoder: ConfigDict) -> None:
    """Equal shapes are not yet an equal encoder: heads, positions and norms have none."""
    changed = configs.differences(configs.load_config(run).model.encoder, encoder)
    other = {name: pair for name, pair in changed.items() if name not in FREE and None not in pair}
    if other:
        listed = "; ".join(f"{name} is {was!r} there, {now!r} here" for name, (was, now) in other.items())
        raise UserError(
            f"{key} is another encoder: {listed}; make config.model.encoder agree with that run's"
        )


def _newest(run: str, key: str) -> int:
    there = checkpoint.steps(run)
    if not there:
        raise UserError(f"{key}: '{run}' has no complete checkpoint; give the --workdir of a training run")
    return there[-1]


def _nested(flat: dict[str, Any]) -> dict:
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = leaf
    return tree

"""The state that a run starts from: resumed, continued, put together from parts, or new."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vfm import rules
from vfm.errors import UserError
from vfm.train import checkpoint, tokenizer
from vfm.train.handover import newest, parts_of, take_part

log = logging.getLogger(__name__)
State = dict[str, Any]


def check_runs(config: ConfigDict, workdir: str | Path) -> None:
    """UserError that names a run of `config.init` without a checkpoint, before the data is opened."""
    if not checkpoint.steps(workdir):
        runs = parts_of(config.init) | ({"run": config.init.run} if config.init.run else {})
        for key, run in runs.items():
            newest(run, f"config.init.{key}")


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
    parts = parts_of(config.init)
    if config.init.run:
        if parts:
            raise UserError(
                f"config.init.run and config.init.{next(iter(parts))} are both set: a run is continued whole, or "
                "parts are taken; set one of them"
            )
        there = newest(config.init.run, "config.init.run")
        tokenizer.check_same(config, config.init.run, "config.init.run")
        log.info(f"continue from step {there:,} of '{config.init.run}', counting steps from 0")
        state = checkpoint.restore(config.init.run, there, like)
        return state | {"step": jax.device_put(np.zeros((), np.int32), like["step"].sharding)}
    check_frozen(config, like["params"])
    state = new()
    # 3. take parts of the parameters from other runs, the rest is new.
    for part, run in parts.items():
        if part in tokenizer.PARTS:
            tokenizer.check_same(config, run, f"config.init.{part}")
        params = take_part(part, run, state["params"], config)
        state["params"] = params
        if "ema" in state:
            state["ema"] = jax.tree.map(lambda x: x.copy(), params)
    # 4. from scratch.
    if not parts:
        log.info(f"start from scratch, seed {config.seed}")
    return state


def check_frozen(config: ConfigDict, params: State) -> None:
    """Nothing is learned from a part that is frozen as its seed made it, adapters (LoRA) or not.

    Args:
      params: parameters or their shapes.

    Raises:
      UserError: `config.optim.lr_rules` freeze a whole part that `config.init` neither fills nor says to be new ("").
    """
    rates = rules.match(config.optim.lr_rules, params, "config.optim.lr_rules")
    for part, factors in rates.items():
        flat = rules.flatten(factors)
        own = [factor for path, factor in flat.items() if not path.rpartition("/")[2].startswith("lora_")]
        if own and not any(own) and config.init.get(part, "") is None:
            raise UserError(
                f"config.optim.lr_rules freeze '{part}', which nothing has trained: take it from a run, "
                f"--config.init.{part}=DIR (scripts/convert.py makes one of a published checkpoint), or say "
                f"--config.init.{part}= to freeze what the seed makes"
            )

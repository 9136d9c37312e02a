"""Frozen probes inside training: `evaluator(config)` gives what the trainer calls every `config.eval.every`."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from eval import features, protocol, results, sources
from eval.encoder import FrozenEncoder
from vfm.errors import UserError
from vfm.train import checkpoint, cli


def _load(path: str) -> ConfigDict:
    if not Path(path.split(":", 1)[0]).is_file():
        raise UserError(
            f"config.eval.config='{path}' does not exist; give a file such as configs/eval/in_training.py"
        )
    config = cli.load(path)
    cli.check_kind(config, path, "an evaluation")
    return config


def _gather(params: Any) -> Any:
    """Whole arrays on this host, however they are split."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(params, tiled=True)
    return jax.device_get(params)


def evaluator(config: ConfigDict) -> Callable[[int, Any], dict[str, float]] | None:
    """`(step, params) -> {"eval/TASK/PROBE/LABELS": test accuracy}` of a run config; None where it asks for none.

    The probes are those of `config.eval.config`, at the seeds and grids given there. Nothing stays on disk.

    Raises:
      UserError: the evaluation config or its data is missing.
    """
    if not config.eval.every:
        return None
    if not config.eval.config:
        raise UserError(
            "config.eval.every is set but config.eval.config is not; give configs/eval/in_training.py"
        )
    probes = _load(config.eval.config)
    protocol.check(probes)
    if probes.protocol != "split":
        raise UserError(
            f"config.eval.config: protocol='{probes.protocol}' cannot run inside training; use 'split'"
        )

    def evaluate(step: int, params: Any) -> dict[str, float]:
        encoder_params = jax.tree.map(jnp.asarray, _gather(params["encoder"]))
        digest = checkpoint.sha256(encoder_params)
        encoder = FrozenEncoder("in_training", config, encoder_params, int(step), digest)
        cache = Path(tempfile.mkdtemp(prefix="features-"))
        try:
            specs = sources.specs_of(probes.data, [encoder])
            sets = features.collect([encoder], probes, cache, specs, quiet=True)
            rows, *_ = protocol.run(sets, probes, {}, quiet=True)
        finally:
            shutil.rmtree(cache, ignore_errors=True)
        return {"eval" + results.key(r).removeprefix("in_training"): r["accuracy"] for r in rows}

    return evaluate

"""Frozen encoders: a training run's folder, or the same network as it was before training.

Axes: B clips, T frames, H W pixels, N tokens, D width.
"""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from input_pipeline.text import batch_shapes
from vfm import models, objectives
from vfm.errors import UserError
from vfm.train import checkpoint
from vfm.train.config import load_config

RANDOM = "random:"


@partial(jax.jit, static_argnames=("module", "mean", "std"))
def _forward(params, video, module, mean: tuple[float, ...], std: tuple[float, ...]):
    x = (video.astype(jnp.float32) / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)
    return module.apply({"params": params}, x)


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder with fixed parameters, called with uint8 video; normalises as its run did."""

    name: str
    config: ConfigDict  # the run's
    params: Any
    step: int  # of the checkpoint; 0 for a random one
    sha256: str  # of the parameters
    stage: str = ""  # of its training: the objective's name, "untrained" for a random one

    def __post_init__(self):
        module = models.build(self.config.model.encoder, precision=self.config.precision)
        object.__setattr__(self, "module", module)

    def __call__(self, video: UInt8[Array, "B T H W 3"]) -> models.Features:
        """Tokens [B,N,D] and, where the encoder has one, cls [B,D]."""
        mean, std = tuple(self.config.data.mean), tuple(self.config.data.std)
        return _forward(self.params, video, module=self.module, mean=mean, std=std)

    def outputs(self) -> models.Features:
        """Shapes of what a call with one clip gives, without computing it."""
        return jax.eval_shape(self, blank_batch(self.config)["video"])

    def identity(self) -> dict:
        """What the features of a clip depend on, for the key of a cache."""
        return {
            "params": self.sha256,
            "encoder": _plain(self.config.model.encoder),
            "normalise": [list(self.config.data.mean), list(self.config.data.std)],
            "precision": self.config.precision,
            "platform": jax.default_backend(),
        }


def _plain(config) -> dict:
    return config.to_dict() if isinstance(config, ConfigDict) else dict(config)


def blank_batch(config: ConfigDict) -> dict[str, Float[Array, "..."]]:
    """A batch of one black clip (and image and text, where the run has them) with the shapes of the run's data."""
    with config.data.copy_and_resolve_references().unlocked() as data:
        data.image_batch = min(data.get("image_batch", 0), 1)
    return {name: jnp.zeros(shape, kind) for name, (shape, kind) in batch_shapes(data, 1).items()}


def initial_params(config: ConfigDict) -> dict:
    """Parameters of all the run's parts before its first step."""
    return jax.jit(objectives.build(config).init)(jax.random.key(config.seed), blank_batch(config))[0]


def split_spec(spec: str) -> tuple[str, str]:
    """(name, place) of "[NAME=]RUN_DIR" or "[NAME=]random:RUN_DIR"; see `load_encoder`."""
    found = re.match(r"([\w.-]+)=(.+)$", spec)
    name, place = found.groups() if found else ("", spec)
    return name or ("random" if place.startswith(RANDOM) else "pretrained"), place


def stage_of(config: ConfigDict, untrained: bool) -> str:
    """What results call the training stage that a run is, unless told otherwise."""
    return "untrained" if untrained else config.objective.name.rpartition(":")[2]


def check_names(names: list[str]) -> None:
    """UserError where two encoders have one name."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"--encoder: {names.count(name)} encoders are called '{name}'; write --encoder NAME=RUN_DIR"
            )


def load_encoder(spec: str, weights: str = "params", step: int = 0) -> FrozenEncoder:
    """The encoder that `spec` names: "[NAME=]RUN_DIR" or "[NAME=]random:RUN_DIR".

    RUN_DIR is the --workdir of a training run; "random:" is the same config initialised from the run's seed.
    NAME defaults to "pretrained" and "random". `weights`: params or ema; `step` 0 = the newest checkpoint.

    Raises:
      UserError: no config.json, no checkpoint, or no such weights in it.
    """
    name, place = split_spec(spec)
    random = place.startswith(RANDOM)
    run = Path(place.removeprefix(RANDOM))
    if not run.is_dir():
        raise UserError(f"encoder '{spec}': '{run}' is no folder; give the --workdir of a training run")
    config = load_config(run)
    if random:
        params, at = initial_params(config), 0
    else:
        params, at = checkpoint.restore_params(run, step=step or None, which=weights)
    if "encoder" not in params:
        raise UserError(
            f"encoder '{spec}': its parameters have no 'encoder', found: {', '.join(sorted(params))}"
        )
    params = params["encoder"]
    return FrozenEncoder(
        name,
        config,
        jax.tree.map(jnp.asarray, params),
        int(at),
        checkpoint.sha256(params),
        stage_of(config, random),
    )


def load_encoders(specs: list[str], weights: str = "params", step: int = 0) -> list[FrozenEncoder]:
    """All of them, under different names.

    Raises:
      UserError: two have one name, or none is given.
    """
    if not specs:
        raise UserError(
            "--encoder is missing: give the --workdir of a training run, and random:RUN_DIR beside it"
        )
    encoders = [load_encoder(spec, weights, step) for spec in specs]
    check_names([e.name for e in encoders])
    return encoders

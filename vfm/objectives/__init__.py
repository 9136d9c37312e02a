"""Objectives: what is learned. One file is one objective; `build(config)` makes the one that a config names.

An objective is pure and has
  init(rng, batch) -> (params, extra)        batch: arrays or their shapes
  loss(params, extra, batch, rng, step, teacher) -> (scalar, (metrics, extra))
  after_update(params) -> params             optional: clamps and normalisations after an optimiser step
  settle(params, extra, teacher) -> params   optional: parameters that follow from others than gradients (averages)
  contrasts: bool                            optional: whether the loss compares the samples of a batch with each other
  images: bool                               optional: whether it learns from `image` (`data.images`) too
where metrics are (sum, weight) pairs and `extra` holds what is neither learned nor constant.
"""

from typing import Any

from vfm import parts
from vfm.objectives.autoencoder import autoencoder
from vfm.objectives.captioner import captioner
from vfm.objectives.coca import coca
from vfm.objectives.contrast import contrast
from vfm.objectives.distill import distill
from vfm.objectives.masked import masked
from vfm.objectives.next_code import next_code
from vfm.objectives.next_patch import next_patch
from vfm.objectives.next_token import next_token
from vfm.objectives.together import together

__all__ = [
    "autoencoder",
    "build",
    "captioner",
    "coca",
    "contrast",
    "distill",
    "masked",
    "next_code",
    "next_patch",
    "next_token",
    "together",
]


def build(config: Any) -> Any:
    """The objective of a whole run config (`config.objective.name`; the others of its keys are the objective's)."""
    return parts.resolve(config.objective.name, "vfm.objectives")(config)

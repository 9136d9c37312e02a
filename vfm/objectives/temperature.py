"""The scale of similarities in a contrastive loss: learned or fixed, in the parametrisations that models publish."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vfm.errors import UserError
from vfm.models.layers import require

KINDS = ("log_scale", "temperature")


class Temperature:
    """logits = scale x cosine (+ bias), where scale = 1 / temperature.

    What is learned is "log_scale", the log of the scale (CLIP, SigLIP), or "temperature" itself (BLIP, UMT,
    InternVideo2), together with "bias" where there is one (SigLIP); a fixed scale is no parameter at all.
    The part's keys are explained by `contrast()` in configs/objectives.py; all are temperatures, whatever is learned.
    """

    def __init__(self, part: Mapping[str, Any], bias: float | None = None):
        self.kind, self.learned = part["kind"], part["learned"]
        require("objective.temperature.kind", self.kind, KINDS)
        self.start, self.low, self.high = part["init"], part["low"], part["high"]
        if not 0 <= self.low <= self.start <= (self.high or math.inf) or self.start == 0:
            raise UserError(
                f"config.objective.temperature: init={self.start}, low={self.low}, high={self.high}; expected "
                "0 <= low <= init <= high, init above 0 and high=0 for no upper bound"
            )
        self.bias = bias

    def init(self) -> dict[str, Array]:
        """The parameters, possibly none."""
        learned = {}
        if self.learned:
            start = -math.log(self.start) if self.kind == "log_scale" else self.start
            learned[self.kind] = jnp.asarray(start, jnp.float32)
        if self.bias is not None:
            learned["bias"] = jnp.asarray(self.bias, jnp.float32)
        return learned

    def scale(self, params: dict[str, Any]) -> Float[Array, ""]:
        """What cosines are multiplied with; `params` are those of the whole objective."""
        if not self.learned:
            return jnp.asarray(1 / self.start, jnp.float32)
        learned = params["scale"][self.kind]
        return jnp.exp(learned) if self.kind == "log_scale" else 1 / learned

    def clamp(self, params: dict[str, Any]) -> dict[str, Any]:
        """Parameters of the whole objective with the temperature moved into [low, high]."""
        if not self.learned:
            return params
        low, high = self.low, self.high or math.inf
        if self.kind == "log_scale":
            low, high = -math.log(high) if self.high else -math.inf, -math.log(low) if low else math.inf
        inside = jnp.clip(params["scale"][self.kind], low, high)
        return params | {"scale": params["scale"] | {self.kind: inside}}

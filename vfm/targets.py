"""Targets: what is predicted at the masked tokens.

A target is a part: called with its keywords it gives an object with
`dim(encoder) -> P` and `(batch, ids [B, M], encoder, teacher) -> [B, M, P]` (float32, no gradient).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from vfm.errors import UserError
from vfm.ops.patches import patchify, take


def unit_pixels(video: Array) -> Float[Array, "B T H W C"]:
    """Pixels in [0, 1] of a uint8 or an already scaled float video."""
    return video.astype(jnp.float32) / 255 if video.dtype == jnp.uint8 else video


@dataclass(frozen=True)
class pixels:  # noqa: N801 - parts are named as configs write them
    """Pixels in [0, 1] of the token's tubelet, standardised within it.

    norm: "channel" = each colour channel apart, unbiased variance, eps added to the deviation (VideoMAE);
      "patch" = all channels together, unbiased variance, eps added to the variance (MAE-ST); "none" = as they are.
    eps: a larger one (0.05) keeps flat patches flat instead of blowing up their noise.
    """

    norm: str = "channel"
    eps: float = 1e-6

    def __post_init__(self):
        if self.norm not in ("channel", "patch", "none"):
            raise UserError(f"target.norm='{self.norm}': expected 'channel', 'patch' or 'none'")

    def dim(self, encoder: Any) -> int:
        return 3 * encoder.tubelet * encoder.patch**2

    def __call__(self, batch: dict[str, Array], ids: Int[Array, "B M"], encoder: Any, teacher: Any) -> Array:
        tubelets = self._tubelets(batch, ids, encoder)
        mean, deviation = self._statistics(tubelets)
        return jax.lax.stop_gradient(rearrange((tubelets - mean) / deviation, "b m p c -> b m (p c)"))

    def to_pixels(
        self, prediction: Float[Array, "B M P"], batch: dict[str, Array], ids: Int[Array, "B M"], encoder: Any
    ) -> Float[Array, "B M P"]:
        """Prediction in pixels, un-standardised by the true tubelet's statistics (for pictures only)."""
        mean, deviation = self._statistics(self._tubelets(batch, ids, encoder))
        tubelets = rearrange(prediction, "b m (p c) -> b m p c", c=3) * deviation + mean
        return rearrange(tubelets, "b m p c -> b m (p c)")

    def _tubelets(self, batch, ids, encoder) -> Float[Array, "B M P C"]:
        # Gathered before conversion: most of the traffic is then uint8.
        chosen = take(patchify(batch["video"], encoder.tubelet, encoder.patch), ids)
        return rearrange(unit_pixels(chosen), "b m (p c) -> b m p c", c=3)

    def _statistics(self, tubelets: Float[Array, "B M P C"]) -> tuple[Array, Array]:
        if self.norm == "none":
            return jnp.zeros(()), jnp.ones(())
        axes = (2,) if self.norm == "channel" else (2, 3)
        mean = tubelets.mean(axes, keepdims=True)
        variance = tubelets.var(axes, keepdims=True, ddof=1)
        deviation = jnp.sqrt(variance) + self.eps if self.norm == "channel" else jnp.sqrt(variance + self.eps)
        return mean, deviation

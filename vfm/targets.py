"""Targets: what is predicted at the masked tokens.

A target is a part: called with its keywords it gives an object with
`dim(encoder, teachers) -> P` and `(batch, ids [B, M], encoder, looks) -> [B, M, P]` (float32, no gradient), where
`teachers` and `looks` hold frozen teachers and what they see in the batch, by name (`vfm.objectives.teachers`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from vfm.errors import UserError
from vfm.ops.patches import patchify, take

Looks = Mapping[str, Any]


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

    def dim(self, encoder: Any, teachers: Looks | None = None) -> int:
        return 3 * encoder.tubelet * encoder.patch**2

    def __call__(self, batch: dict[str, Array], ids: Int[Array, "B M"], encoder: Any, looks: Looks) -> Array:
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


def _unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


@dataclass(frozen=True)
class teacher_features:  # noqa: N801 - parts are named as configs write them
    """The last layers of a frozen teacher, token by token.

    teacher: its name in `config.teachers`.
    layers, interval: how many, and at which distance from one to the one before (3.34 where a teacher is deeper).
    norm: which of them pass the teacher's final norm: none | all | last.
    project: through the teacher's projection (CLIP's shared space).
    unit: scaled to unit length.
    cls: the class token too (`distill` only).
    """

    teacher: str = "clip"
    layers: int = 1
    interval: float = 1.0
    norm: str = "all"
    project: bool = False
    unit: bool = True
    cls: bool = False
    pooled = False

    def dim(self, encoder: Any, teachers: Looks) -> int:
        """Width of one layer's token; tells the teacher how many layers will be asked for."""
        teachers[self.teacher].will_show(1 + int((self.layers - 1) * self.interval))
        return teachers[self.teacher].width(self.project)

    def stack(self, looks: Looks, ids: Int[Array, "B M"]) -> Float[Array, "K B _ P"]:
        """The layers at the tokens `ids`, with the class token in front where `cls`."""
        look = looks[self.teacher]
        layers = look.layers(self.layers, self.interval, self.norm, self.project)
        rows = layers.shape[2] - look.grid[0] * look.grid[1] * look.grid[2]
        if self.cls and not rows:
            raise UserError(f"target.cls: teacher '{self.teacher}' has no class token; set it to False")
        # Gathered before the conversion to float32: most tokens are not asked for.
        chosen = jnp.take_along_axis(layers, (ids + rows)[None, :, :, None], axis=2)
        if self.cls:
            chosen = jnp.concatenate([layers[:, :, :1], chosen], axis=2)
        chosen = chosen.astype(jnp.float32)
        return jax.lax.stop_gradient(_unit(chosen) if self.unit else chosen)

    def __call__(self, batch: dict[str, Array], ids: Int[Array, "B M"], encoder: Any, looks: Looks) -> Array:
        if self.layers != 1 or self.cls:
            raise UserError(
                "a decoder predicts one layer and no class token: set target.layers=1, target.cls=False"
            )
        return self.stack(looks, ids)[0]


@dataclass(frozen=True)
class teacher_pooled:  # noqa: N801 - parts are named as configs write them
    """The pooled vector of a frozen teacher (for `distill`), scaled to unit length unless `unit` is false."""

    teacher: str = "clip"
    unit: bool = True
    pooled = True

    def dim(self, encoder: Any, teachers: Looks) -> int:
        """Width of the vector."""
        return teachers[self.teacher].pooled_width

    def vectors(self, looks: Looks) -> Float[Array, "B P"]:
        """A vector of each sample."""
        pooled = looks[self.teacher].pooled.astype(jnp.float32)
        return jax.lax.stop_gradient(_unit(pooled) if self.unit else pooled)

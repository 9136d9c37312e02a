"""What a student aligns with frozen teachers: layers of it with layers of a teacher, or pooled vectors.

A head is predictor x target x loss. `layer_head()` and `pooled_head()` in configs/objectives.py explain its keys.

Letters: B batch, L all layers, K those of a head, M tokens (class token first, then the visible ones), N visible
tokens, D width, P the teacher's width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vfm import models, parts
from vfm.errors import UserError
from vfm.models.alignment import Projection, last_layers
from vfm.models.layers import Norm
from vfm.targets import Looks


class Head(NamedTuple):
    """One thing that is aligned."""

    weight: float
    layers: tuple[int, ...]  # of the student; none where the pooled vectors are aligned
    cls: bool  # whether the class token is aligned as well
    predictor: Any
    target: Any
    loss: Any


class Watched(NamedTuple):
    """The student's view of a batch."""

    keep: Int[Array, "B N"]
    layers: Float[Array, "L B M D"]  # as `normed` gives them
    pooled: Float[Array, "B P"] | None
    grid: tuple[int, int, int]


class Heads:
    """All heads of `config.objective.heads`.

    Raises:
      UserError: none is named, or one needs what the student or the teachers do not have.
    """

    def __init__(
        self, config: Any, encoder: Any, pool: Any, teachers: Mapping[str, Any], run_time: dict[str, Any]
    ):
        if not config:
            raise UserError(
                "config.objective.heads is empty: name at least one thing that the student aligns"
            )
        self.encoder, self.pool, self.teachers = encoder, pool, teachers
        self.heads = {name: self._head(name, head, run_time) for name, head in config.items()}

    def _head(self, name: str, config: Any, run_time: dict) -> Head:
        target = parts.build(config.target, "vfm.targets")
        if target.teacher not in self.teachers:
            raise UserError(
                f"config.objective.heads.{name} learns from teacher '{target.teacher}': config.teachers has "
                f"{', '.join(self.teachers) or 'none'}"
            )
        loss, width = parts.build(config.loss, "vfm.losses"), target.dim(self.encoder, self.teachers)
        if target.pooled:
            if self.pool is None:
                raise UserError(
                    f"config.objective.heads.{name} aligns pooled vectors: set config.objective.pool"
                )
            predictor = Projection(width, precision=self.encoder.precision)
            return Head(config.weight, (), False, predictor, target, loss)
        predictor = models.build(
            config.predictor, out_dim=width, native=self.encoder.native, cls=target.cls, **run_time
        )
        layers = last_layers(self.encoder.depth, target.layers, config.interval)
        if target.cls and not self.encoder.cls_token:
            raise UserError(
                f"config.objective.heads.{name}.target.cls: the encoder has no class token; set it to False"
            )
        return Head(config.weight, layers, target.cls, predictor, target, loss)

    def init(self, rng: PRNGKeyArray, pooled: Float[Array, "1 P"] | None) -> dict[str, Any]:
        """Parameters by head."""
        params, ids = {}, jnp.zeros((1, 1), jnp.int32)
        for index, (name, head) in enumerate(self.heads.items()):
            layers = jnp.zeros((len(head.layers), 1, 1, self.encoder.width))
            inputs = (layers, ids) if head.layers else (pooled,)
            params[name] = head.predictor.init(jax.random.fold_in(rng, index), *inputs)["params"]
        return params

    def losses(self, params: dict, seen: Watched, looks: Looks) -> dict[str, Float[Array, "..."]]:
        """By head the losses of all layers, samples and tokens [K,B,M], or of all samples [B]."""
        return {name: self._losses(head, params[name], seen, looks) for name, head in self.heads.items()}

    def _losses(self, head: Head, params, seen: Watched, looks: Looks) -> Float[Array, "..."]:
        if not head.layers:
            prediction = head.predictor.apply({"params": params}, seen.pooled)
            return head.loss(prediction.astype(jnp.float32), head.target.vectors(looks))
        rows = int(self.encoder.cls_token)
        layers = seen.layers[np.array(head.layers)][:, :, 0 if head.cls else rows :]
        ids = seen.keep
        if head.cls:
            ids = jnp.concatenate([jnp.zeros_like(ids[:, :1]), ids + 1], axis=1)
        prediction = head.predictor.apply({"params": params}, layers, ids, seen.grid)
        return head.loss(prediction.astype(jnp.float32), head.target.stack(looks, seen.keep))


def normed(encoder: Any, params: Any, layers: Float[Array, "L B M D"]) -> Float[Array, "L B M D"]:
    """Layers behind the encoder's final norm, where it has one: the same for all, as Unmasked Teacher has it."""
    if "norm" not in params:
        return layers
    return Norm(encoder.norm, encoder.norm_eps).apply({"params": params["norm"]}, layers)


def check_grids(looks: Looks, grid: tuple[int, int, int]) -> None:
    """UserError where a teacher does not see the student's tokens."""
    for name, seen in looks.items():
        if seen.grid != grid:
            raise UserError(
                f"teacher '{name}' has {seen.grid} tokens (time, height, width), the student {grid}: choose "
                f"config.teachers.{name}.every and .size, and config.objective.every, so that they are equal"
            )


def importance(mask: Any, looks: Looks) -> Float[Array, "B N"] | None:
    """The weights of tokens that a mask follows, None where it follows no teacher.

    Raises:
      UserError: there is no such teacher.
    """
    asked = getattr(mask, "teacher", None)
    if asked is None:
        return None
    if asked not in looks:
        raise UserError(
            f"config.objective.mask follows teacher '{asked}': config.teachers has {', '.join(looks) or 'none'}"
        )
    return looks[asked].importance


def ask(mask: Any, teachers: Mapping[str, Any]) -> None:
    """Say before anything is computed that a mask will ask what a teacher attends to."""
    asked = teachers.get(getattr(mask, "teacher", ""))
    if asked is not None and asked.pool is None:
        asked.will_show(2)  # what goes into the last layer says what its class token looks at

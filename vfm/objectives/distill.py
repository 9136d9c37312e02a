"""Unmasked-teacher distillation: a student that sees few tokens learns a frozen teacher's features at those tokens.

mask x heads, where a head is predictor x target x loss: layers of the student against layers of a teacher, or pooled
vectors. The mask may follow what a teacher attends to. Nothing is reconstructed, so there is no decoder.

Letters: B batch, K layers, R class tokens (0 or 1), N visible tokens, D width, P the teacher's width.

Sources: Unmasked Teacher (Li et al. 2023, arXiv 2303.16058); InternVideo2's first stage (Wang et al. 2024, 2403.15377).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vfm import models, parts
from vfm.errors import UserError
from vfm.masking import draw_batch
from vfm.models.alignment import Projection, last_layers
from vfm.models.layers import Norm
from vfm.objectives import teachers
from vfm.objectives.masked import normalize
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
    layers: Float[Array, "L B M D"]  # after the final norm, where the encoder has one; M = R + N
    pooled: Float[Array, "B P"] | None
    grid: tuple[int, int, int]


class distill:  # noqa: N801 - parts are named as configs write them
    """Distillation from `config.teachers`; `distill()` in configs/objectives.py explains the objective's keys."""

    def __init__(self, config: Any):
        o = config.objective
        self.mean, self.std, self.every = tuple(config.data.mean), tuple(config.data.std), o.every
        self.teachers = teachers.build(config)
        run_time = dict(precision=config.precision, remat=config.remat, unroll=config.unroll)
        self.encoder = models.build(config.model.encoder, **run_time)
        self.pool = models.build(o.pool, **run_time) if o.pool else None
        self.mask = parts.build(o.mask, "vfm.masking")
        asked = self.teachers.get(getattr(self.mask, "teacher", ""))
        if asked is not None and asked.pool is None:
            asked.will_show(2)  # what goes into the last layer says what its class token looks at
        if not o.heads:
            raise UserError(
                "config.objective.heads is empty: name at least one thing that the student aligns"
            )
        self.heads = {name: self._head(name, head, run_time) for name, head in o.heads.items()}

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

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters {"encoder", "pool"?, "heads"}; no extra state."""
        rngs = jax.random.split(rng, 3)
        video = jnp.zeros((1, *batch["video"].shape[1:]))[:, :: self.every]
        features, encoder = self.encoder.init_with_output(rngs[0], video)
        params, pooled = {"encoder": encoder["params"]}, None
        if self.pool is not None:
            pooled, pool = self.pool.init_with_output(rngs[1], features.tokens, features.cls)
            if pool:
                params["pool"] = pool["params"]
        ids = jnp.zeros((1, 1), jnp.int32)
        params["heads"] = {}
        for index, (name, head) in enumerate(self.heads.items()):
            layers = jnp.zeros((len(head.layers), 1, 1, self.encoder.width))
            inputs = (layers, ids) if head.layers else (pooled,)
            params["heads"][name] = head.predictor.init(jax.random.fold_in(rngs[2], index), *inputs)["params"]
        return params, {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Weighted sum of the heads' mean losses; metrics {"loss"} and each head's by name."""
        del step
        mask_rng, dropout_rng = jax.random.split(rng)
        dropout_rng = jax.random.fold_in(dropout_rng, batch["id"][0])
        looks = teachers.look(self.teachers, teacher, batch)
        seen = self._watch(params, batch, looks, mask_rng, dropout_rng)
        total, metrics = 0.0, {}
        for name, head in self.heads.items():
            losses = self._aligned(head, params["heads"][name], seen, looks)
            total += head.weight * losses.mean()
            metrics[name] = (losses.sum(), jnp.asarray(losses.size, jnp.float32))
        rows = len(batch["id"]) * jnp.ones(())
        return total, ({"loss": (total * rows, rows)} | metrics, extra)

    def _watch(self, params, batch, looks: Looks, mask_rng, dropout_rng) -> Watched:
        video = batch["video"][:, :: self.every]
        grid = self.encoder.grid_of(video.shape)
        for name, seen in looks.items():
            if seen.grid != grid:
                raise UserError(
                    f"teacher '{name}' has {seen.grid} tokens (time, height, width), the student {grid}: choose "
                    f"config.teachers.{name}.every and .size, and config.objective.every, so that they are equal"
                )
        asked = getattr(self.mask, "teacher", None)
        if asked is not None and asked not in looks:
            raise UserError(
                f"config.objective.mask follows teacher '{asked}': config.teachers has {', '.join(looks) or 'none'}"
            )
        importance = looks[asked].importance if asked else None
        keep = draw_batch(self.mask, mask_rng, batch, grid, importance).keep
        features, seen = self.encoder.apply(
            {"params": params["encoder"]},
            normalize(video, self.mean, self.std),
            keep,
            train=True,
            rngs={"dropout": dropout_rng},
            mutable=["intermediates"],
        )
        layers = seen["intermediates"]["blocks"]["output"][0]
        if "norm" in params["encoder"]:
            # One norm for all layers, as Unmasked Teacher has it.
            norm = Norm(self.encoder.norm, self.encoder.norm_eps)
            layers = norm.apply({"params": params["encoder"]["norm"]}, layers)
        pooled = None
        if self.pool is not None:
            pooled = self.pool.apply({"params": params.get("pool", {})}, features.tokens, features.cls)
        return Watched(keep, layers, pooled, grid)

    def _aligned(self, head: Head, params, seen: Watched, looks: Looks) -> Float[Array, "..."]:
        """Losses of all layers and tokens, or of all samples."""
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

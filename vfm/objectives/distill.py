"""Unmasked-teacher distillation: a student that sees few tokens learns a frozen teacher's features at those tokens.

mask x heads, where a head is predictor x target x loss: layers of the student against layers of a teacher, or pooled
vectors. The mask may follow what a teacher attends to. Nothing is reconstructed, so there is no decoder.

Sources: Unmasked Teacher (Li et al. 2023, arXiv 2303.16058); InternVideo2's first stage (Wang et al. 2024, 2403.15377).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from vfm import models, parts
from vfm.masking import draw_batch
from vfm.objectives import aligned, teachers
from vfm.objectives.masked import normalize
from vfm.targets import Looks


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
        aligned.ask(self.mask, self.teachers)
        self.heads = aligned.Heads(o.heads, self.encoder, self.pool, self.teachers, run_time)

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
        params["heads"] = self.heads.init(rngs[2], pooled)
        return params, {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Weighted sum of the heads' mean losses; metrics {"loss"} and each head's by name."""
        del step
        mask_rng, dropout_rng = jax.random.split(rng)
        dropout_rng = jax.random.fold_in(dropout_rng, batch["id"][0])
        looks = teachers.look(self.teachers, teacher, batch)
        seen = self._watch(params, batch, looks, mask_rng, dropout_rng)
        total, metrics = 0.0, {}
        for name, losses in self.heads.losses(params["heads"], seen, looks).items():
            total += self.heads.heads[name].weight * losses.mean()
            metrics[name] = (losses.sum(), jnp.asarray(losses.size, jnp.float32))
        rows = len(batch["id"]) * jnp.ones(())
        return total, ({"loss": (total * rows, rows)} | metrics, extra)

    def _watch(self, params, batch, looks: Looks, mask_rng, dropout_rng) -> aligned.Watched:
        video = batch["video"][:, :: self.every]
        grid = self.encoder.grid_of(video.shape)
        aligned.check_grids(looks, grid)
        keep = draw_batch(self.mask, mask_rng, batch, grid, aligned.importance(self.mask, looks)).keep
        features, seen = self.encoder.apply(
            {"params": params["encoder"]},
            normalize(video, self.mean, self.std),
            keep,
            train=True,
            rngs={"dropout": dropout_rng},
            mutable=["intermediates"],
        )
        layers = seen["intermediates"]["blocks"]["output"][0]
        layers = aligned.normed(self.encoder, params["encoder"], layers)
        pooled = None
        if self.pool is not None:
            pooled = self.pool.apply({"params": params.get("pool", {})}, features.tokens, features.cls)
        return aligned.Watched(keep, layers, pooled, grid)

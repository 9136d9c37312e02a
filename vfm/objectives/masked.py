"""Masked modelling: hide most tokens of a clip and predict a target at them from the others.

mask x predictor x target x loss, each a part of its own: pixels with a tube mask are VideoMAE; other masks,
teachers or losses are other parts in the same objective. B batch, K kept and M predicted tokens, D width, P target.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from vfm import models, parts
from vfm.masking import Drawn, draw_batch
from vfm.objectives import teachers
from vfm.ops.patches import patchify, take, unpatchify
from vfm.targets import unit_pixels


def normalize(video: UInt8[Array, "B T H W C"], mean: tuple, std: tuple) -> Float[Array, "B T H W C"]:
    """Pixels in [0, 1] minus `mean` over `std`, channel by channel."""
    return (unit_pixels(video) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


class masked:  # noqa: N801 - parts are named as configs write them
    """Masked modelling, built from a run config (keys mask, predictor, target, loss of `config.objective`)."""

    def __init__(self, config: Any):
        self.mean, self.std = tuple(config.data.mean), tuple(config.data.std)
        run_time = dict(precision=config.precision, remat=config.remat, unroll=config.unroll)
        self.encoder = models.build(config.model.encoder, **run_time)
        self.mask = parts.build(config.objective.mask, "vfm.masking")
        self.target = parts.build(config.objective.target, "vfm.targets")
        self.teachers = teachers.build(config)
        self.token_loss = parts.build(config.objective.loss, "vfm.losses")
        self.predictor = models.build(
            config.objective.predictor, out_dim=self.target.dim(self.encoder, self.teachers), **run_time
        )

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters {"encoder", "predictor"} for batches of this shape; no extra state."""
        video = jnp.zeros((1, *batch["video"].shape[1:]), jnp.float32)
        grid = self.encoder.grid_of(video.shape)
        keep, predict, _ = (ids[None] for ids in self.mask(rng, grid))
        encoder_rng, predictor_rng = jax.random.split(rng)
        encoder = self.encoder.init(encoder_rng, video, keep)["params"]
        tokens = jnp.zeros((1, keep.shape[1], self.encoder.width), jnp.float32)
        predictor = self.predictor.init(predictor_rng, tokens, keep, predict, grid)["params"]
        return {"encoder": encoder, "predictor": predictor}, {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Mean over all hidden tokens of the batch that are predicted; metrics {"loss"}."""
        del step
        mask_rng, dropout_rng = jax.random.split(rng)
        # Micro-batches share `rng`; their first sample tells them apart, on any mesh.
        dropout_rng = jax.random.fold_in(dropout_rng, batch["id"][0])
        prediction, drawn = self._predict(params, batch, mask_rng, dropout_rng)
        looks = teachers.look(self.teachers, teacher, batch)
        target = self.target(batch, drawn.predict, self.encoder, looks)
        token_loss = self.token_loss(prediction.astype(jnp.float32), target)
        total, weight = (token_loss * drawn.weight).sum(), drawn.weight.sum()
        return total / weight, ({"loss": (total, weight)}, extra)

    def reconstruct(self, params, batch, rng: PRNGKeyArray) -> dict[str, Float[Array, "B T H W C"]]:
        """Pictures of what is predicted: original, masked (hidden tokens grey), predicted (visible ones as given)."""
        prediction, (keep, predict, weight) = self._predict(params, batch, rng, None)
        size = self.encoder.tubelet, self.encoder.patch
        patches = patchify(unit_pixels(batch["video"]), *size)
        filled = self.target.to_pixels(prediction.astype(jnp.float32), batch, predict, self.encoder)
        filled = jnp.where(weight[..., None] > 0, jnp.clip(filled, 0, 1), take(patches, predict))
        rows = jnp.arange(len(patches))[:, None]
        grid = self.encoder.grid_of(batch["video"].shape)
        pictures = dict(
            original=patches,
            masked=jnp.full_like(patches, 0.5).at[rows, keep].set(take(patches, keep)),
            predicted=patches.at[rows, predict].set(filled),
        )
        return {name: unpatchify(p, grid, *size) for name, p in pictures.items()}

    def _predict(self, params, batch, mask_rng, dropout_rng) -> tuple[Float[Array, "B M P"], Drawn]:
        """Prediction and the mask it was made under; in training mode where a dropout key is given."""
        train = dropout_rng is not None
        encoder_rngs, predictor_rngs = (
            ({"dropout": r} for r in jax.random.split(dropout_rng)) if train else (None, None)
        )
        grid = self.encoder.grid_of(batch["video"].shape)
        drawn = draw_batch(self.mask, mask_rng, batch, grid)
        video = normalize(batch["video"], self.mean, self.std)
        features = self.encoder.apply(
            {"params": params["encoder"]}, video, drawn.keep, train=train, rngs=encoder_rngs
        )
        prediction = self.predictor.apply(
            {"params": params["predictor"]},
            features.tokens, drawn.keep, drawn.predict, grid, train=train, rngs=predictor_rngs,
        )  # fmt: skip
        return prediction, drawn

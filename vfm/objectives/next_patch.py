"""Next patch: predict each patch from those before it, in raster order (AIM, El-Nouby et al. 2024).

A causal encoder reads the clip; at every token a head regresses the standardised pixels of the next one. With a
prefix encoder the first tokens of each clip, a number drawn anew each time, see each other and are not predicted, so
that the same encoder can later see the whole clip at once. B batch, N tokens, D width, P target.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vfm import models, parts
from vfm.errors import UserError
from vfm.masking import sample_keys
from vfm.objectives.masked import normalize
from vfm.ops.patches import patchify, take, unpatchify
from vfm.targets import unit_pixels


class next_patch:  # noqa: N801 - parts are named as configs write them
    """Autoregression over patches, built from a run config (keys prefix, predictor, target, loss of the objective).

    prefix: (lowest, highest) share of a clip's tokens that make its prefix, for an encoder with attends='prefix';
      each clip draws a length uniformly between them, at least 1 and at most all but one.
    """

    def __init__(self, config: Any):
        self.mean, self.std = tuple(config.data.mean), tuple(config.data.std)
        run_time = dict(precision=config.precision, remat=config.remat, unroll=config.unroll)
        self.encoder = models.build(config.model.encoder, **run_time)
        self.has_prefix = _check_causal(self.encoder)
        self.low, self.high = config.objective.prefix
        if not 0 <= self.low <= self.high <= 1:
            raise UserError(
                f"config.objective.prefix={(self.low, self.high)}: expected two shares of a clip's tokens, lowest "
                "first, such as (0.0, 1.0)"
            )
        self.target = parts.build(config.objective.target, "vfm.targets")
        self.token_loss = parts.build(config.objective.loss, "vfm.losses")
        self.predictor = models.build(
            config.objective.predictor, out_dim=self.target.dim(self.encoder), **run_time
        )

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters {"encoder", "predictor"} for batches of this shape; no extra state."""
        video = jnp.zeros((1, *batch["video"].shape[1:]), jnp.float32)
        encoder_rng, predictor_rng = jax.random.split(rng)
        encoder = self.encoder.init(encoder_rng, video)["params"]
        tokens = jnp.zeros((1, 1, self.encoder.width), jnp.float32)
        return {"encoder": encoder, "predictor": self.predictor.init(predictor_rng, tokens)["params"]}, {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Mean over all tokens of the batch behind their clip's prefix; metrics {"loss"}."""
        del step
        prefix_rng, dropout_rng = jax.random.split(rng)
        # Micro-batches share `rng`; their first sample tells them apart, on any mesh.
        dropout_rng = jax.random.fold_in(dropout_rng, batch["id"][0])
        prediction, ids, weight = self._predict(params, batch, prefix_rng, dropout_rng)
        target = self.target(batch, ids, self.encoder, teacher)
        token_loss = self.token_loss(prediction.astype(jnp.float32), target)
        total, weight = (token_loss * weight).sum(), weight.sum()
        return total / weight, ({"loss": (total, weight)}, extra)

    def reconstruct(self, params, batch, rng: PRNGKeyArray) -> dict[str, Float[Array, "B T H W C"]]:
        """Pictures: original, masked (grey behind the prefix), predicted (each patch from the true ones before it)."""
        prediction, ids, weight = self._predict(params, batch, rng, None)
        size = self.encoder.tubelet, self.encoder.patch
        patches = patchify(unit_pixels(batch["video"]), *size)
        filled = self.target.to_pixels(prediction.astype(jnp.float32), batch, ids, self.encoder)
        behind, given = weight[..., None] > 0, take(patches, ids)
        grid = self.encoder.grid_of(batch["video"].shape)
        pictures = dict(
            original=patches,
            masked=patches.at[:, 1:].set(jnp.where(behind, 0.5, given)),
            predicted=patches.at[:, 1:].set(jnp.where(behind, jnp.clip(filled, 0, 1), given)),
        )
        return {name: unpatchify(p, grid, *size) for name, p in pictures.items()}

    def prefixes(self, rng: PRNGKeyArray, batch: dict[str, Array], length: int) -> Int[Array, "B"]:
        """The length of each clip's prefix, of `length` tokens; 1 where the encoder attends to none."""
        if not self.has_prefix:
            return jnp.ones(batch["id"].shape, jnp.int32)
        low = max(1, min(round(self.low * length), length - 1))
        high = max(low, min(round(self.high * length), length - 1))
        keys = sample_keys(rng, batch)
        return jax.vmap(lambda key: jax.random.randint(key, (), low, high + 1))(keys)

    def _predict(self, params, batch, prefix_rng, dropout_rng):
        """Prediction [B,N-1,P] of tokens 1..N-1, their ids [B,N-1] and weights [B,N-1] (0 inside the prefix)."""
        train = dropout_rng is not None
        time, height, width = self.encoder.grid_of(batch["video"].shape)
        length = time * height * width
        prefix = self.prefixes(prefix_rng, batch, length)
        features = self.encoder.apply(
            {"params": params["encoder"]},
            normalize(batch["video"], self.mean, self.std),
            train=train,
            rngs={"dropout": dropout_rng} if train else None,
            **({"prefix": prefix} if self.has_prefix else {}),
        )
        prediction = self.predictor.apply({"params": params["predictor"]}, features.tokens[:, :-1])
        ids = jnp.broadcast_to(jnp.arange(1, length, dtype=jnp.int32), (len(prefix), length - 1))
        return prediction, ids, (ids >= prefix[:, None]).astype(jnp.float32)


def _check_causal(encoder: Any) -> bool:
    """Whether the encoder takes a prefix.

    Raises:
      UserError: its tokens see later ones, which would hand them what they have to predict.
    """
    attends = getattr(encoder, "attends", None)
    if attends in ("causal", "prefix"):
        return attends == "prefix"
    if attends is None and not dict(getattr(encoder, "mixer", {"bidirectional": True})).get("bidirectional"):
        return False
    found = "bidirectional scans" if attends is None else f"attends='{attends}'"
    raise UserError(
        f"objective 'next_patch' needs an encoder whose tokens see no later ones, found {found}; set "
        "config.model.encoder.attends to 'prefix' or 'causal' (vit), or bidirectional=False (mamba)"
    )

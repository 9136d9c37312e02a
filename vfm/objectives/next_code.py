"""Next code: predict each discrete code of a clip from those before it, in raster order (Toto).

The codes are those of a frozen tokenizer, `config.teachers.tokenizer` (an `autoencoder` run). The encoder that is
learned carries a copy of it, so that it reads videos by itself wherever it is used later.

Source: Rajasegaran et al. 2025, "An Empirical Study of Autoregressive Pre-training from Videos" (arXiv 2501.05453).
B batch, N tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from vfm import models
from vfm.errors import UserError
from vfm.objectives.masked import normalize
from vfm.ops.vocabulary import token_cross_entropy

TEACHER = "tokenizer"


class next_code:  # noqa: N801 - parts are named as configs write them
    """Autoregression over codes, built from a run config whose encoder is a `code_lm` (key chunk of the objective).

    chunk: tokens whose logits exist at a time; 0 = all.
    """

    def __init__(self, config: Any):
        self.mean, self.std = tuple(config.data.mean), tuple(config.data.std)
        _check_tokenizer(config)
        run_time = dict(precision=config.precision, remat=config.remat, unroll=config.unroll)
        self.encoder = models.build(config.model.encoder, **run_time)
        self.chunk = config.objective.chunk

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters {"encoder"} for batches of this shape; no extra state."""
        video = jnp.zeros((1, *batch["video"].shape[1:]), jnp.float32)
        return {"encoder": self.encoder.init(rng, video)["params"]}, {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Cross-entropy, averaged over all tokens of the batch; metrics {"loss", "accuracy"}."""
        del rng, step
        video = normalize(batch["video"], self.mean, self.std)
        _, quantized = self.encoder.tokenizer.apply(
            {"params": teacher[TEACHER]["encoder"]}, video, method="tokenize"
        )
        codes = jax.lax.stop_gradient(quantized.codes)
        hidden, kernel = self.encoder.apply({"params": params["encoder"]}, codes, method="predict")
        scores = token_cross_entropy(
            hidden, kernel, codes, chunk=self.chunk, precision=self.encoder.precision
        )
        count = jnp.asarray(codes.size, jnp.float32)
        metrics = {"loss": (scores.loss.sum(), count), "accuracy": (scores.correct.sum(), count)}
        return scores.loss.mean(), (metrics, extra)

    def settle(self, params: dict, extra: dict, teacher: dict) -> dict:
        """The encoder's tokenizer is the teacher's."""
        del extra
        return params | {"encoder": params["encoder"] | {"tokenizer": teacher[TEACHER]["encoder"]}}


def _check_tokenizer(config: Any) -> None:
    """UserError where the tokenizer that teaches is none, or is not the encoder's own."""
    if TEACHER not in config.teachers:
        raise UserError(
            "objective 'next_code' needs the frozen tokenizer of an autoencoder run: set config.teachers.tokenizer "
            "(see configs/toto.py)"
        )
    teacher = config.teachers[TEACHER]
    if teacher.encoder.to_dict() != config.model.encoder.tokenizer.to_dict():
        raise UserError(
            "config.teachers.tokenizer.encoder and config.model.encoder.tokenizer differ; they are one network, so "
            "give both the same keys"
        )
    seen = (tuple(config.data.mean), tuple(config.data.std))
    if (tuple(teacher.mean), tuple(teacher.std)) != seen:
        raise UserError(
            f"config.teachers.tokenizer has mean {tuple(teacher.mean)} and std {tuple(teacher.std)}, config.data "
            f"{seen[0]} and {seen[1]}: pixels would be normalised in two ways; make them agree"
        )

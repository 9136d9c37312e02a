"""Next-token prediction: a language model reads the video's tokens and writes the text, word by word.

encoder -> connector -> language model over [video tokens][prompt][answer]. Which of the three learn, the language model
whole, through adapters (LoRA) or not at all, is up to `config.optim.lr_rules` (`configs.common.language_model_rates`).

B batch, L positions of the text, P of a prompt, M video tokens as the language model sees them, D its width.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from input_pipeline.tokenizers import open_tokenizer
from vfm import generation, models
from vfm.errors import UserError
from vfm.models.layers import require
from vfm.models.lm import CACHE_AXES
from vfm.objectives.masked import normalize
from vfm.ops.vocabulary import Scores, token_cross_entropy

ATTENDING = ("prefix", "causal")


class next_token:  # noqa: N801 - parts are named as configs write them
    """Next-token prediction, built from a run config (model.encoder, .connector, .lm; keys of the objective below).

    attend: prefix: video and prompt see each other in both directions, the answer what is before it (PaliGemma);
      with several answers, as in a conversation, the prefix ends at the first. causal: everything sees only what is
      before it (LLaVA-Video).
    chunk: text positions whose logits exist at a time; 0 = all.
    smoothing: of the labels.
    """

    def __init__(self, config: Any):
        self.mean, self.std = tuple(config.data.mean), tuple(config.data.std)
        run_time = dict(precision=config.precision, remat=config.remat, unroll=config.unroll)
        for part in ("lm", "connector"):
            if "name" not in config.model.get(part, {}):
                raise UserError(
                    f"config.model.{part} is empty, and next-token prediction needs it; set it to "
                    f"ConfigDict(common.{part}(...))"
                )
        words, self.eos = dict(config.model.lm), None
        if config.data.text.tokenizer:
            tokenizer = open_tokenizer(config.data.text.tokenizer, config.data.text)
            words["vocab_size"], self.eos = words["vocab_size"] or tokenizer.vocab_size, tokenizer.eos
        if words["vocab_size"] < 1:
            raise UserError(
                "config.model.lm.vocab_size=0 and config.data.text.tokenizer='': nothing says how many words there "
                "are; set the tokenizer ('bytes' needs no file)"
            )
        self.encoder = models.build(config.model.encoder, **run_time)
        self.lm = models.build(words, **run_time)
        self.connector = models.build(config.model.connector, out_dim=self.lm.width, **run_time)
        self.attend, self.chunk = config.objective.attend, config.objective.chunk
        self.smoothing = config.objective.smoothing
        require("config.objective.attend", self.attend, ATTENDING)

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters {"encoder", "connector", "lm"} for batches of this shape; no extra state.

        Raises:
          UserError: batches hold no text.
        """
        missing = [key for key in ("text", "text_mask", "text_loss") if key not in batch]
        if missing:
            raise UserError(
                f"next-token prediction needs {', '.join(missing)} in its batches, which hold "
                f"{', '.join(sorted(batch))}; set config.data.text.tokenizer (and config.data.text.column)"
            )
        video = jnp.zeros((1, *batch["video"].shape[1:]), jnp.float32)
        encoder_rng, connector_rng, lm_rng = jax.random.split(rng, 3)
        encoder = self.encoder.init(encoder_rng, video)["params"]
        grid = self.encoder.grid_of(video.shape)
        tokens = jnp.zeros((1, grid[0] * grid[1] * grid[2], self.encoder.width), jnp.float32)
        connector = self.connector.init(connector_rng, tokens, grid)["params"]
        lm = self.lm.init(lm_rng, jnp.zeros((1, 1), jnp.int32))["params"]
        return {"encoder": encoder, "connector": connector, "lm": lm}, {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Mean cross-entropy of all tokens of the batch in `text_loss`; metrics {"loss", "accuracy"}."""
        del step, teacher
        # Micro-batches share `rng`; their first sample tells them apart, on any mesh.
        rng = jax.random.fold_in(rng, batch["id"][0])
        video = self.read(params, batch["video"], rng)
        text = batch["text"], batch["text_mask"], batch["text_loss"]
        scores, weight = self._score(params, video, *text, self.smoothing)
        total, count = (scores.loss * weight).sum(), weight.sum()
        correct = (scores.correct * weight).sum()
        # A batch without any answer teaches nothing, and is no error.
        return total / jnp.maximum(count, 1), (
            {"loss": (total, count), "accuracy": (correct, count)},
            extra,
        )

    def likelihood(
        self,
        params: dict,
        video: UInt8[Array, "B T H W C"] | None,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"],
        text_loss: Bool[Array, "B L"],
    ) -> Float[Array, "B"]:
        """Sum of log p over the tokens in `text_loss`, each given the true ones before it.

        `video` None = blind; then a text's first token, before which there is nothing, is left out.
        """
        tokens = None if video is None else self.read(params, video)
        scores, weight = self._score(params, tokens, text, text_mask, text_loss)
        return -(scores.loss * weight).sum(-1)

    def generate(
        self,
        params: dict,
        video: UInt8[Array, "B T H W C"] | None,
        prompt_ids: Int[Array, "P"] | Int[Array, "B P"] | Sequence[int],
        *,
        length: int,
        method: str = "greedy",
        prompt_mask: Bool[Array, "B P"] | None = None,
        **options: Any,
    ) -> Int[Array, "B length"]:
        """What follows the prompt (which the result leaves out); further options are those of `decode`.

        Args:
          video: None = blind: as many rows as there are prompts.
          prompt_ids: with the begin token; one prompt for all videos, or one for each.
          prompt_mask: false at padding; None = no padding.

        Raises:
          UserError: the prompt is empty, or no id ends a text.
        """
        options = {"eos": self.eos} | options
        prompt = jnp.asarray(prompt_ids, jnp.int32)
        if prompt.shape[-1] == 0:
            raise UserError("the prompt holds no token; give at least the begin token, to begin with")
        if options["eos"] is None:
            raise UserError("no id ends a text: give eos=ID, or set config.data.text.tokenizer")
        tokens = None if video is None else self.read(params, video)
        rows = prompt.shape[:-1][0] if prompt.ndim == 2 else 1 if tokens is None else len(tokens)
        prompt = jnp.broadcast_to(prompt, (rows, prompt.shape[-1]))
        mask = jnp.ones(prompt.shape, bool) if prompt_mask is None else prompt_mask
        # Padding goes in front, so that the last place is a token in every row.
        padding = prompt.shape[1] - mask.sum(-1, keepdims=True)
        order = (jnp.arange(prompt.shape[1]) - padding) % prompt.shape[1]
        prompt, mask = (jnp.take_along_axis(x, order, axis=1) for x in (prompt, mask))

        x, mask = self._sequence(params, tokens, prompt, mask)
        prefix = jnp.ones(mask.shape, bool) if self.attend == "prefix" else None
        cache = self.lm.empty_cache(rows, x.shape[1] + length - 1)
        _, cache = self._lm(params, "hidden", x, mask, prefix, cache)

        def step(cache, ids):
            logits, cache = self._lm(params, "__call__", ids[:, None], None, None, cache)
            return logits[:, 0], cache

        # Decoding begins by putting in the prompt's last token. It is taken out again rather than left for then,
        # because what is before it in the prefix sees it.
        return generation.decode(
            step, cache.without_last(), prompt[:, -1], length=length, method=method, axes=CACHE_AXES, **options
        )  # fmt: skip

    def read(
        self, params: dict, video: UInt8[Array, "B T H W C"], rng: PRNGKeyArray | None = None
    ) -> Float[Array, "B M D"]:
        """The video as the language model sees it; in training mode where a dropout key is given."""
        features = self.encoder.apply(
            {"params": params["encoder"]},
            normalize(video, self.mean, self.std),
            train=rng is not None,
            rngs=None if rng is None else {"dropout": rng},
        )
        return self.connector.apply({"params": params["connector"]}, features.tokens, features.grid)

    def _score(
        self, params: dict, video, text, text_mask, text_loss, smoothing: float = 0.0
    ) -> tuple[Scores, Float[Array, "B L"]]:
        """What each token's prediction is worth, and 1 where it counts: in `text_loss`, with something before it."""
        x, mask = self._sequence(params, video, text, text_mask)
        before = x.shape[1] - text.shape[1]
        prefix = None
        if self.attend == "prefix":
            asked = jnp.cumsum(text_loss, axis=1) == 0
            prefix = jnp.concatenate([jnp.ones((len(text), before), bool), asked], axis=1)
        hidden, _ = self._lm(params, "hidden", x, mask, prefix)
        # The state at one place predicts the token of the next; the first of a blind text has none before it.
        hidden = jnp.concatenate([hidden[:, :1], hidden[:, :-1]], axis=1)[:, before:]
        counted = text_loss & text_mask
        if before == 0:
            counted = counted.at[:, 0].set(False)
        kernel = self._lm(params, "output_kernel")
        scores = token_cross_entropy(
            hidden, kernel, text, chunk=self.chunk, smoothing=smoothing, precision=self.lm.precision
        )
        return scores, counted.astype(jnp.float32)

    def _sequence(
        self, params: dict, video, text, text_mask
    ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
        """Embeddings of the video's tokens, if any, and the text's; and which of them are no padding."""
        x = self._lm(params, "embed", text)
        if video is None:
            return x, text_mask
        x = jnp.concatenate([video.astype(x.dtype), x], axis=1)
        return x, jnp.concatenate([jnp.ones(video.shape[:2], bool), text_mask], axis=1)

    def _lm(self, params: dict, method: str, *inputs: Array | None) -> Any:
        return self.lm.apply({"params": params["lm"]}, *inputs, method=method)

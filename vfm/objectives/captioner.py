"""Captioning by cross-attention: a decoder writes the caption of the video that an encoder has read (Cap, CapPa).

Source: Tschannen et al. 2023, "Image Captioners Are Scalable Vision Learners Too" (arXiv 2306.07915).
B batch, L text positions, P tokens of a prompt, N video tokens, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from vfm import generation, models
from vfm.errors import UserError
from vfm.masking import sample_keys
from vfm.objectives.masked import normalize
from vfm.ops.attention import causal_mask
from vfm.ops.vocabulary import token_cross_entropy


class captioner:  # noqa: N801 - parts are named as configs write them
    """Cap and CapPa, built from a run config (keys decoder, parallel, chunk, smoothing of the objective).

    parallel: probability that an example is predicted in parallel: every input is the mask id and every position
      sees all others, so that the words must come from the video (CapPa: 0.75; Cap: 0).
    chunk: text positions whose logits exist at a time; 0 = all.
    """

    def __init__(self, config: Any):
        self.mean, self.std = tuple(config.data.mean), tuple(config.data.std)
        run_time = dict(precision=config.precision, remat=config.remat, unroll=config.unroll)
        self.encoder = models.build(config.model.encoder, **run_time)
        self.decoder, self.eos = build_decoder(config, run_time)
        self.parallel = config.objective.parallel
        if not 0 <= self.parallel <= 1:
            raise UserError(f"config.objective.parallel={self.parallel}: expected a probability")
        self.chunk, self.smoothing = config.objective.chunk, config.objective.smoothing

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters {"encoder", "decoder"} for batches of this shape; no extra state."""
        require_text(batch)
        video = jnp.zeros((1, *batch["video"].shape[1:]), jnp.float32)
        encoder_rng, decoder_rng = jax.random.split(rng)
        encoder = self.encoder.init(encoder_rng, video)["params"]
        memory = jnp.zeros((1, 1, self.encoder.width), jnp.float32)
        ids = jnp.zeros((1, batch["text"].shape[1]), jnp.int32)
        return {"encoder": encoder, "decoder": self.decoder.init(decoder_rng, ids, memory)["params"]}, {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Cross-entropy, averaged over all tokens of the batch; metrics {"loss", "accuracy"}."""
        del step, teacher
        parallel_rng, dropout_rng = jax.random.split(rng)
        # Micro-batches share `rng`; their first sample tells them apart, on any mesh.
        dropout_rng = jax.random.fold_in(dropout_rng, batch["id"][0])
        parallel = self.draw_parallel(parallel_rng, batch)
        memory = self.memory(params, batch["video"], dropout_rng)
        inputs, mask = self.inputs(batch["text"], parallel)
        hidden = self._decode("hidden", params, inputs, memory, mask)
        scores = token_cross_entropy(
            hidden, params["decoder"]["head"]["kernel"], batch["text"],
            chunk=self.chunk, smoothing=self.smoothing, precision=self.decoder.precision,
        )  # fmt: skip
        loss, metrics = token_mean(scores, text_weight(batch))
        return loss, (metrics, extra)

    def draw_parallel(self, rng: PRNGKeyArray, batch: dict[str, Array]) -> Bool[Array, "B"]:
        """Which samples are predicted in parallel; each draws by itself, on any mesh."""
        return jax.vmap(lambda key: jax.random.bernoulli(key, self.parallel))(sample_keys(rng, batch))

    def inputs(
        self, text: Int[Array, "B L"], parallel: Bool[Array, "B"]
    ) -> tuple[Int[Array, "B L"], Bool[Array, "B 1 L L"]]:
        """The decoder's inputs and what each position sees: the text moved on by one, or masks that see all."""
        inputs = jnp.where(parallel[:, None], self.decoder.mask_id, shift(text, self.decoder.start_id))
        return inputs, causal_mask(text.shape[1]) | parallel[:, None, None, None]

    def memory(
        self, params: dict, video: UInt8[Array, "B T H W C"], dropout_rng: PRNGKeyArray | None = None
    ) -> Float[Array, "B N D"]:
        """The video's tokens as the decoder sees them; in training mode where a dropout key is given."""
        return self.encoder.apply(
            {"params": params["encoder"]},
            normalize(video, self.mean, self.std),
            train=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        ).tokens

    def likelihood(
        self,
        params: dict,
        video: UInt8[Array, "B T H W C"] | None,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"],
        text_loss: Bool[Array, "B L"],
    ) -> Float[Array, "B"]:
        """Sum of log p over the tokens in `text_loss`, each from the true ones before it; `video` None = blind."""
        if video is None:
            memory = blind(len(text), self.encoder.width)
        else:
            memory = self.memory(params, video)
        logits = self._decode("__call__", params, shift(text, self.decoder.start_id), memory)
        return sum_log_p(logits, text, text_mask & text_loss)

    def generate(
        self,
        params: dict,
        video: UInt8[Array, "B T H W C"] | None,
        prompt_ids: Sequence[int] = (),
        *,
        length: int,
        method: str = "greedy",
        **options: Any,
    ) -> Int[Array, "B length"]:
        """Captions that begin with the prompt (which the result leaves out); options are those of `decode`.

        `video` None = blind: one row.
        """
        options = {"eos": self.eos} | options

        def look():
            return blind(1, self.encoder.width) if video is None else self.memory(params, video)

        return generate(self.decoder, params["decoder"], look, prompt_ids, length, method, options)

    def _decode(self, method: str, params: dict, *inputs: Array | None) -> Array:
        return self.decoder.apply({"params": params["decoder"]}, *inputs, method=method)


def build_decoder(config: Any, run_time: dict[str, Any]) -> tuple[Any, int | None]:
    """The decoder of `config.objective.decoder` and the id that ends a text.

    A vocab_size of 0 is taken from the tokenizer; without one (a vocabulary given by number) no id ends a text.
    """
    part, eos = config.objective.decoder.to_dict(), None
    if config.data.text.tokenizer:
        from input_pipeline.tokenizers import open_tokenizer

        tokenizer = open_tokenizer(config.data.text.tokenizer, config.data.text)
        part["vocab_size"], eos = part["vocab_size"] or tokenizer.vocab_size, tokenizer.eos
    if part["vocab_size"] < 1:
        raise UserError(
            "config.objective.decoder.vocab_size=0 and config.data.text.tokenizer='': nothing says how many words "
            "there are; set the tokenizer ('bytes' needs no file)"
        )
    return models.build(part, **run_time), eos


def require_text(batch: dict[str, Any]) -> None:
    """UserError where batches hold no captions."""
    if "text" not in batch:
        raise UserError(
            f"this objective learns from captions and batches have none, only {', '.join(sorted(batch))}; set "
            "config.data.text.tokenizer (and config.data.text.column)"
        )


def shift(text: Int[Array, "B L"], start_id: int) -> Int[Array, "B L"]:
    """The text moved on by one position behind the start: what is known when each token is predicted."""
    return jnp.concatenate([jnp.full_like(text[:, :1], start_id), text[:, :-1]], axis=1)


def text_weight(batch: dict[str, Array]) -> Float[Array, "B L"]:
    """1 at tokens that are to be predicted, 0 at padding and prompts."""
    return (batch["text_mask"] & batch.get("text_loss", True)).astype(jnp.float32)


def token_mean(scores: Any, weight: Float[Array, "B L"]) -> tuple[Array, dict[str, tuple[Array, Array]]]:
    """The mean loss of all tokens, and metrics {"loss", "accuracy"}; 0 where there is no token."""
    total, count = (scores.loss * weight).sum(), weight.sum()
    correct = (scores.correct * weight).sum()
    return total / jnp.maximum(count, 1), {"loss": (total, count), "accuracy": (correct, count)}


def sum_log_p(
    logits: Float[Array, "B L V"], text: Int[Array, "B L"], where: Bool[Array, "B L"]
) -> Float[Array, "B"]:
    """Sum of the log probabilities of a text's tokens at the positions in `where`."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    log_p = jnp.take_along_axis(log_p, text[..., None], axis=-1)[..., 0]
    return jnp.where(where, log_p, 0.0).sum(-1)


def blind(batch: int, width: int) -> Float[Array, "B 1 D"]:
    """What a decoder sees instead of a video: one token of nothing."""
    return jnp.zeros((batch, 1, width), jnp.float32)


def generate(
    decoder: Any,
    params: dict,
    look: Callable[[], Float[Array, "B N D"]],
    prompt_ids: Sequence[int],
    length: int,
    method: str,
    options: dict[str, Any],
) -> Int[Array, "B length"]:
    """Text behind the start and a prompt, by a decoder with a cache (`vfm.generation.decode`).

    Args:
      look: gives the video's tokens.

    Raises:
      UserError: the decoder has too few positions, or no id ends a text.
    """
    prompt = jnp.asarray([decoder.start_id, *prompt_ids], jnp.int32)
    if len(prompt) + length - 1 > decoder.length:
        raise UserError(
            f"a prompt of {len(prompt) - 1} tokens and {length} new ones need {len(prompt) + length - 1} positions, "
            f"the decoder has {decoder.length}; ask for fewer, or train with a longer objective.decoder.length"
        )
    if options.get("eos") is None:
        raise UserError("no id ends a text: give eos=ID, or set config.data.text.tokenizer")
    memory = look()
    inputs = jnp.broadcast_to(prompt, (len(memory), len(prompt)))

    def extend(cache, ids, memory=None):
        return decoder.apply({"params": params}, cache, ids, memory, method="extend")

    def step(cache, ids):
        logits, cache = extend(cache, ids[:, None])
        return logits[:, 0], cache

    cache = decoder.empty_cache(len(memory), memory.shape[1])
    # The last input is the first that decoding takes in; before it the cache gets the video, and the prompt.
    _, cache = extend(cache, inputs[:, :-1], memory)
    axes = {name: -1 if name == "place" else 1 for name in cache}
    return generation.decode(step, cache, inputs[:, -1], length=length, method=method, axes=axes, **options)

"""What is learned where text and video are read together: which pairs belong together, and hidden words.

Video-text matching (VTM) with hard negatives drawn by similarity, and masked language modelling (MLM), as Unmasked
Teacher (Li et al. 2023, arXiv 2303.16058) and InternVideo2's second stage train them. Draws belong to samples, by
keys of their own, so that neither chunks nor the mesh change them.

Letters: B pairs, L tokens of a text, V vocabulary, K classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Score(NamedTuple):
    """Sums over places that were classified, or one value for each place."""

    loss: Float[Array, "..."]
    right: Float[Array, "..."]
    weight: Float[Array, "..."]  # 0 = the place does not count

    def mean(self) -> Float[Array, ""]:
        """The mean loss; 0 where nothing counts."""
        weight = self.weight.sum()
        return self.loss.sum() / jnp.where(weight > 0, weight, 1.0)


def negative_weights(logits: Float[Array, "B B"], ids: Int[Array, "B"]) -> Float[Array, "B B"]:
    """How likely each column is to be drawn as a row's negative: softmax, 0 for the row's positives.

    Rows are not scaled to sum to 1 again, as nothing that draws from them needs it.
    """
    return jnp.where(ids[:, None] == ids, 0.0, jax.nn.softmax(logits.astype(jnp.float32), axis=1))


def draw_negatives(
    keys: PRNGKeyArray, logits: Float[Array, "B B"], ids: Int[Array, "B"]
) -> tuple[Int[Array, "B"], Bool[Array, "B"]]:
    """A column for each row, drawn by `negative_weights`, and whether the row has a negative at all.

    Nothing is rounded to 0, so a row always finds one where one exists; where none does (all ids are equal, or the
    batch has one pair) or the logits are not numbers, the second result is False and the column is the row itself.
    """
    same = ids[:, None] == ids
    found = (~same & jnp.isfinite(logits)).any(1)
    allowed = jnp.where(same, -jnp.inf, logits.astype(jnp.float32))
    drawn = jax.vmap(jax.random.categorical)(keys, jnp.where(found[:, None], allowed, 0.0))
    return jnp.where(found, drawn, jnp.arange(len(logits))).astype(jnp.int32), found


def cross_entropy(
    logits: Float[Array, "... K"], classes: Int[Array, "..."], weight: Float[Array, "..."]
) -> Score:
    """The cross-entropy at each place and whether the likeliest class is the right one, both times its weight."""
    logits, weight = logits.astype(jnp.float32), weight.astype(jnp.float32)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), classes[..., None], axis=-1)[..., 0]
    return Score(-log_p * weight, (logits.argmax(-1) == classes) * weight, weight)


def maskable(
    text: Int[Array, "B L"], text_mask: Bool[Array, "B L"], special_ids: tuple[int, ...]
) -> Bool[Array, "B L"]:
    """Tokens that may be hidden: neither padding nor special."""
    special = jnp.asarray(special_ids, jnp.int32)
    return text_mask & ~(text[..., None] == special).any(-1)


def mask_words(
    keys: PRNGKeyArray,
    text: Int[Array, "B L"],
    allowed: Bool[Array, "B L"],
    rate: float,
    vocab_size: int,
    mask_id: int,
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """Hide each allowed token with probability `rate`.

    Returns:
      The text with what was hidden replaced (see `replace_words`), and which tokens were hidden.
    """

    def draw(key):
        parts = jax.random.split(key, 4)
        chosen, masked, other = (jax.random.uniform(part, text.shape[1:]) for part in parts[:3])
        return (
            chosen < rate,
            masked < 0.8,
            other < 0.5,
            jax.random.randint(parts[3], text.shape[1:], 0, vocab_size),
        )

    chosen, masked, other, words = jax.vmap(draw)(keys)
    hidden = chosen & allowed
    return replace_words(text, hidden, masked, other, words, mask_id), hidden


def replace_words(
    text: Int[Array, "B L"],
    hidden: Bool[Array, "B L"],
    masked: Bool[Array, "B L"],
    other: Bool[Array, "B L"],
    words: Int[Array, "B L"],
    mask_id: int,
) -> Int[Array, "B L"]:
    """Hidden tokens become `mask_id` where `masked` (80 %), else one of `words` where `other` (10 %), else stay."""
    text = jnp.where(hidden & masked, mask_id, text)
    return jnp.where(hidden & ~masked & other, words, text)

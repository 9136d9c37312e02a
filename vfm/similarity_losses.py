"""Contrastive losses that need a whole similarity matrix: margins, relevancies, multi-instance and distilled ones.

Matrices are [texts, videos], row i belongs to column i, and are compared in float32. For large batches without such
needs, `vfm.contrastive` computes InfoNCE and the sigmoid loss without holding the matrix.

Letters: B pairs, V verbs, N nouns, L text tokens, F video frames, E embedding size.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vfm.contrastive import unit
from vfm.errors import UserError

Scalar = Float[Array, ""]
Matrix = Float[Array, "B B"]


def soft_cross_entropy(logits: Float[Array, "B K"], targets: Float[Array, "B K"]) -> Scalar:
    """Mean over rows of -sum_j target_ij log softmax(logits)_ij."""
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)).sum(-1).mean()


def both_directions(logits: Matrix, targets: Matrix | None = None) -> Scalar:
    """Mean of the cross-entropies over rows and over columns; `targets` (of rows and columns alike) default to I."""
    targets = jnp.eye(len(logits)) if targets is None else targets
    return (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets)) / 2


def shared_targets(ids: Int[Array, "B"]) -> Matrix:
    """Equal shares for all pairs with a row's id (UMT, InternVideo2)."""
    same = (ids[:, None] == ids).astype(jnp.float32)
    return same / same.sum(1, keepdims=True)


def egonce(
    similarity: Matrix, verbs: Float[Array, "B V"], nouns: Float[Array, "B N"], temperature: float = 0.05
) -> Scalar:
    """EgoNCE (EgoVLP): minus log of the *sum* of the positives' probabilities, summed over both directions.

    Positives share a verb and a noun; `verbs` and `nouns` are multi-hot.
    """

    def shared(tags):
        tags = unit(tags)
        return tags @ tags.T

    positive = (shared(verbs) * shared(nouns) + jnp.eye(len(similarity))) > 0
    logits = similarity.astype(jnp.float32) / temperature

    def direction(logits):
        among = jax.nn.logsumexp(jnp.where(positive, logits, -jnp.inf), axis=1)
        return (jax.nn.logsumexp(logits, axis=1) - among).mean()

    return direction(logits) + direction(logits.T)


def max_margin(
    similarity: Matrix,
    margin: float = 0.2,
    weight: Float[Array, "B"] | None = None,
    *,
    both: bool = True,
    diagonal: bool = False,
) -> Scalar:
    """Mean of relu(margin w_i - (x_ii - x_ij)) over all i != j and both directions (MI-MM).

    Args:
      weight: relevancy w_i of each drawn pair (the adaptive form, with margin 0.4); None = 1.
      both: also columns against their own diagonal.
      diagonal: count the diagonal too, which adds nothing but a constant.
    """
    margins = margin * (jnp.ones(len(similarity)) if weight is None else weight)[:, None]
    own = jnp.diagonal(similarity)[:, None]
    sides = [similarity, similarity.T] if both else [similarity]
    return _mean_of(sum(jax.nn.relu(margins - (own - x)) for x in sides) / len(sides), diagonal)


def symmetric_multi_similarity(
    similarity: Matrix,
    relevancy: Matrix,
    *,
    weight: Float[Array, "B"] | None = None,
    margin: float = 0.6,
    band: float = 0.1,
    eps: float = 1.1 / 240,
) -> Scalar:
    """SMS (EVA02-AT): pairs that are more relevant than the drawn one shall be more similar, less relevant ones less.

    Args:
      relevancy: of text i and video j; the released data hold it in steps of 1/240.
      weight: relevancy of the drawn pairs; None = the diagonal of `relevancy`.
      band: how far equally relevant ones may differ.
      eps: relevancies nearer than this are equal.
    """
    weight = (jnp.diagonal(relevancy) if weight is None else weight)[:, None]
    own = jnp.diagonal(similarity)[:, None]

    def direction(x, relevancy):
        lead = weight - relevancy
        error = margin * lead - (own - x)
        near = jnp.where(jnp.abs(lead) < eps, jax.nn.relu(jnp.abs(error) - band), jax.nn.relu(-error))
        return jnp.where(lead > eps, jax.nn.relu(error), near)

    total = direction(similarity, relevancy) + direction(similarity.T, relevancy.T)
    return _mean_of(total / 2, diagonal=False)


def quantised(relevancy: Float[Array, "..."], steps: int = 240) -> Float[Array, "..."]:
    """Relevancies in [0, 1] as bytes hold them: rounded down to a multiple of 1 / steps."""
    return relevancy * steps // 1 / steps


def dual_temperature(
    similarity: Matrix, human: Bool[Array, "B"], scale: float | Scalar, pseudo_scale: float | Scalar
) -> Scalar:
    """InfoNCE with scales of their own for human and generated captions, the geometric mean across (LaViLa)."""
    factor = jnp.where(human, jnp.sqrt(scale), jnp.sqrt(pseudo_scale))
    return both_directions(factor[:, None] * factor * similarity)


def distill(logits: Matrix, teacher_logits: Matrix) -> Scalar:
    """Cross-entropy with the teacher's softmax as target, mean of both directions (open_clip)."""
    rows, columns = (jax.nn.softmax(lax.stop_gradient(x), axis=1) for x in (teacher_logits, teacher_logits.T))
    return (soft_cross_entropy(logits, rows) + soft_cross_entropy(logits.T, columns)) / 2


def momentum_targets(momentum_logits: Float[Array, "B K"], alpha: float) -> Float[Array, "B K"]:
    """alpha x softmax of the momentum model's logits + (1 - alpha) x one-hot (ALBEF); columns beyond B are a queue."""
    own = jnp.eye(*momentum_logits.shape)
    return lax.stop_gradient(alpha * jax.nn.softmax(momentum_logits, axis=1) + (1 - alpha) * own)


def mil_nce(logits: Matrix, candidates: int) -> Scalar:
    """MIL-NCE: `candidates` neighbouring rows are positives of each other; only their middle row counts."""
    if len(logits) % candidates:
        raise UserError(f"{len(logits)} rows are not divided by {candidates} candidates of a video")
    group = jnp.arange(len(logits)) // candidates
    same = group[:, None] == group
    others = jnp.where(same, -jnp.inf, logits)
    every = jnp.concatenate([logits.T, others], axis=1)
    own = jnp.where(
        jnp.concatenate([same, same], axis=1), jnp.concatenate([logits.T, others], axis=1), -jnp.inf
    )
    rows = jax.nn.logsumexp(every, axis=1) - jax.nn.logsumexp(own, axis=1)
    return rows[candidates // 2 :: candidates].mean()


def weighted_max_margin(
    similarity: Matrix, candidates: int = 1, margin: float = 0.1, hard_rate: float = 0.5
) -> Scalar:
    """Max-margin of both directions, where other captions of one video weigh more as negatives (HowTo100M, UniVL).

    Args:
      candidates: neighbouring rows that belong to one video.
      hard_rate: share of the weight on negatives from the same video.
    """
    own = jnp.diagonal(similarity)
    error = jax.nn.relu(margin + similarity - own[:, None]) + jax.nn.relu(margin + similarity - own)
    videos = len(similarity) // candidates
    if candidates > 1 and videos > 1:
        easy = 1 - hard_rate
        group = jnp.arange(len(similarity)) // candidates
        alpha = easy / ((videos - 1) * hard_rate)
        error *= jnp.where(group[:, None] == group, 1.0, alpha) * videos * hard_rate
    return error.mean()


def token_similarity(
    text: Float[Array, "B L E"],
    text_weight: Float[Array, "B L"],
    video: Float[Array, "A F E"],
    video_weight: Float[Array, "A F"],
    text_mask: Bool[Array, "B L"],
    video_mask: Bool[Array, "A F"],
) -> Float[Array, "B A"]:
    """Each word's best frame and each frame's best word, weighted and averaged (token-wise interaction, DRL).

    Features are made unit vectors here; masked tokens count as similarity 0; weights sum to 1 over a row.
    """
    similarity = jnp.einsum("ble,afe->balf", unit(text), unit(video))
    similarity *= text_mask[:, None, :, None] * video_mask[None, :, None, :]
    of_words = (similarity.max(3) * text_weight[:, None]).sum(2)
    of_frames = (similarity.max(2) * video_weight[None]).sum(2)
    return (of_words + of_frames) / 2


def _mean_of(values: Matrix, diagonal: bool) -> Scalar:
    if diagonal:
        return values.mean()
    size = len(values)
    return jnp.where(jnp.eye(size, dtype=bool), 0, values).sum() / max(size * (size - 1), 1)

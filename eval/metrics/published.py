"""Ranks and scores exactly as published evaluations count them, quirks kept, to compare with their numbers.

Axes: N captions, V videos, S captions of a video at most.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.metrics import ranks
from eval.metrics.classification import softmax


def clip4clip_places(similarity: Float[np.ndarray, "N N"]) -> Int[np.ndarray, " E"]:
    """Every place in the sorted row whose score equals the right one's: with ties more entries than rows."""
    return ranks.rank(similarity, ties="every").entries().astype(np.int64)


def padded_groups(rows: Float[np.ndarray, "N *D"], video_of: Int[np.ndarray, " N"], videos: int):
    """Captions by video [V, S, *D], -inf where a video has fewer than S."""
    groups = [np.flatnonzero(video_of == v) for v in range(videos)]
    out = np.full((videos, max(map(len, groups)), *rows.shape[1:]), -np.inf, rows.dtype)
    for v, members in enumerate(groups):
        out[v, : len(members)] = rows[members]
    return out


def frozen_text_to_video(
    similarity: Float[np.ndarray, "N V"], mask: Bool[np.ndarray, " N"] | None = None
) -> Float[np.ndarray, " N"]:
    """Frozen in Time's ranks of captions' videos: ties are broken in favour of the right one; masked captions are no
    queries. Captions are in the order of videos, equally many of each."""
    repeats = len(similarity) // similarity.shape[1]
    found = ranks.rank(similarity, np.arange(len(similarity)) // repeats, "optimistic").entries()
    return found if mask is None else found[np.asarray(mask, bool)]


def frozen_video_to_text(
    similarity: Float[np.ndarray, "N V"], mask: Bool[np.ndarray, " N"] | None = None
) -> Float[np.ndarray, " V"]:
    """Frozen in Time's ranks of videos' captions: the mean place of all captions of equal score, the best of a video's
    captions; its other captions compete too. Masked captions stay in the ranking, at its end."""
    valid = np.ones(len(similarity), bool) if mask is None else np.asarray(mask, bool)
    repeats = len(similarity) // similarity.shape[1]
    scores = np.where(valid[:, None], similarity, -np.inf).T
    out = np.empty(len(scores))
    for v, row in enumerate(scores):
        own = [i for i in range(v * repeats, (v + 1) * repeats) if valid[i]]
        out[v] = min((row > row[i]).sum() + ((row == row[i]).sum() - 1) / 2 for i in own)
    return out


def frozen_summary(places: Float[np.ndarray, " E"], queries: int | None = None) -> dict[str, float]:
    """Frozen in Time's metrics in percent; R1 counts only places that are exactly 0."""
    queries = queries or len(places)
    found = {"R1": 100 * float((places == 0).sum()) / queries}
    found |= {f"R{k}": 100 * float((places < k).sum()) / queries for k in (5, 10, 50)}
    found |= {"MedR": float(np.median(places)) + 1, "MeanR": float(np.mean(places)) + 1}
    return found | {"geometric_mean_R1-R5-R10": float(np.cbrt(found["R1"] * found["R5"] * found["R10"]))}


def dual_softmax_loss_rows(
    similarity: Float[np.ndarray, "N N"], temperature: float
) -> Float[np.ndarray, " N"]:
    """CAMoE's loss of each row: prior = softmax over rows of similarity / temperature, scaled by N."""
    prior = softmax((similarity / temperature).T).T * len(similarity)
    return -np.diag(np.log(softmax(similarity * prior)))


def egovlp_dual_softmax(dots: Float[np.ndarray, "N V"]) -> Float[np.ndarray, "N V"]:
    """EgoVLP's scores for multi-instance retrieval: softmax over captions of softmax over videos (at 1/500) x dots."""
    return softmax((softmax(dots / 500) * dots).T).T

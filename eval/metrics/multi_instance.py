"""Retrieval with graded relevance (EPIC-Kitchens-100 multi-instance): nDCG and mAP.

Axes: Q queries, C candidates. Relevancy is in 0..1. Sorting is stable: among equals the first candidate comes first.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from eval.metrics.ranks import check_similarity


def overlap(first: Sequence[set], second: Sequence[set]) -> Float[np.ndarray, "F S"]:
    """Intersection over union of sets; 0 where both are empty."""
    return np.array([[len(a & b) / len(a | b) if a | b else 0.0 for b in second] for a in first])


def caption_relevancy(
    verbs: tuple[Sequence[int], Sequence[int]], nouns: tuple[Sequence[set], Sequence[set]]
) -> Float[np.ndarray, "Q C"]:
    """Mean of equal verb classes and of the overlap of noun classes, of (queries, candidates)."""
    same = np.asarray(verbs[0])[:, None] == np.asarray(verbs[1])[None]
    return (same + overlap(*nouns)) / 2


def _sorted(similarity: np.ndarray, relevancy: np.ndarray) -> Float[np.ndarray, "Q C"]:
    similarity = check_similarity(similarity)
    relevancy = np.asarray(relevancy, np.float64)
    if relevancy.shape != similarity.shape:
        raise ValueError(f"relevancy has shape {relevancy.shape}, similarities {similarity.shape}")
    order = np.argsort(-similarity, axis=1, kind="stable")
    return np.take_along_axis(relevancy, order, axis=1)


def gains_counted(relevancy: Float[np.ndarray, "Q C"]) -> Int[np.ndarray, "Q C"]:
    """1 for the places of a ranking that count: as many as the query has candidates of relevancy above 0."""
    relevancy = np.asarray(relevancy)
    return (np.arange(relevancy.shape[1])[None] < (relevancy > 0).sum(axis=1)[:, None]).astype(np.int64)


def dcg(similarity: Float[np.ndarray, "Q C"], relevancy: Float[np.ndarray, "Q C"]) -> Float[np.ndarray, " Q"]:
    """Sum of relevancy / log2(rank + 1), ranks from 1, over the places that count."""
    found = _sorted(similarity, relevancy)
    discount = 1.0 / np.log2(np.arange(found.shape[1]) + 2.0)
    return (found * gains_counted(relevancy) * discount).sum(axis=1)


def ndcg(
    similarity: Float[np.ndarray, "Q C"], relevancy: Float[np.ndarray, "Q C"]
) -> Float[np.ndarray, " Q"]:
    """DCG over the best possible one, of each query.

    Raises:
      ValueError: NaN, or a query to which nothing is relevant.
    """
    best = dcg(relevancy, relevancy)
    if not best.all():
        raise ValueError(f"nothing is relevant to query {int((best == 0).argmax())}; leave it out")
    return dcg(similarity, relevancy) / best


def average_precision(
    similarity: Float[np.ndarray, "Q C"], relevancy: Float[np.ndarray, "Q C"], graded: bool = True
) -> Float[np.ndarray, " Q"]:
    """Average precision of each query at its candidates of relevancy exactly 1; NaN where there is none.

    graded: precision counts the relevancy of all candidates so far, fractions too, as the published numbers do (so that
    it can exceed the usual one); else only those of relevancy 1.
    """
    found = _sorted(similarity, relevancy)
    full = found == 1
    so_far = np.cumsum(found if graded else full, axis=1) / np.arange(1, found.shape[1] + 1)
    count = full.sum(axis=1)
    return np.where(count > 0, (so_far * full).sum(axis=1) / np.maximum(count, 1), np.nan)


def both_ways(similarity: Float[np.ndarray, "Q C"], relevancy: Float[np.ndarray, "Q C"]) -> dict[str, float]:
    """nDCG and mAP of queries -> candidates (forth), back, and their means, 0..1; queries without any relevant
    candidate are left out of the mAP."""
    ways = {"forth": (similarity, relevancy), "back": (np.transpose(similarity), np.transpose(relevancy))}
    out = {}
    for way, (s, r) in ways.items():
        out[f"nDCG {way}"] = float(ndcg(s, r).mean())
        out[f"mAP {way}"] = float(np.nanmean(average_precision(s, r)))
    return out | {m: (out[f"{m} forth"] + out[f"{m} back"]) / 2 for m in ("nDCG", "mAP")}

"""Text-video retrieval: which way is judged, several captions of a video, and what is done to scores afterwards.

Axes: N captions, V videos, K nearest. Similarities are captions by videos, larger = better.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.metrics import ranks
from eval.metrics.classification import softmax
from eval.metrics.ranks import Ranks

DIRECTIONS = ("text_to_video", "video_to_text")


def merge_captions(
    captions: Sequence[Hashable], video_of: Int[np.ndarray, " N"], videos: int
) -> tuple[Int[np.ndarray, " M"], Bool[np.ndarray, "M V"]]:
    """Captions of equal words as one query, right for each video that has it (as PE evaluates).

    Returns:
      the place of each different caption's first occurrence, and which videos are right for it.
    """
    index: dict[Hashable, int] = {}
    for caption in captions:
        index.setdefault(caption, len(index))
    right = np.zeros((len(index), videos), bool)
    first = np.full(len(index), -1)
    for place, (caption, video) in enumerate(zip(captions, video_of, strict=True)):
        row = index[caption]
        right[row, video] = True
        if first[row] < 0:
            first[row] = place
    return first, right


def both_ways(
    similarity: Float[np.ndarray, "N V"],
    video_of: Int[np.ndarray, " N"] | Bool[np.ndarray, "N V"] | None = None,
    ties: str = "average",
) -> dict[str, Ranks]:
    """Ranks by direction.

    text_to_video: every caption is a query and its video the right one. video_to_text: every video is a query, its
    best caption counts, and its other captions do not compete with that one.

    Args:
      video_of: the video of each caption, or which videos a caption is right for; None = pairs.

    Raises:
      ValueError: as `ranks.rank`; a video without a caption is no query of video_to_text and raises too.
    """
    forth = ranks.rank(similarity, video_of, ties)
    right = None if video_of is None else np.asarray(video_of)
    if right is not None and right.ndim == 1:
        right = np.arange(np.shape(similarity)[1])[None] == right[:, None]
    back = ranks.rank(np.asarray(similarity).T, None if right is None else right.T, ties)
    return dict(zip(DIRECTIONS, (forth, back), strict=True))


def caption_groups(
    similarity: Float[np.ndarray, "N V"], video_of: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "V V"]:
    """Similarity of each video (row) with each video's best caption (column): the video-level way of CLIP4Clip.

    It is easier than ranking single captions: say which one was used.
    """
    similarity = ranks.check_similarity(similarity)
    groups = [np.flatnonzero(video_of == v) for v in range(similarity.shape[1])]
    if not all(len(g) for g in groups):
        raise ValueError("a video has no caption")
    return np.stack([similarity[g].max(axis=0) for g in groups], axis=1)


def dual_softmax(similarity: Float[np.ndarray, "Q C"], temperature: float = 1.0) -> Float[np.ndarray, "Q C"]:
    """Similarities times their softmax over the queries at `temperature` x similarity (CAMoE).

    A candidate that all queries like loses weight. It needs the whole set of queries at once, so it is no plain
    retrieval: report it apart, with its temperature (100 on cosines is near CLIP's logits; InternVideo2 uses 1).
    For the other direction give the transpose.
    """
    similarity = np.asarray(ranks.check_similarity(similarity), np.float64)
    return similarity * softmax((similarity * temperature).T).T


def query_bank_norm(
    similarity: Float[np.ndarray, "Q C"],
    bank: Float[np.ndarray, "B C"],
    temperature: float = 20.0,
    activated: int = 1,
) -> Float[np.ndarray, "Q C"]:
    """QB-Norm: scores of hubs divided by how much a bank of other queries (training captions) likes them.

    Only queries whose best candidate is among the `activated` best of some bank query are changed (dynamic inverted
    softmax); the bank must not hold test queries, else it is transductive as dual softmax is.
    """
    similarity = np.asarray(ranks.check_similarity(similarity), np.float64)
    bank = np.asarray(ranks.check_similarity(bank), np.float64)
    if bank.shape[1] != similarity.shape[1]:
        raise ValueError(f"the bank has {bank.shape[1]} candidates, the similarities {similarity.shape[1]}")
    most = max(float(bank.max()), float(similarity.max()))  # shifts both sums alike; keeps exp in range
    mass = np.exp(temperature * (bank - most)).sum(axis=0)
    normalised = np.exp(temperature * (similarity - most)) / np.maximum(mass, np.finfo(np.float64).tiny)
    hubs = np.zeros(similarity.shape[1], bool)
    hubs[np.argsort(-bank, axis=1, kind="stable")[:, :activated]] = True
    changed = hubs[similarity.argmax(axis=1)]
    return np.where(changed[:, None], normalised, similarity)


def nearest(similarity: Float[np.ndarray, "Q C"], k: int) -> Int[np.ndarray, "Q K"]:
    """The k best candidates of each query, best first; among equals the first ones."""
    return np.argsort(-ranks.check_similarity(similarity), axis=1, kind="stable")[:, :k]


def rerank(
    similarity: Float[np.ndarray, "Q C"],
    places: Int[np.ndarray, "Q K"],
    scores: Float[np.ndarray, "Q K"],
    weight: float = 0.0,
) -> Float[np.ndarray, "Q C"]:
    """Scores in which the candidates at `places` are ordered by `scores` + `weight` x similarity, before all others,
    which keep their order.

    Raises:
      ValueError: NaN.
    """
    similarity = np.asarray(ranks.check_similarity(similarity), np.float64)
    scores = np.asarray(ranks.check_similarity(scores), np.float64)
    new = scores + weight * np.take_along_axis(similarity, places, axis=1)
    # All others stay below the worst of the chosen ones, whatever units the two have.
    out = similarity - similarity.max() + new.min(axis=1, keepdims=True) - 1.0
    np.put_along_axis(out, places, new, axis=1)
    return out

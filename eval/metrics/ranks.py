"""The rank of what is right among what is offered, with a rule for ties that is always said.

Axes: Q queries, C candidates. Similarities are larger for the better candidate, in any unit. Ranks count from 0.
"""

from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

TIES = {
    "average": "a candidate of equal score is as likely before the right one as behind it (expected values)",
    "optimistic": "candidates of equal score stand behind the right one",
    "pessimistic": "candidates of equal score stand before the right one",
    "every": "each place of the tied ones is an entry of its own, as CLIP4Clip counts",
}


@dataclass(frozen=True)
class Ranks:
    """Where each query's best right candidate stands.

    Attributes:
      above: wrong candidates with a larger score.
      tied: wrong candidates of equal score.
      right: right candidates of that score, at least 1.
      candidates: how many candidates each query has.
      positives: how many of them are right.
      ties: a rule of `TIES`.
    """

    above: Int[np.ndarray, " Q"]
    tied: Int[np.ndarray, " Q"]
    right: Int[np.ndarray, " Q"]
    candidates: int
    positives: Int[np.ndarray, " Q"]
    ties: str = "average"

    def entries(self) -> Float[np.ndarray, " E"]:
        """The ranks, one for each query; more than one where ties = "every" and there are ties."""
        if self.ties == "average":
            # The mean place of the first of r right ones in a random order of r right and t wrong ones.
            return self.above + self.tied / (self.right + 1)
        if self.ties == "every":
            width = self.tied + self.right
            starts = np.repeat(self.above, width)
            return (starts + np.concatenate([np.arange(w) for w in width])).astype(np.float64)
        return (self.above + (self.tied if self.ties == "pessimistic" else 0)).astype(np.float64)

    def hits(self, k: int) -> Float[np.ndarray, " E"]:
        """Whether a right candidate is among the first k, 0..1; fractions are chances where the order is open."""
        if self.ties != "average":
            return (self.entries() < k).astype(np.float64)
        places = np.clip(k - self.above, 0, self.tied + self.right)
        if (self.right == 1).all():
            return places / (self.tied + 1)
        missed = [
            comb(int(t), int(j)) / comb(int(t + r), int(j))
            for t, r, j in zip(self.tied, self.right, places, strict=True)
        ]
        return 1.0 - np.asarray(missed)

    def chance(self, k: int) -> float:
        """The mean hit among the first k of a random order of all candidates, 0..1."""
        n, k = self.candidates, min(k, self.candidates)
        values, counts = np.unique(self.positives, return_counts=True)
        missed = [comb(n - int(p), k) / comb(n, k) for p in values]
        return float(1.0 - np.average(missed, weights=counts))


def check_similarity(similarity: Float[np.ndarray, "Q C"]) -> Float[np.ndarray, "Q C"]:
    """The similarities as a matrix without NaN.

    Raises:
      ValueError: it is no matrix, it is empty, or it holds NaN; the message names the first such row.
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or not similarity.size:
        raise ValueError(f"similarities have shape {similarity.shape}, expected (queries, candidates)")
    bad = np.isnan(similarity).any(axis=1)
    if bad.any():
        raise ValueError(
            f"similarities contain NaN in {int(bad.sum())} of {len(bad)} rows, first in row {int(bad.argmax())}; "
            "a rank among them has no meaning"
        )
    return similarity


def rank(
    similarity: Float[np.ndarray, "Q C"],
    right: Bool[np.ndarray, "Q C"] | Int[np.ndarray, " Q"] | None = None,
    ties: str = "average",
) -> Ranks:
    """Ranks of the right candidates.

    Args:
      right: which candidates are right: a matrix, or the index of the only one; None = the diagonal.
      ties: a rule of `TIES`.

    Raises:
      ValueError: NaN, shapes that do not fit, an unknown rule, or a query without a right candidate.
    """
    if ties not in TIES:
        raise ValueError(f"ties='{ties}': expected one of {', '.join(TIES)}")
    similarity = check_similarity(similarity)
    right = _as_matrix(similarity, right)
    positives = right.sum(axis=1)
    if not positives.all():
        raise ValueError(
            f"query {int((positives == 0).argmax())} has no right candidate ({int((positives == 0).sum())} such)"
        )
    best = np.max(similarity, axis=1, where=right, initial=-np.inf)[:, None]
    above = ((similarity > best) & ~right).sum(axis=1)
    equal = similarity == best
    return Ranks(
        above, (equal & ~right).sum(axis=1), (equal & right).sum(axis=1), similarity.shape[1], positives, ties
    )


def _as_matrix(similarity: np.ndarray, right: np.ndarray | None) -> Bool[np.ndarray, "Q C"]:
    queries, candidates = similarity.shape
    if right is None:
        if queries != candidates:
            raise ValueError(
                f"{queries} queries and {candidates} candidates are not pairs: say which is right"
            )
        return np.eye(queries, dtype=bool)
    right = np.asarray(right)
    if right.ndim == 1 and right.dtype != bool:
        if right.shape != (queries,) or right.min() < 0 or right.max() >= candidates:
            raise ValueError(f"right: expected {queries} indices in 0..{candidates - 1}")
        return np.arange(candidates)[None] == right[:, None]
    if right.shape != similarity.shape or right.dtype != bool:
        raise ValueError(
            f"right is {right.dtype} {right.shape}, expected bool {similarity.shape} or one index for each query"
        )
    return right


def summary(ranks: Ranks, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """R@k (0..1), MdR and MnR (median and mean rank, counted from 1) and the geometric mean of the R@k."""
    entries = ranks.entries()
    found = {f"R@{k}": float(ranks.hits(k).mean()) for k in ks}
    mean = float(np.prod(list(found.values())) ** (1 / len(ks)))
    return found | {"MdR": float(np.median(entries)) + 1, "MnR": float(entries.mean()) + 1, "gmean": mean}


def constant_rows(similarity: Shaped[np.ndarray, "Q C"]) -> int:
    """How many queries find all candidates equally similar: the sign of a collapsed or a blind model."""
    similarity = np.asarray(similarity)
    if similarity.shape[1] < 2:
        return 0
    return int((similarity == similarity[:, :1]).all(axis=1).sum())

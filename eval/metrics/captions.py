"""Caption metrics over a corpus, in pure Python: BLEU-1..4, ROUGE-L, CIDEr-D; METEOR through its jar.

A hypothesis is a list of words, its references are lists of words (`words.tokenise` makes them). Scores are as the
COCO caption evaluation computes them, 0..1 (CIDEr-D 0..10).
"""

from collections import Counter
from collections.abc import Sequence
from math import exp, log, sqrt

import numpy as np
from jaxtyping import Float

Words = Sequence[str]
ORDERS = (1, 2, 3, 4)
_TINY, _SMALL = 1e-15, 1e-9  # keep BLEU of a hypothesis without any 4-gram above 0, as the original does
_BETA = 1.2  # of ROUGE-L's F
_SIGMA = 6.0  # of CIDEr-D's penalty on length


def _check(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    if len(hypotheses) != len(references) or not len(hypotheses):
        raise ValueError(
            f"{len(hypotheses)} hypotheses and references of {len(references)} clips: expected as many, and some"
        )
    for i, mine in enumerate(references):
        if not len(mine) or not all(len(r) for r in mine):
            raise ValueError(f"clip {i} has no reference, or an empty one; leave it out")
    for i, words in enumerate(hypotheses):
        if isinstance(words, str):
            raise ValueError(f"hypothesis {i} is a text, expected its words")


def ngrams(words: Words, n: int) -> Counter:
    """How often each run of n words occurs."""
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _counts(words: Words, references: Sequence[Words]) -> tuple[list[int], list[int], int, int]:
    """(matches, guesses) by order, hypothesis length, closest reference length (the shorter of equally close)."""
    right, guessed = [], []
    for n in ORDERS:
        mine = ngrams(words, n)
        most: Counter = Counter()
        for reference in references:
            most |= ngrams(reference, n)
        right.append((mine & most).total())
        guessed.append(max(0, len(words) - n + 1))
    closest = min((abs(len(r) - len(words)), len(r)) for r in references)[1]
    return right, guessed, len(words), closest


def _bleu(right: Sequence[int], guessed: Sequence[int], length: int, reference_length: int) -> list[float]:
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n, (r, g) in enumerate(zip(right, guessed, strict=True), 1):
        product *= (r + _TINY) / (g + _SMALL)
        scores.append(product ** (1 / n) * brevity)
    return scores


def bleu(
    hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]
) -> tuple[Float[np.ndarray, "4"], Float[np.ndarray, "N 4"]]:
    """(corpus BLEU-1..4, the same of each clip).

    Corpus: counts are added over clips first, so it is not the mean of the clips. Brevity by the closest reference.

    Raises:
      ValueError: a clip without references, or different numbers of clips.
    """
    _check(hypotheses, references)
    rows = [_counts(h, r) for h, r in zip(hypotheses, references, strict=True)]
    right, guessed = (np.sum([row[i] for row in rows], axis=0) for i in (0, 1))
    total = _bleu(right, guessed, sum(row[2] for row in rows), sum(row[3] for row in rows))
    # An empty hypothesis has no length to take a ratio of; it scores 0.
    each = [_bleu(*row) if row[2] else [0.0] * len(ORDERS) for row in rows]
    return np.array(total), np.array(each)


def _common(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    before = [0] * (len(b) + 1)
    for word in a:
        now = [0]
        for j, other in enumerate(b):
            now.append(before[j] + 1 if word == other else max(before[j + 1], now[j]))
        before = now
    return before[-1]


def rouge_l(
    hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]
) -> tuple[float, Float[np.ndarray, " N"]]:
    """(mean ROUGE-L, of each clip); precision and recall are each the best over the references.

    Raises:
      ValueError: as `bleu`.
    """
    _check(hypotheses, references)
    scores = []
    for words, mine in zip(hypotheses, references, strict=True):
        common = [_common(words, r) for r in mine]
        precision = max(common) / max(len(words), 1)
        recall = max(c / len(r) for c, r in zip(common, mine, strict=True))
        both = recall + _BETA**2 * precision
        scores.append((1 + _BETA**2) * precision * recall / both if precision and recall else 0.0)
    return float(np.mean(scores)), np.array(scores)


def _tf_idf(words: Words, weight) -> tuple[list[dict], list[float], int]:
    """By order: tf-idf vectors and their norms; and the length that CIDEr-D uses, the number of bigrams."""
    vectors, norms = [], []
    for n in ORDERS:
        vector = {gram: tf * weight(gram) for gram, tf in ngrams(words, n).items()}
        vectors.append(vector)
        norms.append(sqrt(sum(v * v for v in vector.values())))
    return vectors, norms, max(0, len(words) - 1)


def cider_d(
    hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]
) -> tuple[float, Float[np.ndarray, " N"]]:
    """(mean CIDEr-D, of each clip), 0..10.

    Document frequencies are those of the references of these very clips: another set of clips gives other scores, and
    a single clip gives 0.

    Raises:
      ValueError: as `bleu`.
    """
    _check(hypotheses, references)
    seen: Counter = Counter()
    for mine in references:
        seen.update({gram for r in mine for n in ORDERS for gram in ngrams(r, n)})
    count = log(len(references))

    def weight(gram: tuple[str, ...]) -> float:
        return count - log(max(1, seen[gram]))

    scores = []
    for words, mine in zip(hypotheses, references, strict=True):
        vectors, norms, length = _tf_idf(words, weight)
        total = 0.0
        for reference in mine:
            theirs, their_norms, their_length = _tf_idf(reference, weight)
            penalty = exp(-((length - their_length) ** 2) / (2 * _SIGMA**2))
            for i in range(len(ORDERS)):
                if norms[i] and their_norms[i]:
                    dot = sum(
                        min(v, theirs[i].get(g, 0.0)) * theirs[i].get(g, 0.0) for g, v in vectors[i].items()
                    )
                    total += penalty * dot / (norms[i] * their_norms[i])
        scores.append(10 * total / len(ORDERS) / len(mine))
    return float(np.mean(scores)), np.array(scores)


def scores(
    hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]
) -> dict[str, tuple[float, Float[np.ndarray, " N"]]]:
    """All of the above by name: (of the corpus, of each clip)."""
    corpus, each = bleu(hypotheses, references)
    found = {f"BLEU-{n}": (float(corpus[n - 1]), each[:, n - 1]) for n in ORDERS}
    return found | {"ROUGE-L": rouge_l(hypotheses, references), "CIDEr-D": cider_d(hypotheses, references)}

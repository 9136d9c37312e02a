"""Questions with answers: multiple choice (EgoMCQ among them), exact match, and the VQA score.

Axes: Q questions, O options. Scores are larger for the better option.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from eval.metrics.ranks import check_similarity
from eval.metrics.words import normalise_answer


def choice_hits(scores: Float[np.ndarray, "Q O"], answers: Int[np.ndarray, " Q"]) -> Float[np.ndarray, " Q"]:
    """Whether the best option is the right one, 0..1: of options of equal best score each is as likely chosen.

    Options that a question does not have are -inf.

    Raises:
      ValueError: NaN, or an answer that is no option.
    """
    scores = check_similarity(scores)
    answers = np.asarray(answers)
    if answers.min() < 0 or answers.max() >= scores.shape[1]:
        raise ValueError(f"answers {answers.min()}..{answers.max()} are not all in 0..{scores.shape[1] - 1}")
    best = scores == scores.max(axis=1, keepdims=True)
    return best[np.arange(len(answers)), answers] / best.sum(axis=1)


def by_group(hits: Float[np.ndarray, " Q"], groups: Sequence[str]) -> dict[str, tuple[float, int]]:
    """(accuracy, questions) of each group, keyed by the group's own name.

    Never by its place: published EgoMCQ code swaps "inter-video" (type 1) and "intra-video" (type 2) that way.
    """
    names = np.asarray(groups, str)
    return {str(n): (float(hits[names == n].mean()), int((names == n).sum())) for n in np.unique(names)}


def ego_mcq(
    text: Float[np.ndarray, "Q D"],
    videos: Float[np.ndarray, "Q O D"],
    answers: Int[np.ndarray, " Q"],
    types: Sequence[int],
) -> dict[str, tuple[float, int]]:
    """EgoMCQ: one text, the clips to choose from; (accuracy, questions) by type and of all. 1 = inter-video, 2 = intra.

    Embeddings are normalised here.
    """

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

    hits = choice_hits(np.einsum("qd,qod->qo", unit(text), unit(videos)), answers)
    names = {1: "inter-video", 2: "intra-video"}
    out = by_group(hits, [names.get(t, str(t)) for t in types])
    return out | {"all": (float(hits.mean()), len(hits))}


def pooled_choice(scores: Float[np.ndarray, "C Q O"], how: str) -> Int[np.ndarray, " Q"]:
    """The option chosen from several clips' scores, pooled by mean, max or lse (logsumexp)."""
    if how not in ("mean", "max", "lse"):
        raise ValueError(f"how='{how}': expected mean, max or lse")
    if how == "lse":
        pooled = np.log(np.exp(scores - scores.max(axis=0)).sum(axis=0)) + scores.max(axis=0)
    else:
        pooled = getattr(scores, how)(axis=0)
    return pooled.argmax(axis=1)


def exact_match(predictions: Sequence[str], answers: Sequence[str]) -> Float[np.ndarray, " Q"]:
    """Whether each answer is right after `normalise_answer`, 0 or 1."""
    return np.array(
        [float(normalise_answer(p) == normalise_answer(a)) for p, a in zip(predictions, answers, strict=True)]
    )


_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_NUMBER = {"none": "0"} | {word: str(i) for i, word in enumerate(_NUMBERS)}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def _vqa_punctuation(text: str) -> str:
    """As the VQA evaluation: a mark that touches a space anywhere in the text, or any mark where digits are joined by a
    comma, is deleted; others become spaces; full stops go, but in decimals."""
    out = text
    for mark in _PUNCTUATION:
        joined = re.search(r"\d,\d", text)
        out = out.replace(mark, "" if f"{mark} " in text or f" {mark}" in text or joined else " ")
    return re.sub(r"(?!<=\d)(\.)(?!\d)", "", out)


def _vqa_words(text: str) -> str:
    words = [_NUMBER.get(w, w) for w in text.lower().split()]
    words = [w for w in words if w not in ("a", "an", "the")]
    return " ".join(_CONTRACTIONS.get(w, w) for w in words)


_CONTRACTIONS = {
    word.replace("'", ""): word
    for word in (
        "aren't can't couldn't could've didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll "
        "how's i'd've i'm i've isn't it'd it'll let's ma'am mightn't might've mustn't must've needn't "
        "not've o'clock oughtn't shan't she'd've shouldn't should've somebody'd somebody'll somebody's "
        "someone'd someone'll someone's something'd something'll that's there'd there're there's they'd "
        "they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's "
        "where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't "
        "y'all you'd you'll you're you've"
    ).split()
}


def vqa_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> Float[np.ndarray, " Q"]:
    """The VQA score of each question with (ten) human answers: the mean, over leaving one annotator out, of
    min(1, equal answers among the others / 3).

    Human answers are cleaned of punctuation only, and only where annotators differ; predictions always and fully.
    """
    out = []
    for prediction, given in zip(predictions, answers, strict=True):
        given = [" ".join(a.split()) for a in given]
        if len(set(given)) > 1:
            given = [_vqa_punctuation(a) for a in given]
        said = _vqa_words(_vqa_punctuation(" ".join(prediction.split())))
        equal = [said == a for a in given]
        out.append(np.mean([min(1.0, (sum(equal) - own) / 3) for own in equal]))
    return np.array(out)

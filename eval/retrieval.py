"""Text-video retrieval in both directions, with controls; dual softmax and re-ranking in rows of their own.

Axes: N captions, V videos, K nearest.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from eval import controls, sources, text_clips
from eval.metrics import published, ranks, retrieval
from eval.metrics.ranks import Ranks
from eval.model import Model, padded
from eval.text_clips import Clips, row, standard_error
from input_pipeline.chunks import EvaluationChunks, Videos
from input_pipeline.clips import Recipe
from input_pipeline.progress import Progress
from vfm.errors import UserError

TIES = (*ranks.TIES, "frozen")
RECALLS = (1, 5, 10)


def check(config: ConfigDict) -> None:
    """UserError for an impossible value."""
    r = config.retrieval
    for key, known in (
        ("ties", TIES),
        ("captions", ("all", "first", "paragraph")),
        ("duplicates", ("merge", "apart")),
    ):
        if r[key] not in known:
            raise UserError(f"config.retrieval.{key}='{r[key]}': expected one of {', '.join(known)}")
    if r.dual_softmax < 0 or r.rerank < 0:
        raise UserError(
            f"config.retrieval.dual_softmax={r.dual_softmax}, rerank={r.rerank}: expected 0 (left out) or more"
        )


def queries(
    clips: Clips, ids: Int[np.ndarray, " V"], how: str, duplicates: str
) -> tuple[list[str], Bool[np.ndarray, "N V"]]:
    """The texts that are queries, and which videos each is right for."""
    texts, video_of = [], []
    for place, index in enumerate(ids):
        mine = clips.captions(index)
        mine = {"all": mine, "first": mine[:1], "paragraph": (" ".join(mine),)}[how]
        texts += mine
        video_of += [place] * len(mine)
    if duplicates == "apart":
        return texts, np.asarray(video_of)[:, None] == np.arange(len(ids))[None]
    words = [" ".join(t.lower().split()) for t in texts]
    first, right = retrieval.merge_captions(words, np.asarray(video_of), len(ids))
    return [texts[i] for i in first], right


def _both_ways(scores: tuple[np.ndarray, np.ndarray], right: np.ndarray, ties: str) -> dict[str, Ranks]:
    """Ranks by direction; `scores` are captions by videos and videos by captions."""
    rules = ("optimistic", "average") if ties == "frozen" else (ties, ties)
    found = ranks.rank(scores[0], right, rules[0]), ranks.rank(scores[1], right.T, rules[1])
    return dict(zip(retrieval.DIRECTIONS, found, strict=True))


def _rows(placed: dict[str, Ranks], control: str, suffix: str, **more) -> list[dict]:
    out = []
    for direction, found in placed.items():
        summary, n = ranks.summary(found, RECALLS), len(found.above)
        keys = dict(candidates=found.candidates, ties=more.get("ties", found.ties)) | more
        for k in RECALLS:
            hits = found.hits(k)
            error = {"se": standard_error(hits)} if len(hits) > 1 else {}
            out.append(
                row(
                    f"R@{k}{suffix}",
                    direction,
                    summary[f"R@{k}"],
                    found.chance(k),
                    control,
                    n,
                    **keys,
                    **error,
                )
            )
        # The mean place of the first of p right ones among c in a random order.
        expected = float(((found.candidates + 1) / (found.positives + 1)).mean())
        out.append(row(f"MdR{suffix}", direction, summary["MdR"], None, control, n, **keys))
        out.append(row(f"MnR{suffix}", direction, summary["MnR"], expected, control, n, **keys))
    return out


def _frozen_rows(similarity: np.ndarray, right: np.ndarray, control: str, **more) -> list[dict]:
    """video_to_text as Frozen in Time counts it: all captions compete, ties are averaged, R@1 means place 0."""
    scores, best = similarity.T, []
    for scored, own in zip(scores, right.T, strict=True):
        mine = scored[own]
        above = (scored[None] > mine[:, None]).sum(axis=1)
        best.append((above + ((scored[None] == mine[:, None]).sum(axis=1) - 1) / 2).min())
    found = published.frozen_summary(np.array(best))
    n, task = len(best), retrieval.DIRECTIONS[1]
    chances = ranks.rank(scores, right.T)
    out = [row(f"R@{k}", task, found[f"R{k}"] / 100, chances.chance(k), control, n, **more) for k in RECALLS]
    out.append(row("MdR", task, found["MedR"], None, control, n, **more))
    return [*out, row("MnR", task, found["MeanR"], None, control, n, **more)]


def run(
    model: Model, clips: Clips, config: ConfigDict, quiet: bool = False
) -> tuple[list[dict], dict, list[str]]:
    """Rows of all controls, extras and notes.

    Raises:
      UserError: the model has no embeddings (or no matching head, where re-ranking is asked for).
    """
    check(config)
    settings = config.retrieval
    model.require("embed_video", "embed_text", *(["match"] if settings.rerank else []))
    video, ids = text_clips.embed(model, clips, config, quiet)
    texts, right = queries(clips, ids, settings.captions, settings.duplicates)
    text = model.embed_texts(texts, config.batch_size)
    more = dict(ties=settings.ties, captions=settings.captions, duplicates=settings.duplicates)
    rows, notes = [], []
    for control in config.controls:
        similarity = text @ video[control].T
        flat = ranks.constant_rows(similarity)
        if flat and control != "blind":
            notes.append(
                f"{model.name}, {control}: {flat} of {len(texts)} captions are equally similar to all videos; the "
                "model has collapsed, its parameters were not loaded, or the clips are equal"
            )
        more["spread"] = float(similarity.std(axis=1).mean())  # near 0: nothing is told apart
        placed = _both_ways((similarity, similarity.T), right, settings.ties)
        if settings.ties == "frozen":
            del placed[retrieval.DIRECTIONS[1]]
            rows += _rows(placed, control, "", **more) + _frozen_rows(similarity, right, control, **more)
        else:
            rows += _rows(placed, control, "", **more)
        if t := settings.dual_softmax:
            scores = retrieval.dual_softmax(similarity, t), retrieval.dual_softmax(similarity.T, t)
            rows += _rows(
                _both_ways(scores, right, settings.ties),
                control,
                f" (dual softmax, {t:g})",
                transductive=True,
                **more,
            )
        if settings.rerank:
            scores = _reranked(model, clips, config, control, similarity, texts, ids, quiet)
            rows += _rows(
                _both_ways(scores, right, settings.ties),
                control,
                f" (matching, best {settings.rerank})",
                **more,
            )
    different = len({" ".join(t.lower().split()) for t in texts})
    return rows, {"queries": len(texts), "different_captions": different, "videos": len(ids)}, notes


class _ClipsAgain:
    """Single clips by id, for pairs that are scored together; kept as long as memory allows a few hundred."""

    def __init__(self, model: Model, clips: Clips, config: ConfigDict, control: str):
        data = sources.data_config(model.config, clips.spec, config.data.root, config.data)
        self._chunks = EvaluationChunks(
            Videos(data, clips.spec, "config.data.test", 1.0), Recipe.from_config(data), (1, 1)
        )
        self._control, self._seed, self._mean = control, config.seed, model.config.data.mean
        self._kept: dict[int, np.ndarray] = {}

    def __call__(self, index: int) -> np.ndarray:
        if index not in self._kept:
            if len(self._kept) >= 1024:
                self._kept.pop(next(iter(self._kept)))
            video = self._chunks[index]["video"]
            video = controls.apply(self._control, video, np.array([index]), self._seed, self._mean)
            self._kept[index] = np.ascontiguousarray(video[0, 0])
        return self._kept[index]


def _reranked(
    model: Model,
    clips: Clips,
    config: ConfigDict,
    control: str,
    similarity: Float[np.ndarray, "N V"],
    texts: list[str],
    ids: Int[np.ndarray, " V"],
    quiet: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of both directions whose nearest candidates are ordered by the matching head."""
    forth = retrieval.nearest(similarity, config.retrieval.rerank)
    back = retrieval.nearest(similarity.T, config.retrieval.rerank)
    pairs = {(n, int(v)) for n, mine in enumerate(forth) for v in mine}
    pairs |= {(int(n), v) for v, mine in enumerate(back) for n in mine}
    # Pairs of one video stand together, so that each is read once.
    order = sorted(pairs, key=lambda pair: (pair[1], pair[0]))
    clip_of = _ClipsAgain(model, clips, config, control)
    scores = np.full(similarity.shape, np.nan)
    bar = Progress(len(order), f"{model.name}, {control}: matching", "pairs", quiet)
    for first in range(0, len(order), config.batch_size):
        part = order[first : first + config.batch_size]
        ids_of, mask, _ = model.rows([texts[n] for n, _ in part])
        video = np.stack([clip_of(int(ids[v])) for _, v in part])
        arrays = [padded(x, config.batch_size) for x in (video, ids_of, mask)]
        found = np.asarray(model.call("match", *arrays), np.float32)[: len(part)]
        for (n, v), score in zip(part, found, strict=True):
            scores[n, v] = score
        bar.to(first + len(part))
    bar.close(f"{model.name}, {control}: {len(order):,} pairs matched")
    weight = config.retrieval.rerank_weight
    return (
        retrieval.rerank(similarity, forth, np.take_along_axis(scores, forth, axis=1), weight),
        retrieval.rerank(similarity.T, back, np.take_along_axis(scores.T, back, axis=1), weight),
    )

"""Questions about clips: multiple choice by embedding or by likelihood, and open answers by generation.

Axes: Q questions, O options, L tokens of text.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from eval import text_clips
from eval.captioning import decoding, generate
from eval.metrics import choices
from eval.model import Model, padded
from eval.text_clips import Clips, row, standard_error
from eval.zero_shot import clean_name
from input_pipeline.spec import folder_of
from input_pipeline.text import conversation_row
from vfm.errors import UserError

WAYS = ("auto", "embedding", "likelihood")


@dataclass(frozen=True)
class Question:
    """One question about a clip; without options its answer is open. `type` groups questions in the results."""

    clip: int
    question: str
    options: tuple[str, ...]
    answer: int
    text: str  # of the right answer
    type: str


def check(config: ConfigDict) -> None:
    """UserError for an impossible value."""
    c = config.choice
    if c.by not in WAYS:
        raise UserError(f"config.choice.by='{c.by}': expected one of {', '.join(WAYS)}")
    if c.normalise not in ("mean", "sum"):
        raise UserError(f"config.choice.normalise='{c.normalise}': expected mean or sum")
    if c.source not in ("captions", "classes") and not Path(c.source).is_file():
        raise UserError(
            f"config.choice.source='{c.source}': no such file; expected captions, classes or a .jsonl file of questions"
        )
    if c.options < 2 and not (c.options == 0 and c.source == "classes"):
        raise UserError(f"config.choice.options={c.options}: expected at least 2 (0 = all, of classes)")
    if c.source == "classes" and not config.tasks:
        raise UserError("config.choice.source='classes' needs config.tasks: the columns that are asked about")


def from_captions(clips: Clips, options: int, seed: int) -> list[Question]:
    """Each clip's first caption among those of other clips that have other words; drawn and ordered by seed and clip.

    Raises:
      UserError: there are fewer different captions than options.
    """

    def words(text: str) -> str:
        return " ".join(text.lower().split())

    mine = {int(i): {words(c) for c in clips.captions(i)} for i in clips.chosen}
    pool = {}  # by their words, so that capitals and spaces make no two of one
    for i in clips.chosen:
        caption = clips.captions(i)[0]
        pool.setdefault(words(caption), caption)
    known = list(pool)
    out = []
    for i in map(int, clips.chosen):
        rng = np.random.default_rng((seed, i))
        found = [known[k] for k in rng.permutation(len(known)) if known[k] not in mine[i]]
        others = [pool[caption] for caption in found[: options - 1]]
        if len(others) < options - 1:
            raise UserError(
                f"config.choice.options={options}: '{clips.spec}' has only {len(others) + 1} different captions"
            )
        out.append(_shuffled(i, "", clips.captions(i)[0], others, "captions", rng))
    return out


def from_classes(clips: Clips, tasks: tuple[str, ...], options: int, seed: int) -> list[Question]:
    """For each task: the clip's class among others."""
    out = []
    for task in tasks:
        labels, names = clips.classes(task)
        names = [clean_name(n) for n in names]
        count = min(options or len(names), len(names))
        for i in map(int, clips.chosen):
            rng = np.random.default_rng((seed, i))
            wrong = [n for k, n in enumerate(names) if k != labels[i]]
            others = [wrong[k] for k in rng.permutation(len(wrong))[: count - 1]]
            out.append(_shuffled(i, "", names[labels[i]], others, task, rng))
    return out


def _shuffled(clip: int, question: str, right: str, wrong: list[str], kind: str, rng) -> Question:
    options = [right, *wrong]
    order = rng.permutation(len(options))
    at = int(np.flatnonzero(order == 0)[0])
    return Question(clip, question, tuple(options[k] for k in order), at, right, kind)


def from_file(clips: Clips, file: str) -> tuple[list[Question], list[str]]:
    """Questions of a .jsonl file about clips of the set, and notes on those whose clip is not in it.

    Raises:
      UserError: a line is not as it should be; the message names it.
    """
    chosen = set(clips.chosen.tolist())
    place = {os.path.normpath(path): i for i, path in enumerate(clips.source.paths)}
    root = folder_of(clips.spec)
    out, missing = [], []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file} line {number}"
        try:
            item = json.loads(line)
            name, answer, options = str(item["video"]), item["answer"], tuple(item.get("options", ()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f'{where}: expected {{"video": ..., "question": ..., "answer": ...}}, {error!r}'
            ) from error
        index = place.get(os.path.normpath(name), place.get(os.path.normpath(root / name)))
        if index is None or index not in chosen:
            missing.append(name)
            continue
        right = options[answer] if isinstance(answer, int) and 0 <= answer < len(options) else answer
        if options and right not in options:
            raise UserError(f"{where}: the answer {answer!r} is none of the options {list(options)}")
        at = options.index(right) if options else 0
        out.append(
            Question(
                index,
                str(item.get("question", "")),
                options,
                at,
                str(right),
                str(item.get("type", "questions")),
            )
        )
    if not out:
        raise UserError(f"{file}: no question is about a clip of '{clips.spec}' (first: {missing[:3]})")
    notes = (
        [f"{len(missing)} questions are about clips that are not in the set: {missing[:5]}"]
        if missing
        else []
    )
    return out, notes


def run(
    model: Model, clips: Clips, config: ConfigDict, quiet: bool = False
) -> tuple[list[dict], dict, list[str]]:
    """Rows (accuracy of each type and of all questions), the answers, and notes.

    Raises:
      UserError: the model can do neither what `config.choice.by` asks for, nor what the questions need.
    """
    check(config)
    c, notes = config.choice, []
    if c.source == "captions":
        questions = from_captions(clips, c.options, config.seed)
    elif c.source == "classes":
        questions = from_classes(clips, tuple(config.tasks), c.options, config.seed)
    else:
        questions, notes = from_file(clips, c.source)
    by = c.by if c.by != "auto" else ("embedding" if model.has("embed_video") else "likelihood")
    chosen = [q for q in questions if q.options]
    opened = [q for q in questions if not q.options]
    model.require(
        *(("embed_video", "embed_text") if by == "embedding" else ("likelihood",)) if chosen else ()
    )
    model.require(*["generate"] if opened else ())
    rows, answers = [], {}
    if chosen:
        work = _by_embedding if by == "embedding" else _by_likelihood
        found, kept = work(model, clips, config, chosen, quiet)
        for control, scores in found.items():
            hits = choices.choice_hits(scores, np.array([q.answer for q in kept]))
            rows += _rows("choice accuracy", hits, kept, control, by=by, source=c.source)
            answers[control] = [
                {"clip": q.clip, "chosen": q.options[int(s.argmax())], "answer": q.text}
                for q, s in zip(kept, scores, strict=True)
            ]
    if opened:
        found, kept = _open_answers(model, clips, config, opened, quiet)
        for control, said in found.items():
            hits = choices.exact_match(said, [q.text for q in kept])
            rows += _rows("exact answer", hits, kept, control, by="generation", source=c.source)
            answers.setdefault(control, []).extend(
                {"clip": q.clip, "said": s, "answer": q.text} for q, s in zip(kept, said, strict=True)
            )
    return rows, {"answers": answers}, notes


def _rows(metric: str, hits: np.ndarray, questions: list[Question], control: str, **more) -> list[dict]:
    """One row for each type of question, and one for all where there are several."""
    types = [q.type for q in questions]
    chances = np.array([1 / len(q.options) if q.options else np.nan for q in questions])

    def one(task: str, where: np.ndarray) -> dict:
        chance = None if np.isnan(chances[where]).any() else float(chances[where].mean())
        return row(
            metric,
            task,
            hits[where].mean(),
            chance,
            control,
            where.sum(),
            se=standard_error(hits[where]),
            **more,
        )

    out = [one(task, np.array([t == task for t in types])) for task in choices.by_group(hits, types)]
    return out if len(out) == 1 else [*out, one("all questions", np.ones(len(hits), bool))]


def _of_read_clips(questions: list[Question], ids: np.ndarray) -> tuple[list[Question], np.ndarray]:
    """Questions about clips that could be read, and the places of their clips."""
    place = {int(i): k for k, i in enumerate(ids)}
    kept = [q for q in questions if q.clip in place]
    return kept, np.array([place[q.clip] for q in kept])


def _full(question: Question, option: str) -> str:
    return f"{question.question} {option}".strip()


def _by_embedding(
    model: Model, clips: Clips, config: ConfigDict, questions: list[Question], quiet: bool
) -> tuple[dict[str, Float[np.ndarray, "Q O"]], list[Question]]:
    """Cosine of clip and question with option."""
    video, ids = text_clips.embed(model, clips, config, quiet)
    kept, places = _of_read_clips(questions, ids)
    texts = list(dict.fromkeys(_full(q, o) for q in kept for o in q.options))
    vectors = dict(zip(texts, model.embed_texts(texts, config.batch_size), strict=True))
    out = {}
    for control, mine in video.items():
        scores = np.full((len(kept), max(len(q.options) for q in kept)), -np.inf)
        for k, (q, place) in enumerate(zip(kept, places, strict=True)):
            scores[k, : len(q.options)] = [float(vectors[_full(q, o)] @ mine[place]) for o in q.options]
        out[control] = scores
    return out, kept


def _layout_rows(
    model: Model, question: str, options: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`text`, `text_mask`, `text_loss` of options as answers: to the question, or to the run's own prompt."""
    if not question:
        return model.rows(options)
    rows = [conversation_row(model.tokenizer, model.layout, ((question, option),)) for option in options]
    model.cut |= {f"{question} {option}" for option, row in zip(options, rows, strict=True) if row.cut}
    return tuple(np.stack([getattr(row, key) for row in rows]) for key in ("ids", "mask", "loss"))


def _by_likelihood(
    model: Model, clips: Clips, config: ConfigDict, questions: list[Question], quiet: bool
) -> tuple[dict[str, Float[np.ndarray, "Q O"]], list[Question]]:
    """Log-likelihood of each option as the answer, by token or in sum; of the clips' first view."""
    by_clip: dict[int, list[int]] = {}
    for k, q in enumerate(questions):
        by_clip.setdefault(q.clip, []).append(k)
    table = {
        control: np.full((len(questions), max(len(q.options) for q in questions)), -np.inf)
        for control in config.controls
    }
    blind: dict[tuple[str, str], float] = {}

    def work(control: str, video: np.ndarray, ids: np.ndarray) -> np.ndarray:
        asked = [
            (b, k, o)
            for b, i in enumerate(ids.tolist())
            for k in by_clip.get(i, [])
            for o in range(len(questions[k].options))
        ]
        pairs = [(questions[k].question, questions[k].options[o]) for _, k, o in asked]
        if control == "blind":
            new = [pair for pair in dict.fromkeys(pairs) if pair not in blind]
            blind.update(zip(new, _likelihoods(model, config, None, new), strict=True))
            scores = [blind[pair] for pair in pairs]
        else:
            scores = _likelihoods(model, config, video[:, 0], pairs, [b for b, _, _ in asked])
        for (_, k, o), score in zip(asked, scores, strict=True):
            table[control][k, o] = score
        return np.zeros(len(ids))

    _, ids = text_clips.over_clips(model, clips, config, work, quiet, f"{model.name}: likelihoods")
    read = np.isin([q.clip for q in questions], ids)
    kept = [q for q, there in zip(questions, read, strict=True) if there]
    return {control: scores[read] for control, scores in table.items()}, kept


def _likelihoods(
    model: Model,
    config: ConfigDict,
    video: np.ndarray | None,
    pairs: list[tuple[str, str]],
    places: list[int] | None = None,
) -> Float[np.ndarray, " n"]:
    """Of (question, answer) pairs, each about the clip at its place; `video` None = blind. Calls have one size."""
    out = [np.zeros(0)]
    for first in range(0, len(pairs), config.batch_size):
        part = slice(first, first + config.batch_size)
        rows = [_layout_rows(model, question, [option]) for question, option in pairs[part]]
        arrays = [padded(np.concatenate(x), config.batch_size) for x in zip(*rows, strict=True)]
        shown = None if video is None else padded(video[places[part]], config.batch_size)
        found = np.asarray(model.call("likelihood", shown, *arrays), np.float64)[: len(rows)]
        tokens = (arrays[1] & arrays[2]).sum(axis=1)[: len(rows)]
        out.append(found / np.maximum(tokens, 1) if config.choice.normalise == "mean" else found)
    return np.concatenate(out)


def _open_answers(
    model: Model, clips: Clips, config: ConfigDict, questions: list[Question], quiet: bool
) -> tuple[dict[str, list[str]], list[Question]]:
    """What the model says to each question."""
    options = decoding(model, config)
    by_clip: dict[int, list[Question]] = {}
    for q in questions:
        by_clip.setdefault(q.clip, []).append(q)
    said: dict[str, dict[tuple[int, str], str]] = {control: {} for control in config.controls}

    def work(control: str, video: np.ndarray, ids: np.ndarray) -> np.ndarray:
        asked = sorted({q.question for i in ids.tolist() for q in by_clip.get(i, [])})
        for question in asked:
            prompt = model.prompt_ids(model.layout.turn.replace("{}", question) if question else None)
            room = max(model.layout.length - len(prompt), 1)
            mine = options | {"length": config.captions.length or room}
            shown = None if control == "blind" else np.ascontiguousarray(video[:, 0])
            rows = generate(model, shown, prompt, mine, config.seed, ids)
            rows = np.repeat(rows[:1], len(ids), axis=0) if control == "blind" else rows
            for index, ids_of in zip(ids.tolist(), rows, strict=True):
                said[control][index, question] = model.tokenizer.decode(ids_of).strip()
        return np.zeros(len(ids))

    _, ids = text_clips.over_clips(model, clips, config, work, quiet, f"{model.name}: answers")
    kept, _ = _of_read_clips(questions, ids)
    return {c: [found[q.clip, q.question] for q in kept] for c, found in said.items()}, kept

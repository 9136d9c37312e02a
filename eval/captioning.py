"""Captions: a model tells what clips show; its words are scored, and read for the classes that they name.

Axes: N clips, P tokens of a prompt, L of a caption.
"""

import functools
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from eval import pictures, text_clips
from eval.metrics import captions, meteor
from eval.metrics.words import first_named, tokenise
from eval.model import Model
from eval.text_clips import Clips, row, standard_error
from eval.zero_shot import clean_name
from vfm.errors import UserError

METHODS = ("greedy", "beam", "nucleus")
SIDE = 112  # pixels of a shown frame


def check(config: ConfigDict) -> None:
    """UserError for an impossible value, or for METEOR where it cannot be had."""
    c = config.captions
    if c.method not in METHODS:
        raise UserError(f"config.captions.method='{c.method}': expected one of {', '.join(METHODS)}")
    if c.blind not in ("nothing", "blank"):
        raise UserError(f"config.captions.blind='{c.blind}': expected nothing or blank")
    if c.length < 0 or c.shown < 0 or c.beams < 1:
        raise UserError(
            f"config.captions.length={c.length}, shown={c.shown}, beams={c.beams}: expected 0 or more, beams from 1"
        )
    if c.meteor and (why := meteor.unavailable()):
        raise UserError(f"config.captions.meteor: {why}")


def decoding(model: Model, config: ConfigDict) -> dict:
    """Options of `generate`."""
    c = config.captions
    room = model.layout.length - len(model.prompt_ids())
    options = dict(length=c.length or max(room, 1), method=c.method)
    if c.method == "beam":
        options |= dict(beams=c.beams, length_penalty=c.length_penalty)
    if c.method == "nucleus":
        options |= dict(top_p=c.top_p, temperature=c.temperature)
    return options


def generate(
    model: Model,
    video: np.ndarray | None,
    prompt: list[int],
    options: dict,
    seed: int,
    ids: Int[np.ndarray, "B"],
) -> Int[np.ndarray, "B L"]:
    """Ids behind a prompt, in one compiled function for each shape; `video` None = blind, of which there is one row.

    What nucleus sampling draws for a clip depends on the seed and its id, not on the batch that it is in.
    """
    key = ("generate", tuple(prompt), tuple(sorted(options.items())))
    if key not in model._compiled:
        nucleus = options["method"] == "nucleus"

        def call(params, video, seed, ids):
            key = jax.random.key(seed)
            more = {"rng": jax.vmap(functools.partial(jax.random.fold_in, key))(ids)} if nucleus else {}
            return model.objective.generate(params, video, np.asarray(prompt, np.int32), **options, **more)

        model._compiled[key] = jax.jit(call)
    ids = ids[:1] if video is None else ids[: len(video)]
    return np.asarray(model._compiled[key](model.params, video, seed, ids.astype(np.uint32)))


def write(
    model: Model, clips: Clips, config: ConfigDict, quiet: bool = False
) -> tuple[dict[str, list[str]], Int[np.ndarray, " N"], dict[int, np.ndarray]]:
    """Captions by control, the clips' ids, and the frames of those that are shown."""
    options, prompt = decoding(model, config), model.prompt_ids()
    places = np.linspace(0, len(clips.chosen) - 1, min(config.captions.shown, len(clips.chosen)))
    wanted = {int(clips.chosen[i]) for i in places.round().astype(int)}
    frames: dict[int, np.ndarray] = {}
    said: dict[str, np.ndarray] = {}

    def work(control: str, video: np.ndarray, ids: np.ndarray) -> np.ndarray:
        if control == "none":
            for one, index in zip(video, ids.tolist(), strict=True):
                if index in wanted and index not in frames:
                    frames[index] = pictures.shrink(one[0], SIDE)
        if control == "blind":
            # All clips are one.
            if "blind" not in said:
                blank = None if config.captions.blind == "nothing" else np.ascontiguousarray(video[:1, 0])
                said["blind"] = generate(model, blank, prompt, options, config.seed, ids)[:1]
            return np.repeat(said["blind"], len(video), axis=0)
        # A caption is of one view: the first.
        return generate(model, np.ascontiguousarray(video[:, 0]), prompt, options, config.seed, ids)

    found, ids = text_clips.over_clips(model, clips, config, work, quiet, f"{model.name}: captions")
    texts = {name: [model.tokenizer.decode(r).strip() for r in rows] for name, rows in found.items()}
    return texts, ids, frames


def score(
    said: list[str], references: list[tuple[str, ...]], config: ConfigDict
) -> dict[str, tuple[float, np.ndarray]]:
    """Caption metrics by name: (of the corpus, of each clip); an empty caption scores 0."""
    ptb = config.captions.ptb
    words = [tokenise(text, ptb) for text in said]
    theirs = [[t for r in mine if (t := tokenise(r, ptb))] for mine in references]
    found = captions.scores(words, theirs)
    if config.captions.meteor:
        found["METEOR"] = meteor.meteor(words, theirs)
    same = np.array([float(w in t) for w, t in zip(words, theirs, strict=True)])
    return found | {"exact": (float(same.mean()), same)}


def run(
    model: Model, clips: Clips, config: ConfigDict, quiet: bool = False
) -> tuple[list[dict], dict, list[str]]:
    """Rows (caption metrics, and how often the first class that a caption names is the clip's), the captions, notes.

    Raises:
      UserError: the model does not write text.
    """
    check(config)
    model.require("generate")
    found = {task: clips.classes(task) for task in config.tasks}
    texts, ids, frames = write(model, clips, config, quiet)
    references = [clips.captions(i) for i in ids]
    rows, notes = [], []
    n = len(ids)
    for control, said in texts.items():
        different, empty = len(set(said)), sum(not text for text in said)
        more = dict(method=config.captions.method, different=different, empty=empty)
        for name, (value, each) in score(said, references, config).items():
            rows.append(row(name, "caption", value, None, control, n, se=standard_error(each), **more))
        right = np.ones(n)
        for task, (labels, names) in found.items():
            named = np.array([first_named(text, [clean_name(c) for c in names]) for text in said])
            hits = (named == labels[ids]).astype(np.float64)
            right *= hits
            none = float((named < 0).mean())
            chance = 1 / len(names)
            rows.append(
                row(
                    "named", task, hits.mean(), chance, control, n, se=standard_error(hits), none=none, **more
                )
            )
        if len(found) > 1:
            chance = float(np.prod([1 / len(names) for _, names in found.values()]))
            both = " and ".join(found)
            rows.append(
                row("named", both, right.mean(), chance, control, n, se=standard_error(right), **more)
            )
        if empty:
            notes.append(f"{model.name}, {control}: {empty} of {n} captions are empty and score 0")
        if control == "none" and different < min(n, 10):
            common = Counter(said).most_common(1)[0]
            notes.append(
                f"{model.name}: only {different} different captions for {n} clips; '{common[0]}' {common[1]} times"
            )
    shown = [
        {
            "id": int(i),
            "path": clips.source.paths[i],
            "references": list(clips.captions(i)),
            "generated": {control: said[int(np.flatnonzero(ids == i)[0])] for control, said in texts.items()},
        }
        for i in sorted(frames)
    ]
    every = [
        {"id": int(i), **{control: said[place] for control, said in texts.items()}}
        for place, i in enumerate(ids)
    ]
    return rows, {"shown": shown, "captions": every, "frames": frames}, notes


def save_frames(folder: Path, frames: dict[str, dict[int, np.ndarray]]) -> None:
    """Frames uint8 [T, h, w, 3] of shown clips by encoder, as captions.npz with keys "ENCODER/ID"."""
    draft = folder / ".captions.part.npz"
    named = {f"{name}/{i}": video for name, mine in frames.items() for i, video in mine.items()}
    np.savez_compressed(draft, **named)
    draft.replace(folder / "captions.npz")

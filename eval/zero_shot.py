"""Zero-shot classification: clips are compared with prompts that name the classes.

Axes: N clips, C classes, P prompts of a class, E of an embedding.
"""

import itertools
import re

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from eval import text_clips
from eval.metrics import classification, ranks
from eval.model import Model
from eval.text_clips import Clips, row, standard_error
from vfm.errors import UserError

_ARTICLE = re.compile(r"\ba\(n\) (\S+)")
_SOUNDS_LIKE_A_VOWEL = re.compile(r"(?!one|once|uni|us[aei]|eu)[aeiou]")


def clean_name(name: str) -> str:
    """A class name as a caption would have it: "ApplyEyeMakeup" -> "apply eye makeup", "[something]" -> "something"."""
    name = re.sub(r"\[(.*?)\]", r"\1", name).replace("_", " ")
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(name.lower().split())


def prompts(task: str, names: dict[str, list[str]], templates: tuple[str, ...]) -> list[list[str]]:
    """The prompts of each class of a task.

    Args:
      names: class names of all columns that a template may name.
      templates: with "{}" or "{TASK}" for the class; "{COLUMN}" of another column runs through all of its classes, and
        "a(n)" becomes the article of the next word.

    Raises:
      UserError: no template names the task, or one names an unknown column.
    """
    used = []
    for template in templates:
        columns = re.findall(r"\{(.*?)\}", template)
        unknown = [c for c in columns if c and c not in names]
        if unknown:
            raise UserError(
                f"config.zero_shot.templates: '{template}' names '{unknown[0]}', which is no column with named "
                f"classes; there are: {', '.join(names)}"
            )
        if "" in columns or task in columns:
            used.append((template, [c for c in dict.fromkeys(columns) if c and c != task]))
    if not used:
        raise UserError(
            f"config.zero_shot.templates: none has {{}} or {{{task}}} for the classes of '{task}': {list(templates)}"
        )
    out: list[list[str]] = []
    for name in names[task]:
        mine = []
        for template, others in used:
            for values in itertools.product(*(names[c] for c in others)):
                text = template.replace("{}", name).replace(f"{{{task}}}", name)
                for column, value in zip(others, values, strict=True):
                    text = text.replace(f"{{{column}}}", value)
                mine.append(
                    _ARTICLE.sub(
                        lambda m: ("an " if _SOUNDS_LIKE_A_VOWEL.match(m[1].lower()) else "a ") + m[1], text
                    )
                )
        out.append(list(dict.fromkeys(mine)))
    return out


def class_scores(
    video: Float[np.ndarray, "N E"], prompts: list[Float[np.ndarray, "P E"]], average: str
) -> Float[np.ndarray, "N C"]:
    """Cosine of clips and classes; prompts are averaged as embeddings (then unit vectors again) or as similarities."""
    if average not in ("embeddings", "similarities"):
        raise UserError(f"config.zero_shot.average='{average}': expected embeddings or similarities")
    means = np.stack([p.mean(axis=0) for p in prompts])
    if average == "embeddings":
        means = means / np.maximum(np.linalg.norm(means, axis=-1, keepdims=True), 1e-12)
    return video @ means.T


def run(
    model: Model, clips: Clips, config: ConfigDict, quiet: bool = False
) -> tuple[list[dict], dict, list[str]]:
    """Rows (top-1, top-5 and mean class accuracy of each task and control, and of all tasks at once), extras and notes.

    Raises:
      UserError: the model has no embeddings, or a class is not named.
    """
    model.require("embed_video", "embed_text")
    settings = config.zero_shot
    found = {task: clips.classes(task) for task in config.tasks}
    # A template may also name columns that are no tasks.
    columns = {c: clips.classes(c)[1] for c in clips.source.label_names if c not in found}
    names = {task: list(n) for task, (_, n) in found.items()} | columns
    if settings.clean:
        names = {task: [clean_name(n) for n in mine] for task, mine in names.items()}
    texts = {task: prompts(task, names, tuple(settings.templates)) for task in config.tasks}
    vectors = {}
    for task, by_class in texts.items():
        flat = model.embed_texts([t for mine in by_class for t in mine], config.batch_size)
        vectors[task] = np.split(flat, np.cumsum([len(mine) for mine in by_class])[:-1])
    video, ids = text_clips.embed(model, clips, config, quiet)
    rows = []
    for control in config.controls:
        right = np.ones(len(ids))
        for task in config.tasks:
            labels, classes = found[task][0][ids], found[task][1]
            scores = class_scores(video[control], vectors[task], settings.average)
            placed = ranks.rank(scores, labels)
            hits = placed.hits(1)
            right = right * hits
            more = dict(classes=len(classes), prompts=len(texts[task][0]), average=settings.average)
            n = len(ids)
            rows.append(
                row("top-1", task, hits.mean(), 1 / len(classes), control, n, se=standard_error(hits), **more)
            )
            if len(classes) > 5:
                rows.append(row("top-5", task, placed.hits(5).mean(), 5 / len(classes), control, n, **more))
            per_class = [hits[labels == c].mean() for c in np.unique(labels)]
            rows.append(
                row("mean class accuracy", task, np.mean(per_class), 1 / len(classes), control, n, **more)
            )
            if control == "none":
                matrix = classification.confusion_matrix(scores.argmax(axis=1), labels, len(classes))
                rows[-1]["per_class"] = [
                    None if np.isnan(a) else float(a) for a in classification.per_class_accuracy(matrix)
                ]
        if len(config.tasks) > 1:
            chance = float(np.prod([1 / len(found[t][1]) for t in config.tasks]))
            both = " and ".join(config.tasks)
            rows.append(row("top-1", both, right.mean(), chance, control, len(ids), se=standard_error(right)))
    return rows, {"prompts": texts}, []

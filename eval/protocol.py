"""Protocols: which probes see which labels of which split, and what is reported.

Axes: N clips, V views, D width, S seeds, C classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from eval import controls, knn, labels, results
from eval.feature_set import FeatureSet
from eval.probes import Head, Outcome, Split, probe
from input_pipeline.progress import Progress
from vfm.errors import UserError

PROBES = ("linear", "attentive", "knn")


@dataclass
class Task:
    """One label column over the three splits, checked."""

    name: str
    classes: int
    class_names: list[str]
    y: dict[str, Int[np.ndarray, " N"]]


def check(config: ConfigDict) -> None:
    """Mistakes in an evaluation config that need no data.

    Raises:
      UserError: names the key.
    """
    if config.protocol not in ("split", "leave_one_group_out"):
        raise UserError(f"config.protocol='{config.protocol}': expected split or leave_one_group_out")
    for name in config.probes:
        if name not in PROBES:
            raise UserError(f"config.probes: '{name}' is unknown; expected some of {', '.join(PROBES)}")
    if not config.tasks or not config.probes or not config.labels:
        raise UserError("config.tasks, config.probes and config.labels must each name at least one")
    _check_group_keys(config)
    controls.check(config.controls)
    if len(config.views) != 2 or not all(isinstance(v, int) and v >= 1 for v in config.views):
        raise UserError(f"config.views={tuple(config.views)}: expected (clips, crops), two numbers from 1")
    if config.batch_size < 1:
        raise UserError(f"config.batch_size={config.batch_size}: expected at least 1")
    if config.pooling not in ("mean", "cls"):
        raise UserError(f"config.pooling='{config.pooling}': expected mean or cls")
    if not config.knn.temperature > 0:
        raise UserError(
            f"config.knn.temperature={config.knn.temperature}: expected more than 0, such as 0.07"
        )
    if config.seeds < 1:
        raise UserError(f"config.seeds={config.seeds}: expected at least 1")
    if config.feature_dtype not in ("float16", "float32"):
        raise UserError(f"config.feature_dtype='{config.feature_dtype}': expected float16 or float32")
    for budget in config.labels:
        if budget != "all" and (not isinstance(budget, int) or budget < 1):
            raise UserError(f"config.labels: {budget!r}: expected 'all' or a number of clips of each class")
    for name in ("linear", "attentive"):
        if not config[name].lr or not config[name].weight_decay:
            raise UserError(f"config.{name}.lr and config.{name}.weight_decay need at least one value each")
    if not config.knn.k or min(config.knn.k) < 1 or config.knn.group_k < 1:
        raise UserError(
            f"config.knn.k={tuple(config.knn.k)}, group_k={config.knn.group_k}: expected numbers from 1"
        )


def _check_group_keys(config: ConfigDict) -> None:
    """Keys that leave_one_group_out would ignore are not set."""
    if config.protocol != "leave_one_group_out":
        return
    if tuple(config.probes) != ("knn",) or tuple(config.labels) != ("all",):
        raise UserError(
            f"config.probes={tuple(config.probes)}, labels={tuple(config.labels)}: leave_one_group_out is kNN with all "
            "labels; use --config configs/eval/groups.py, or probes=('knn',) and labels=('all',)"
        )
    if set(config.controls) != {"none"}:
        raise UserError(
            f"config.controls={tuple(config.controls)}: leave_one_group_out judges clips as they are; leave it out"
        )
    for key in ("validation", "test"):
        if config.data[key]:
            raise UserError(
                f"config.data.{key}='{config.data[key]}': leave_one_group_out uses one set, config.data.train; "
                "leave it out"
            )


def _as_in_training(
    task: str, split: str, found: FeatureSet, names: list[str] | None
) -> Int[np.ndarray, " N"]:
    """Labels of a split, counted as in the training split; classes that both name are the same by name.

    Raises:
      UserError: a class that the training split does not know.
    """
    y, own = found.labels(task), found.class_names(task)
    if not own or own == names:
        return y
    if not names:
        if task not in found.words:
            return y  # names beside this split alone: the numbers are what the splits share
        raise UserError(
            f"task '{task}': the {split} split has names ('{own[y[0]]}'), the training split has numbers; use one kind"
        )
    for value in np.unique(y):
        if value < len(own) and own[value] not in names:
            raise UserError(
                f"task '{task}': '{own[value]}' in the {split} split is no class of the training split, which has: "
                f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}; correct the column '{task}'"
            )
    index = np.array([names.index(n) if n in names else -1 for n in own], np.int32)
    return index[y]


def make_task(name: str, sets: dict[str, FeatureSet]) -> Task:
    """Labels of all splits; classes are those of the training split: its names, or 0..its largest label."""
    names = sets["train"].class_names(name)
    y = {split: _as_in_training(name, split, s, names) for split, s in sets.items()}
    classes = len(names) if names else int(y["train"].max(initial=-1)) + 1
    for split, values in y.items():
        labels.check(values, classes, name, split, names)
    for split in ("validation", "test"):
        labels.check_present(y[split], y["train"], name, split)
    return Task(name, classes, list(names or map(str, range(classes))), y)


def _inputs(sets: dict[str, FeatureSet], task: Task, pooling: str) -> tuple[dict, dict]:
    """Standardised pooled features and raw tokens, as splits."""
    pooled = {name: s.pooling(pooling) for name, s in sets.items()}
    # A batch norm without affine: statistics of the training clips, whose labels it does not need.
    train = pooled["train"]
    mean, std = train.mean((0, 1)), train.std((0, 1)) + 1e-6
    linear = {n: Split(((x - mean) / std).astype(np.float32), task.y[n]) for n, x in pooled.items()}
    attentive = {n: Split(s.tokens, task.y[n]) for n, s in sets.items() if s.tokens is not None}
    return linear, attentive


def _knn(sets: dict[str, FeatureSet], task: Task, subsets: list[np.ndarray], config: ConfigDict) -> Outcome:
    pooled = {name: s.pooling(config.pooling).mean(axis=1) for name, s in sets.items()}
    judged = [name for name in sets if name not in ("train", "validation")]
    queries, sizes = np.concatenate([pooled[name] for name in judged]), [len(pooled[name]) for name in judged]
    found = []
    for rows in subsets:
        if found and np.array_equal(rows, subsets[0]):
            found.append(found[0])  # with all labels nothing is left to chance
            continue
        found.append(
            knn.classify(
                pooled["train"][rows],
                task.y["train"][rows],
                (pooled["validation"], task.y["validation"]),
                queries,
                ks=tuple(config.knn.k),
                classes=task.classes,
                temperature=config.knn.temperature,
            )
        )
    predictions = np.split(np.stack([f[0] for f in found]), np.cumsum(sizes)[:-1], axis=1)
    controlled = dict(zip(judged, predictions, strict=True))
    predictions = controlled.pop("test")
    accuracy = (predictions == task.y["test"]).sum(1) / len(task.y["test"])
    chosen = [{"k": f[1]} for f in found]
    return Outcome(predictions, accuracy, np.array([f[2] for f in found]), chosen, controlled)


def run_one(
    sets: dict[str, FeatureSet],
    task: Task,
    name: str,
    budget: int | str,
    config: ConfigDict,
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """One probe with one label budget, all seeds."""
    seeds = list(range(config.seeds))
    subsets = [labels.subset(task.y["train"], budget, seed) for seed in seeds]
    if name == "knn":
        return _knn(sets, task, subsets, config)
    linear, attentive = _inputs(sets, task, config.pooling)
    settings = config[name].to_dict()
    if name == "linear":
        head, splits = Head("linear", linear["train"].x.shape[-1]), linear
    else:
        width = attentive["train"].x.shape[-1]
        head = Head("attentive", width, config.attentive.heads, config.attentive.mlp_ratio)
        splits = attentive
    return probe(head, splits, np.stack(subsets), seeds, settings, task.classes, progress)


def plan(config: ConfigDict) -> Iterator[tuple[str, str, int | str]]:
    """(task, probe, labels) in the order of the table."""
    for task in config.tasks:
        for name in config.probes:
            for budget in config.labels:
                yield task, name, budget


def run(
    features: dict[str, dict[str, FeatureSet]],
    config: ConfigDict,
    about: dict[str, dict],
    quiet: bool = False,
) -> tuple[list[dict], dict[str, np.ndarray], dict[str, list[str]], list[str]]:
    """All probes on all encoders.

    Args:
      features: by encoder, then by split (train, validation, test).
      about: further keys of an encoder's rows, such as `step`.

    Returns:
      rows, confusion matrices by row, class names by task, and notes for the reader.
    """
    rows, confusions, notes = [], {}, []
    tasks = {e: {t: make_task(t, sets) for t in config.tasks} for e, sets in features.items()}
    todo = [(e, *p) for e in features for p in plan(config)]
    bar = Progress(len(todo), "probes", "probes", quiet)
    for number, (encoder, task_name, name, budget) in enumerate(todo):
        task = tasks[encoder][task_name]
        title = f"{encoder} {task_name} {name} {budget}"

        def progress(fraction: float, number=number, title=title) -> None:
            bar.to(number + fraction, title)

        short = labels.short_classes(task.y["train"], budget)
        if short:
            notes.append(
                f"{task_name}: {len(short)} of {task.classes} classes have fewer than {budget} training clips; "
                "all of theirs were used"
            )
        outcome = run_one(features[encoder], task, name, budget, config, progress)
        for split, predictions in {"test": outcome.predictions, **outcome.controlled}.items():
            row, confusion = results.row(
                predictions, task.y[split], task.classes,
                encoder=encoder, probe=name, task=task_name, labels=budget, split="test",
                validation=float(outcome.validation.mean()), chosen=outcome.chosen,
                pooling="attentive" if name == "attentive" else config.pooling,
                protocol="split", views=list(config.views), control=split.partition("/")[2] or "none",
                **about.get(encoder, {}),
            )  # fmt: skip
            rows.append(row)
            confusions[results.key(row)] = confusion
        progress(1.0)
    bar.close(f"{len(todo)} probes, {config.seeds} seeds each")
    class_names = {t: task.class_names for t, task in next(iter(tasks.values())).items()}
    return rows, confusions, class_names, list(dict.fromkeys(notes))

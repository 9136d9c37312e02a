"""Results of an evaluation: JSON lines, confusion matrices and a table on the terminal.

A row of a probe in results.jsonl: {"encoder", "probe", "task", "labels", "split", "accuracy" (mean over seeds, 0..1),
"std" (spread over seeds, of the population), "seeds", "n" (examples of the split)} and what explains it: "per_seed",
"chosen", "validation", "pooling", "protocol", "views", "step", "per_class", "majority" (share of the largest class).
Every row, also of the evaluations with text, says {"encoder", "stage" (of its training), "task", "metric", "value",
"chance" (what guessing gives, or none), "control" (what was done to the clips), "n"}; accuracies, recalls and all other
shares are 0..1.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int
from rich.console import Console
from rich.table import Table

from eval.metrics import classification
from vfm.errors import UserError
from vfm.train.config import replace_text

COMMON = ("encoder", "stage", "task", "metric", "value", "chance", "control", "n")  # of every row
REQUIRED = ("encoder", "probe", "task", "labels", "split", "accuracy", "std", "seeds", "n")

DIAGNOSTIC = "nearest_in_own_group"  # protocol of rows that tell about features, but not how good they are


def row(
    predictions: Int[np.ndarray, "S N"],
    truth: Int[np.ndarray, " N"],
    classes: int,
    /,
    **keys,
) -> tuple[dict, Int[np.ndarray, "C C"]]:
    """A result's row and its confusion matrix, counts summed over seeds."""
    confusions = [classification.confusion_matrix(p, truth, classes) for p in predictions]
    per_seed = [int(np.trace(c)) / len(truth) for c in confusions]
    total = np.sum(confusions, axis=0)
    per_class = classification.per_class_accuracy(total)
    counts = np.bincount(truth, minlength=classes)
    found = {
        **keys,
        "accuracy": float(np.mean(per_seed)),
        "std": float(np.std(per_seed)),
        "seeds": len(per_seed),
        "n": len(truth),
        "per_seed": per_seed,
        "per_class": [None if np.isnan(a) else float(a) for a in per_class],
        "mean_class_accuracy": classification.mean_class_accuracy(total),
        "majority": int(counts.max()) / len(truth),
        "metric": "accuracy",
        "value": float(np.mean(per_seed)),
        "chance": 1 / classes,
        "control": keys.get("control", "none"),
    }
    return {key: found[key] for key in (*REQUIRED, *(k for k in found if k not in REQUIRED))}, total


def key(row: dict) -> str:
    """Name of a row's confusion matrix."""
    parts = [str(row[k]) for k in ("encoder", "task", "probe", "labels")]
    return "/".join(parts if is_plain(row) else [*parts, row["control"]])


def save(
    workdir: Path, rows: list[dict], confusions: dict[str, np.ndarray], class_names: dict[str, list[str]]
) -> None:
    """Write results.jsonl and confusion.npz (matrices by `key`, class names as "classes/TASK"), each whole or not;
    results.jsonl last."""
    workdir.mkdir(parents=True, exist_ok=True)
    draft = workdir / ".confusion.part.npz"
    names = {f"classes/{task}": np.asarray(n, str) for task, n in class_names.items()}
    np.savez_compressed(draft, **confusions, **names)
    draft.replace(workdir / "confusion.npz")
    replace_text(workdir / "results.jsonl", "".join(json.dumps(r) + "\n" for r in rows))


def load(place: str | Path) -> tuple[list[dict], dict[str, np.ndarray], dict[str, list[str]]]:
    """(rows, confusion matrices by `key`, class names by task) of a results.jsonl or the folder that holds it.

    Raises:
      UserError: there is none, or a line is no result.
    """
    file = Path(place)
    file = file / "results.jsonl" if file.is_dir() else file
    if not file.is_file():
        raise UserError(
            f"results '{file}' do not exist; make them with python -m eval --workdir {file.parent}"
        )
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
            missing = [k for k in (REQUIRED if is_probe(rows[-1]) else COMMON) if k not in rows[-1]]
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"'{file}' line {number} is no JSON object; run python -m eval again") from error
        if missing:
            raise UserError(f"'{file}' line {number} lacks '{missing[0]}'; run python -m eval again")
    matrices, names = {}, {}
    beside = file.with_name("confusion.npz")
    if beside.is_file():
        with np.load(beside) as saved:
            for name in saved.files:
                if name.startswith("classes/"):
                    names[name.removeprefix("classes/")] = saved[name].tolist()
                else:
                    matrices[name] = saved[name]
    return rows, matrices, names


def is_plain(row: dict) -> bool:
    """Whether a row is about clips as they are, and not under a control."""
    return row.get("control", "none") == "none"


def is_probe(row: dict) -> bool:
    """Whether a row is a probe's, and not of an evaluation with text."""
    return "metric" not in row or "probe" in row


def is_baseline(name: str, spec: str = "") -> bool:
    """Whether an encoder is an untrained one, by its SPEC where that is known, or else by its name."""
    return bool(re.match(r"([\w.-]+=)?random:", spec)) if spec else name == "random"


def ordered(rows: list[dict], specs: Mapping[str, str] | None = None) -> list[str]:
    """Names of the encoders as they first occur, untrained ones last; `specs`: name -> SPEC, where known."""
    names = dict.fromkeys(r["encoder"] for r in rows)
    return sorted(names, key=lambda n: is_baseline(n, (specs or {}).get(n, "")))


def percent(row: dict) -> str:
    """ "83.1 ± 0.4", in percent."""
    return f"{100 * row['accuracy']:.1f} ± {100 * row['std']:.1f}"


def print_table(
    rows: list[dict], console: Console | None = None, specs: Mapping[str, str] | None = None
) -> None:
    """One line a task, probe and budget; a column for each encoder, and how far the first is ahead of the last.

    `specs`: SPEC of each encoder; untrained ones come last.
    """
    console = console or Console()
    if not console.is_terminal:  # a log has no width of its own
        console.width = 120
    encoders = ordered(rows, specs)
    table = Table(title="Accuracy in %, mean ± spread over seeds")
    heads = ["split", "task", "probe", "labels", *([] if all(map(is_plain, rows)) else ["control"])]
    for name in heads:
        table.add_column(name)
    for name in encoders:
        table.add_column(name, justify="right")
    if len(encoders) > 1:
        table.add_column("ahead", justify="right")
    table.add_column("largest class", justify="right")
    table.add_column("n", justify="right")
    groups: dict[tuple, dict[str, dict]] = {}
    for r in rows:
        line = (r["split"], r["task"], r["probe"], str(r["labels"]), r.get("control", "none"))
        groups.setdefault(line, {})[r["encoder"]] = r
    previous = None
    for line, found in groups.items():
        task = line[1]
        any_row = next(iter(found.values()))
        cells = [percent(found[e]) if e in found else "" for e in encoders]
        if len(encoders) > 1:
            ends = [found.get(encoders[0]), found.get(encoders[-1])]
            ahead = 100 * (ends[0]["accuracy"] - ends[1]["accuracy"]) if all(ends) else None
            if any_row.get("protocol") == DIAGNOSTIC:  # nearer to one's own group is not better
                ahead = None
            colour = "green" if (ahead or 0) > 0 else "red"
            cells.append("" if ahead is None else f"[{colour}]{ahead:+.1f}[/]")
        if previous not in (None, task):
            table.add_section()
        previous = task
        majority = any_row.get("majority")
        cells += ["" if majority is None else f"{100 * majority:.1f}", str(any_row["n"])]
        table.add_row(*line[: len(heads)], *cells)
    console.print(table)


def number(row: dict, value: float | None) -> str:
    """A value as a table shows it: shares in percent, ranks and CIDEr-D as they are."""
    if value is None:
        return ""
    plain = row["metric"].startswith(("MdR", "MnR", "CIDEr"))
    return f"{value:.2f}" if plain else f"{100 * value:.1f}"


def print_text_table(
    rows: list[dict], console: Console | None = None, specs: Mapping[str, str] | None = None
) -> None:
    """Evaluations with text: one line a task, metric and control; a column for each encoder."""
    console = console or Console()
    if not console.is_terminal:  # a log has no width of its own
        console.width = 120
    encoders = ordered(rows, specs)
    table = Table(title="Shares in %; MdR, MnR (ranks from 1) and CIDEr-D as they are")
    for name in ("task", "metric", "control"):
        table.add_column(name)
    for name in (*encoders, "chance", "n"):
        table.add_column(name, justify="right")
    groups: dict[tuple, dict[str, dict]] = {}
    for r in rows:
        groups.setdefault((r["task"], r["metric"], r["control"]), {})[r["encoder"]] = r
    previous = None
    for (task, metric, control), found in sorted(groups.items(), key=lambda g: g[0][:1]):
        if previous not in (None, task):
            table.add_section()
        previous = task
        any_row = next(iter(found.values()))
        cells = [number(found[e], found[e]["value"]) if e in found else "" for e in encoders]
        table.add_row(task, metric, control, *cells, number(any_row, any_row["chance"]), str(any_row["n"]))
    console.print(table)

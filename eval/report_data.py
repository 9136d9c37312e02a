"""What a report is made from: a run's folder, and what an evaluation left behind."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from eval import results
from vfm import rules
from vfm.train import checkpoint
from vfm.train.config import load_config


@dataclass
class Run:
    """What a run's folder holds."""

    folder: Path
    config: ConfigDict
    metrics: list[dict]
    environment: dict
    bad_files: list[dict]
    parameters: dict[str, int]
    step: int


@dataclass
class Evaluation:
    """What an evaluation left behind."""

    rows: list[dict]
    confusions: dict[str, np.ndarray]
    class_names: dict[str, list[str]]
    about: dict = field(default_factory=dict)

    @property
    def specs(self) -> dict[str, str]:
        """SPEC of each encoder, as far as it is known."""
        return {n: e.get("spec", "") for n, e in self.about.get("encoders", {}).items()}

    @property
    def encoders(self) -> list[str]:
        """Names; untrained ones last."""
        return results.ordered(self.rows, self.specs)

    def untrained(self, name: str) -> bool:
        return results.is_baseline(name, self.specs.get(name, ""))

    @property
    def scores(self) -> list[dict]:
        """Rows that judge features."""
        return [r for r in self.rows if r.get("protocol") != results.DIAGNOSTIC]

    @property
    def diagnostics(self) -> list[dict]:
        """Rows that describe features."""
        return [r for r in self.rows if r.get("protocol") == results.DIAGNOSTIC]

    def tasks(self) -> list[str]:
        return list(dict.fromkeys(r["task"] for r in self.scores))

    def of(self, task: str) -> dict[tuple[str, str], dict[str, dict]]:
        """(probe, labels) -> encoder -> row."""
        out: dict[tuple[str, str], dict[str, dict]] = {}
        for r in self.scores:
            if r["task"] == task:
                out.setdefault((r["probe"], str(r["labels"])), {})[r["encoder"]] = r
        return out


def _lines(file: Path) -> list[dict]:
    """Objects of a JSON-lines file; a last line that a killed run left half-written is ignored."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def _json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def read_run(folder: Path) -> tuple[Run, dict]:
    """The run and all its parameters.

    Raises:
      UserError: no config or checkpoint.
    """
    config = load_config(folder)
    params, step = checkpoint.restore_params(folder)
    counts = {
        part: sum(int(np.size(a)) for a in rules.flatten(tree).values()) for part, tree in params.items()
    }
    run = Run(
        folder,
        config,
        _lines(folder / "metrics.jsonl"),
        _json(folder / "environment.json"),
        [row for file in sorted(folder.glob("bad_files*.jsonl")) for row in _lines(file)],
        counts,
        step,
    )
    return run, params


def read_evaluation(place: Path) -> Evaluation:
    """An evaluation's results, from results.jsonl or the folder that holds it.

    Raises:
      UserError: there are none.
    """
    folder = place if place.is_dir() else place.parent
    return Evaluation(*results.load(place), _json(folder / "evaluation.json"))

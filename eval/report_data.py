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
    shown: list[dict]  # account of each process of what was planned and shown, see vfm.train.shown
    parameters: dict[str, int]
    step: int


@dataclass
class Evaluation:
    """What an evaluation left behind."""

    rows: list[dict]
    confusions: dict[str, np.ndarray]
    class_names: dict[str, list[str]]
    about: dict = field(default_factory=dict)
    samples: dict[str, dict] = field(default_factory=dict)  # by encoder: captions, prompts, answers
    frames: dict[str, np.ndarray] = field(default_factory=dict)  # uint8 [T, h, w, 3] by "ENCODER/ID"

    @property
    def specs(self) -> dict[str, str]:
        """SPEC of each encoder, as far as it is known."""
        return {n: e.get("spec", "") for n, e in self.about.get("encoders", {}).items()}

    @property
    def encoders(self) -> list[str]:
        """Names of those that were probed (or else of all); untrained ones last."""
        return results.ordered(self.scores or self.diagnostics or self.rows, self.specs)

    def untrained(self, name: str) -> bool:
        return results.is_baseline(name, self.specs.get(name, ""))

    @property
    def scores(self) -> list[dict]:
        """Rows of probes that judge features of clips as they are."""
        return [r for r in self.judged if results.is_plain(r)]

    @property
    def judged(self) -> list[dict]:
        """Rows of probes that judge features, also of clips under controls."""
        return [r for r in self.rows if results.is_probe(r) and r.get("protocol") != results.DIAGNOSTIC]

    @property
    def text(self) -> list[dict]:
        """Rows of evaluations with text."""
        return [r for r in self.rows if not results.is_probe(r)]

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


def _last(by_step: dict) -> dict:
    return by_step[max(by_step, key=int)]


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
        [_last(_json(file)) for file in sorted(folder.glob("input*.json"))],
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
    frames = {}
    if (folder / "captions.npz").is_file():
        with np.load(folder / "captions.npz") as saved:
            frames = {name: saved[name] for name in saved.files}
    about, samples = _json(folder / "evaluation.json"), _json(folder / "samples.json")
    return Evaluation(*results.load(place), about, samples, frames)


def read_evaluations(places: list[Path]) -> Evaluation:
    """Several evaluations as one; what only one can say (its config, its clips) is the first's.

    Raises:
      UserError: one has no results.
    """
    whole, *others = [read_evaluation(place) for place in places]
    for other in others:
        # An evaluation may have been copied into another's results: a figure is shown once.
        whole.rows += [r for r in other.rows if r not in whole.rows]
        whole.confusions |= other.confusions
        whole.class_names |= other.class_names
        for name, mine in other.samples.items():
            whole.samples[name] = whole.samples.get(name, {}) | mine
        whole.frames |= other.frames
        whole.about["encoders"] = other.about.get("encoders", {}) | whole.about.get("encoders", {})
        for key in ("notes", "bad_files"):
            found = whole.about.get(key, [])
            whole.about[key] = found + [x for x in other.about.get(key, []) if x not in found]
    return whole

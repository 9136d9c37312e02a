"""The benchmark of a training step runs and prints its table; what it measures is not judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench import contrast, protocol
from vfm.errors import UserError

ROOT = Path(__file__).parents[2]
TOY = ("--frames", "2", "--image_size", "32", "--batch", "2", "--precision", "float32")


def bench(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "scripts.bench.step", *TOY, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_two_steps_of_ours_give_a_table_and_a_file(tmp_path):
    done = bench("--rounds", "2", "--steps", "1", "--unroll", "1", "--json", str(tmp_path / "step.json"))
    assert done.returncode == 0, done.stderr
    for column in ("clips/s", "model GFLOP/s", "peak MiB", "ours, jax"):
        assert column in done.stdout
    ours = json.loads((tmp_path / "step.json").read_text())["results"][0]
    assert len(ours["seconds"]) == 2
    assert min(ours["clips_per_s"], ours["flops_per_s"], ours["peak_bytes"]) > 0
    # The standardised target of noise has variance 1.
    assert 0.5 < ours["first_loss"] < 5
    if "ours/torch" not in done.stdout:
        assert "--torch_python" in done.stdout, "it says how to get the comparison"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--precision", "float33"), "float33"),
        (("--torch_python", "no-such-python"), "no-such-python"),
    ],
)
def test_mistakes_are_one_line(arguments, named):
    failed = bench(*arguments)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ") and named in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


def test_a_contender_called_by_hand_names_the_benchmark(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ours", "--help"])
    with pytest.raises(SystemExit, match="started by python -m scripts.bench.step"):
        protocol.serve(None)


@pytest.mark.parametrize(
    "words", [("--rows", "-1"), ("--size", "0"), ("--chunks", "abc"), ("--chunks", "-4")]
)
def test_impossible_sizes_of_the_contrastive_benchmark_are_refused(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["contrast", "=".join(words)])
    with pytest.raises(UserError, match=f"{words[0]} '?{words[1]}'?: expected"):
        contrast.main()

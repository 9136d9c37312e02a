"""main.py on real videos: killed, terminated and started again, it ends in the bits of the uninterrupted run."""

import json
import os
import signal
import subprocess
import time

import pytest

from input_pipeline import embedded
from vfm.train import checkpoint

STEPS = 40


class Runs:
    """Starts main.py on a few small videos."""

    def __init__(self, toy, home):
        self.toy, self.home = toy, home
        self.data = embedded.make(home / "data", sizes=dict(train=48, validation=1, test=1), workers=1)

    def start(self, name: str, *overrides: str) -> subprocess.Popen:
        options = {
            "data.train": self.data / "train.csv",
            "data.frames": 8,
            "data.size": 16,
            "data.cache_size": 16,
            "total_steps": STEPS,
            "batch_size": 16,
            "log_every": "2 steps",
            "checkpoint.every": "4 steps",
            "checkpoint.keep": 3,
            "optim.warmup": "4 steps",
            "model.encoder.width": 32,
            "model.encoder.depth": 1,
            "model.encoder.image_size": 16,
            "model.encoder.frames": 8,
            "objective.predictor.width": 16,
            "ema": 0.9,
        }
        given = [f"--config.{key}={value}" for key, value in options.items()]
        command = ["main.py", "--config=configs/quickstart.py", f"--workdir={self.home / name}"]
        cache = str(self.home / "compiled")
        return self.toy.start(*command, *given, *overrides, JAX_COMPILATION_CACHE_DIR=cache)


@pytest.fixture(scope="module")
def runs(toy, tmp_path_factory):
    runs = Runs(toy, tmp_path_factory.mktemp("resume"))
    runs.printed = {"whole": toy.finish(runs.start("whole"))}

    process = runs.start("broken")
    toy.wait_for_step(runs.home / "broken", 10, process)
    process.kill()
    process.wait()
    runs.killed_at = toy.last_step(runs.home / "broken")

    process = runs.start("broken")
    toy.wait_for_step(runs.home / "broken", 24, process)
    process.send_signal(signal.SIGTERM)
    runs.printed["terminated"] = toy.finish(process)
    runs.left = sorted(int(p) for p in os.listdir(runs.home / "broken" / "checkpoints") if p.isdigit())

    runs.printed["resumed"] = toy.finish(runs.start("broken", "--config.log_every=4 steps"))
    return runs


def test_the_last_parameters_are_equal_bit_for_bit(runs):
    assert 10 <= runs.killed_at < STEPS
    for which in ("params", "ema"):
        ends = [checkpoint.restore_params(runs.home / name, None, which) for name in ("whole", "broken")]
        assert [step for _, step in ends] == [STEPS, STEPS]
        assert len({checkpoint.sha256(params) for params, _ in ends}) == 1


def test_the_script_lists_steps_sizes_and_digests(toy, runs):
    done = toy.run("-m", "scripts.checkpoint", str(runs.home / "broken"))
    assert done.returncode == 0 and not done.stderr, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [int(step) for step, *_ in rows] == [32, 36, 40]
    assert all(float(size) > 0 for _, size, *_ in rows)
    params, _ = checkpoint.restore_params(runs.home / "whole")
    assert rows[-1][3] == checkpoint.sha256(params)


def test_sigterm_saves_the_step_at_hand_and_leaves_with_exit_code_0(runs):
    step = runs.left[-1]
    assert 24 <= step < STEPS
    assert "SIGTERM: saving after the next step, then leaving\n" in runs.printed["terminated"]
    assert f"SIGTERM: saved step {step} of {STEPS}" in runs.printed["terminated"]
    assert f"resume from step {step}" in runs.printed["resumed"]


def test_curves_have_no_gaps_and_no_duplicates(runs):
    def curve(name):
        rows = map(json.loads, (runs.home / name / "metrics.jsonl").read_text().splitlines())
        return {row["step"]: row["train/loss"] for row in rows}, rows

    whole, broken = curve("whole")[0], curve("broken")[0]
    assert list(whole) == list(range(2, STEPS + 1, 2))
    assert list(broken) == sorted(set(broken)) and list(broken)[-1] == STEPS
    same = [step for step in whole if step in broken and step <= runs.killed_at // 4 * 4]
    assert same and all(whole[step] == broken[step] for step in same)


def test_a_harmless_change_is_noted_when_the_run_resumes(runs):
    assert (
        "note: config.log_every was '2 steps' when the run was saved, is '4 steps'" in runs.printed["resumed"]
    )


def test_a_run_leaves_config_environment_events_and_few_checkpoints(runs):
    folder = runs.home / "broken"
    assert json.loads((folder / "config.json").read_text())["batch_size"] == 16
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["devices"] == 1 and environment["seconds"] > 0
    assert list((folder / "tensorboard").glob("events*"))
    assert sorted(int(p.name) for p in (folder / "checkpoints").iterdir()) == [32, 36, 40]


def test_a_finished_run_says_that_there_is_nothing_to_do(toy, runs):
    assert "nothing to do" in toy.finish(runs.start("whole"))


def test_another_model_in_the_same_folder_is_refused(runs):
    process = runs.start("whole", "--config.model.encoder.depth=2", "--config.objective.mask.ratio=0.5")
    text, _ = process.communicate(timeout=200)
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1 and len(errors) == 1 and "Traceback" not in text
    assert (
        "config.model.encoder.depth was 1, is 2" in errors[0] and "config.objective.mask.ratio" in errors[0]
    )
    assert checkpoint.steps(runs.home / "whole")[-1] == STEPS


def nobody_left(group: int) -> bool:
    """Whether all processes of a group end within some seconds of their parent."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_sigterm_to_the_whole_job_leaves_decoding_processes_at_work(toy, runs):
    process = runs.start(
        "job", "--config.data.workers=1", "--config.data.cache=False", "--config.total_steps=4000"
    )
    toy.wait_for_step(runs.home / "job", 6, process)
    os.killpg(process.pid, signal.SIGTERM)
    printed = toy.finish(process)
    assert "SIGTERM: saved step" in printed
    assert nobody_left(process.pid)

"""What a run writes and says besides its checkpoints; and that it leaves in order when it is told to."""

import importlib.util
import json
import os
import signal

import numpy as np
import pytest

from vfm.errors import UserError
from vfm.train import checkpoint, progress, train
from vfm.train.writers import BadFiles, JsonLines


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_report_has_loss_rates_and_times(toy, tmp_path, caplog):
    caplog.set_level("INFO")
    train(toy.config(log_every="2 steps"), tmp_path, objective=toy.objective, batches=toy.batches())
    written = rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in written] == [2, 4, 6]
    for row in written:
        names = {
            "time",
            "train/loss",
            "lr",
            "grad_norm",
            "step_time",
            "data_wait",
            "clips_per_s",
            "mfu",
            "skipped",
        }
        assert names <= row.keys()
        assert row["step_time"] >= row["data_wait"] >= 0 and row["clips_per_s"] > 0
    assert "step 4/6  loss" in caplog.text and "left" in caplog.text
    assert "encoder/blocks" in caplog.text and "total" in caplog.text and "start from scratch" in caplog.text


def test_the_evaluator_gets_the_average_and_its_numbers_are_logged(toy, tmp_path):
    seen = {}

    def evaluator(step, params):
        seen[step] = np.asarray(params["encoder"]["norm"]["scale"])
        return {"eval/accuracy": step / 10}

    config = toy.config(total_steps=5, ema=0.5, **{"eval.every": "2 steps"})
    state = train(config, tmp_path, objective=toy.objective, batches=toy.batches(), evaluator=evaluator)
    assert list(seen) == [2, 4, 5]
    np.testing.assert_array_equal(seen[5], state["ema"]["encoder"]["norm"]["scale"])
    found = {
        row["step"]: row["eval/accuracy"]
        for row in rows(tmp_path / "metrics.jsonl")
        if "eval/accuracy" in row
    }
    assert found == {2: 0.2, 4: 0.4, 5: 0.5}


def test_sigterm_in_the_middle_saves_and_leaves(toy, tmp_path, caplog):
    caplog.set_level("INFO")
    before = signal.getsignal(signal.SIGTERM)

    def evaluator(step, params):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    config = toy.config(**{"eval.every": "3 steps", "checkpoint.every": "100%"})
    state = train(config, tmp_path, objective=toy.objective, batches=toy.batches(), evaluator=evaluator)
    # It hears the signal after step 3 and leaves at the end of the next.
    assert int(state["step"]) == 4 and checkpoint.steps(tmp_path) == [4]
    assert "SIGTERM: saved step 4 of 6" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is before


def test_lines_after_the_step_of_a_resumed_run_are_dropped(tmp_path):
    lines = JsonLines(tmp_path, 0)
    for step in (2, 4, 6):
        lines.write_scalars(step, {"time": step / 2, "loss": float("nan") if step == 4 else 1.0})
    lines.close()
    with lines.file.open("a") as file:
        file.write('{"step": 8, "lo')  # killed while it wrote
    again = JsonLines(tmp_path, 4)
    assert again.seconds_before == 2.0
    again.write_scalars(5, {"loss": 2.0})
    again.close()
    assert [(row["step"], row["loss"]) for row in rows(lines.file)] == [(2, 1.0), (4, None), (5, 2.0)]


def test_a_bad_file_is_written_down_once_also_after_a_restart(tmp_path, caplog):
    one, two = ({"path": f"{name}.mp4", "reason": "no video stream"} for name in "ab")
    listed = BadFiles(tmp_path)
    listed.update([one])
    listed.update([one, two])
    BadFiles(tmp_path).update([two])
    assert rows(tmp_path / "bad_files.jsonl") == [one, two]
    assert caplog.text.count("a.mp4") == caplog.text.count("b.mp4") == 1


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is not None, reason="tells what to do where wandb is missing"
)
def test_weights_and_biases_without_its_package_is_a_clear_error(toy, tmp_path):
    with pytest.raises(UserError, match="config.wandb=True needs the package wandb"):
        train(toy.config(wandb=True), tmp_path, objective=toy.objective, batches=toy.batches())


def test_times_read_like_a_clock():
    assert [progress.clock(s) for s in (7, 750, 7509)] == ["0:07", "12:30", "2:05:09"]

"""The same run on 1 device, on 8 (2 data x 2 fsdp x 2 tensor) and in 2 processes; resumed from one on another."""

import json
import signal
import socket
import subprocess

import jax
import numpy as np
import pytest

from vfm.train import checkpoint

WORKER = "tests/train/mesh_worker.py"


class Workers:
    """Starts mesh_worker.py in processes of its own."""

    def __init__(self, toy, home):
        self.toy, self.home = toy, home

    def start(
        self, devices: int, mesh: str, *jobs: tuple[str, str, str], **environment: str
    ) -> subprocess.Popen:
        jobs = [
            ":".join([steps, *(str(self.home / run) if run else "" for run in rest)]) for steps, *rest in jobs
        ]
        return self.toy.start(
            WORKER,
            mesh,
            *jobs,
            devices=devices,
            JAX_COMPILATION_CACHE_DIR=str(self.home / "compiled"),
            **environment,
        )

    def pair(self, *jobs: tuple[str, str, str]) -> list[subprocess.Popen]:
        """Two processes with a device each that talk to each other."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        join = dict(JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2")
        return [self.start(1, "2,1,1", *jobs, **join, JAX_PROCESS_ID=str(index)) for index in range(2)]


@pytest.fixture(scope="module")
def workers(toy, tmp_path_factory):
    return Workers(toy, tmp_path_factory.mktemp("meshes"))


@pytest.fixture(scope="module")
def runs(toy, workers):
    """Folders of all the runs, by name, and what the workers printed."""
    printed = {"one": toy.finish(workers.start(1, "1,1,1", ("4", "", "one"), ("4", "", "one-contrast")))}
    printed["eight"] = toy.finish(
        workers.start(
            8, "2,2,2", ("4", "", "eight"), ("4", "one", "eight-from-one"), ("4", "", "eight-contrast")
        )
    )
    two = workers.pair(("4", "", "two"), ("4", "one", "two-from-one"), ("4", "", "two-contrast"))
    printed["two"], printed["second of two"] = map(toy.finish, two)
    back = workers.start(1, "1,1,1", ("4", "eight", "one-from-eight"), ("4", "two", "one-from-two"))
    printed["back"] = toy.finish(back)
    return workers.home, printed


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    return np.array([(row["train/loss"], row["grad_norm"]) for row in rows])


CONTRAST = ("eight-contrast", "two-contrast")
NAMES = ("eight", "two", "eight-from-one", "two-from-one", "one-from-eight", "one-from-two")


def twin(name):
    """The run on one device with the same model."""
    return "one-contrast" if name in CONTRAST else "one"


@pytest.mark.parametrize("name", (*NAMES, *CONTRAST))
def test_losses_are_those_of_one_device(runs, name):
    home, _ = runs
    one, other = losses(home / twin(name)), losses(home / name)
    np.testing.assert_allclose(other[:, 0], one[:, 0], rtol=1e-5)
    np.testing.assert_allclose(other[:, 1], one[:, 1], rtol=1e-4)


@pytest.mark.parametrize("name", (*NAMES, *CONTRAST))
def test_parameters_end_where_those_of_one_device_do(runs, name):
    home, _ = runs
    for which in ("params", "ema"):
        one, other = (checkpoint.restore_params(home / run, 4, which)[0] for run in (twin(name), name))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, other)


def test_parameters_and_their_moments_are_split_over_the_mesh(runs):
    _, printed = runs
    # The moments of stacked layers [2, 16, 32] are split as their parameter: in the last two dimensions only.
    assert "placed (None, 'fsdp', 'tensor') (2, 8, 16)" in printed["eight"]
    assert "(2, 16, 32)" in printed["one"]


def test_processes_leave_out_the_samples_that_the_first_one_does(runs):
    _, printed = runs
    for name in ("one", "two", "second of two"):
        assert "agreed [True, False, True, False]" in printed[name]
    assert all("heard too many files are bad" in printed[name] for name in ("one", "two"))
    assert "heard the first process cannot use the data" in printed["second of two"]


def test_only_the_first_process_reports(runs):
    _, printed = runs
    assert "step 4/4" in printed["two"] and "step 4/4" not in printed["second of two"]


def test_a_digest_does_not_depend_on_the_devices(runs):
    home, _ = runs
    pairs = (("one", "eight-from-one"), ("one", "two-from-one"), ("eight", "one-from-eight"))
    for one, other in pairs:
        digests = {checkpoint.sha256(checkpoint.restore_params(home / run, 2)[0]) for run in (one, other)}
        assert len(digests) == 1


def test_a_signal_to_one_process_ends_both_at_the_same_step(toy, workers, runs):
    two = workers.pair(("100000", "", "told to leave"))
    toy.wait_for_step(workers.home / "told to leave", 3, two[1])
    two[1].send_signal(signal.SIGTERM)
    first, second = map(toy.finish, two)
    saved = checkpoint.steps(workers.home / "told to leave")[-1]
    assert f"SIGTERM: saved step {saved:,} of 100,000" in first
    assert "Traceback" not in first + second

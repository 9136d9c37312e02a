"""The same run on 1 device, on 8 (2 data x 2 fsdp x 2 tensor) and in 2 processes; resumed from one on another."""

import json
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from vfm.train import checkpoint

WORKER = "tests/train/mesh_worker.py"


def finish(process: subprocess.Popen) -> str:
    text, _ = process.communicate(timeout=280)
    assert process.returncode == 0, text[-3000:]
    return text


@pytest.fixture(scope="module")
def runs(toy, tmp_path_factory):
    """Folders of all the runs, by name, and what the workers printed."""
    home = tmp_path_factory.mktemp("meshes")

    def start(devices: int, mesh: str, *jobs: str, **environment: str) -> subprocess.Popen:
        jobs = [":".join([steps, *(str(home / run) if run else "" for run in rest)]) for steps, *rest in jobs]
        return subprocess.Popen(
            [sys.executable, WORKER, mesh, *jobs],
            cwd=toy.root,
            env=toy.environment(devices)
            | {"JAX_COMPILATION_CACHE_DIR": str(home / "compiled")}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    printed = {"one": finish(start(1, "1,1,1", ("4", "", "one")))}
    eight = start(8, "2,2,2", ("4", "", "eight"), ("4", "one", "eight-from-one"))
    printed["eight"] = finish(eight)
    two = [
        start(
            1,
            "2,1,1",
            ("4", "", "two"),
            ("4", "one", "two-from-one"),
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    printed["two"], printed["second of two"] = (finish(process) for process in two)
    back = start(1, "1,1,1", ("4", "eight", "one-from-eight"), ("4", "two", "one-from-two"))
    printed["back"] = finish(back)
    return home, printed


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    return np.array([(row["train/loss"], row["grad_norm"]) for row in rows])


NAMES = ("eight", "two", "eight-from-one", "two-from-one", "one-from-eight", "one-from-two")


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_one_device(runs, name):
    home, _ = runs
    one, other = losses(home / "one"), losses(home / name)
    np.testing.assert_allclose(other[:, 0], one[:, 0], rtol=1e-5)
    np.testing.assert_allclose(other[:, 1], one[:, 1], rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_end_where_those_of_one_device_do(runs, name):
    home, _ = runs
    for which in ("params", "ema"):
        one, other = (checkpoint.restore_params(home / run, 4, which)[0] for run in ("one", name))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, other)


def test_parameters_and_their_moments_are_split_over_the_mesh(runs):
    _, printed = runs
    # Stacked layers [L, in, out] are split in their last two dimensions only; a vector is not.
    assert "placed PartitionSpec(None, 'fsdp', 'tensor') PartitionSpec(" in printed["eight"]


def test_only_the_first_process_reports(runs):
    _, printed = runs
    assert "step 4/4" in printed["two"] and "step 4/4" not in printed["second of two"]


def test_a_digest_does_not_depend_on_the_devices(runs):
    home, _ = runs
    pairs = (("one", "eight-from-one"), ("one", "two-from-one"), ("eight", "one-from-eight"))
    for one, other in pairs:
        digests = {checkpoint.sha256(checkpoint.restore_params(home / run, 2)[0]) for run in (one, other)}
        assert len(digests) == 1

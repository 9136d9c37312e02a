"""A tiny objective and endless synthetic batches, so that the trainer is tested without models and videos."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common

ROOT = Path(__file__).parents[2]
ROWS = 8
PATIENCE = 500  # seconds for a process; many times what it takes on two idle cores


class Regression:
    """Two stacked layers and a head that predict each sample's mean; its parameters are named as a model's."""

    def init(self, rng, batch):
        width = batch["x"].shape[-1]
        keys = jax.random.split(rng, 3)
        encoder = dict(
            patch_embed=dict(kernel=jax.random.normal(keys[0], (width, 4)) / 2, bias=jnp.zeros(4)),
            blocks=dict(mlp=dict(kernel=jax.random.normal(keys[1], (2, 4, 4)) / 2)),
            norm=dict(scale=jnp.ones(4)),
        )
        predictor = dict(head=dict(kernel=jax.random.normal(keys[2], (4, 1)) / 2))
        return dict(encoder=encoder, predictor=predictor), dict(seen=jnp.zeros((), jnp.int32))

    def loss(self, params, extra, batch, rng, step, teacher):
        encoder = params["encoder"]
        x = batch["x"] @ encoder["patch_embed"]["kernel"] + encoder["patch_embed"]["bias"]
        for kernel in encoder["blocks"]["mlp"]["kernel"]:
            x = x + jnp.tanh(x @ kernel)
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(rng, i)))(batch["id"])
        out = (x * encoder["norm"]["scale"] @ params["predictor"]["head"]["kernel"])[:, 0] + 0.1 * noise
        error = jnp.square(out - batch["x"].mean(1))
        total, count = (error * batch["weight"]).sum(), batch["weight"].sum()
        extra = dict(seen=extra["seen"] + len(error))
        return total / count, (dict(loss=(total, count)), extra)


def make_batches(broken: tuple[int, ...] = (), rows_in_all: int = ROWS):
    """(start, rows) -> batches; those of the steps in `broken` hold a NaN. Sample ids are 100 * step + row."""

    def batches(start, rows):
        for step in itertools.count(start):
            rng = np.random.default_rng(step)
            batch = dict(
                x=rng.normal(size=(rows_in_all, 6)).astype(np.float32),
                weight=rng.integers(1, 4, rows_in_all).astype(np.float32),
                id=100 * step + np.arange(rows_in_all, dtype=np.int32),
            )
            if step in broken:
                batch["x"][1, 0] = np.nan
            yield {name: array[rows] for name, array in batch.items()}

    return batches


def make_config(**changes):
    """The defaults with the length and rules of the toy; keys with dots reach inside."""
    config = common.get_config()
    config.batch_size = ROWS
    config.optim.lr, config.optim.lr_scaling, config.optim.warmup = 0.05, False, ""
    config.log_every = "1 step"
    config.sharding_rules = ((r".*kernel", ("fsdp", "tensor")), (r".*", ()))
    config.update_from_flattened_dict({"total_steps": 6, "checkpoint.every": "2 steps"} | changes)
    return config


def environment_of(devices: int, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a process of its own with so many virtual devices."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
        **environment,
    }


def run(*command: str, devices: int = 1, **environment: str) -> subprocess.CompletedProcess:
    """Run `python command...` in the repository to its end."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment_of(devices, environment),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def start(*command: str, devices: int = 1, **environment: str) -> subprocess.Popen:
    """Start `python command...` in the repository, stdout and stderr together."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment_of(devices, environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group of its own, to be signalled as a whole
    )


def finish(process: subprocess.Popen) -> str:
    """What a started process printed, once it has ended well."""
    try:
        text, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, text[-3000:]
    return text


def last_step(workdir: Path) -> int:
    """The last step in the log of a run."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    """Until the log of a run that `process` trains has come to `step`."""
    end = time.monotonic() + PATIENCE
    while last_step(workdir) < step:
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > end:
            process.kill()
            pytest.fail(f"'{workdir}' did not come to step {step}")
        time.sleep(0.002)


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    return SimpleNamespace(
        root=ROOT,
        rows=ROWS,
        objective=Regression(),
        batches=make_batches,
        config=make_config,
        run=run,
        start=start,
        finish=finish,
        last_step=last_step,
        wait_for_step=wait_for_step,
    )

"""A tiny run and a tiny labelled set of real video files."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from configs.eval import common as eval_common
from eval.encoder import initial_params
from input_pipeline import write_mp4
from vfm.train import checkpoint
from vfm.train.config import save_config

KINDS = ("dark", "grey", "bright")


def write_set(folder, split, count, seed):
    """Clips whose brightness is their `kind`; `maker` tells who made them (by a coloured corner)."""
    rng = np.random.default_rng(seed)
    lines = ["path,kind,half,maker"]
    (folder / split).mkdir(parents=True)
    for i in range(count):
        kind, maker = i % 3, i % 4
        frames = np.clip(60 + 70 * kind + rng.normal(0, 10, (4, 16, 16, 3)), 0, 255).astype(np.uint8)
        frames[:, :8, :8, maker % 3] = 255
        name = f"{split}/{i:03}.mp4"
        write_mp4(folder / name, frames, fps=8)
        lines.append(f"{name},{kind},{int(i % 6 >= 3)},person{maker}")
    (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, (split, count) in enumerate({"train": 24, "validation": 12, "test": 13}.items()):
        write_set(folder, split, count, seed)
    (folder / "classes.json").write_text(json.dumps({"kind": KINDS}))
    return folder


@pytest.fixture(scope="session")
def run(videos, tmp_path_factory):
    """A run's folder: an encoder of width 16 at "step 3"."""
    folder = tmp_path_factory.mktemp("runs") / "tiny <run>"
    folder.mkdir()
    config = common.get_config()
    config.total_steps = 3
    config.data.train = str(videos / "train.csv")
    config.data.frames, config.data.stride, config.data.size, config.data.crop = 4, 1, 16, "center"
    config.model.encoder = ConfigDict(
        common.vit(width=16, depth=1, heads=2, mlp_dim=32, frames=4, image_size=16, patch=8, cls_token=True)
    )
    config.objective.predictor = ConfigDict(dict(name="decoder", width=16, depth=1, heads=2, mlp_ratio=2.0))
    save_config(config, folder)
    params = jax.tree.map(lambda p: p * 1.25 + 0.01, initial_params(config))
    saved = checkpoint.Checkpoints(folder, keep=1)
    saved.save(3, {"step": np.zeros((), np.int32), "params": params})
    saved.wait()
    saved.close()
    lines = [
        {"step": s, "time": float(s), "train/loss": 1.0 / s, "lr": 1e-3, "clips_per_s": 10.0}
        for s in (1, 2, 3)
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "tr'
    )
    (folder / "bad_files.jsonl").write_text('{"path": "broken.mp4", "reason": "no <video> stream"}\n')
    source = dict(name="", listed=20, left_out={"cannot be read": 6}, planned=14, times=[1, 2])
    account = dict(steps=[0, 3], clips=21, replaced={"late <1>.mp4": 2}, sources=[source])
    (folder / "input.json").write_text(json.dumps({"2": {}, "3": account}))
    (folder / "environment.json").write_text('{"device": "cpu", "devices": 1, "seconds": 3.0}')
    return folder


@pytest.fixture
def config():
    """Probes that are quick."""
    c = eval_common.get_config()
    c.tasks, c.labels, c.seeds, c.batch_size = ("kind",), ("all", 4), 2, 5
    for probe in (c.linear, c.attentive):
        probe.lr, probe.weight_decay, probe.epochs, probe.min_steps = (1e-2,), (0.01,), 1, 30
    return c

"""Training on real files: what was planned is what was shown, and the run says so."""

import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import write_mp4
from vfm.train import sharding, train
from vfm.train.feed import Feed
from vfm.train.shown import Plan

GOOD = [i for i in range(20) if i % 3 != 1 or i > 16]  # 1, 4, 7, 10, 13 and 16 are damaged
STEPS = 10


class Counting:
    """Predicts the brightness of clips, and counts in its state which samples it was trained on."""

    def __init__(self, sources=1, samples=20):
        self.shape = sources, samples

    def init(self, rng, batch):
        encoder = dict(scale=jnp.ones(()), kernel=jax.random.normal(rng, (4, 4)))
        return dict(encoder=encoder), dict(counts=jnp.zeros(self.shape, jnp.int32))

    def loss(self, params, extra, batch, rng, step, teacher):
        error = jnp.square(
            batch["video"].astype(jnp.float32).mean((1, 2, 3, 4)) / 255 - params["encoder"]["scale"]
        )
        places = batch.get("source", jnp.zeros_like(batch["id"])), batch["id"]
        return error.mean(), (
            dict(loss=(error.sum(), len(error))),
            dict(counts=extra["counts"].at[places].add(1)),
        )


@pytest.fixture
def config(toy, tmp_path):
    """A run on 20 files, 6 of which are damaged: 7 clips a step, so that two steps are an epoch of the good ones."""
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(20):
        write_mp4(folder / f"{i}.mp4", np.full((6, 16, 16, 3), 10 * i, np.uint8))
        if i not in GOOD:
            (folder / f"{i}.mp4").write_bytes(
                (b"", b"no video", (folder / f"{i}.mp4").read_bytes()[:60])[i % 3]
            )
    (folder / "train.csv").write_text("path\n" + "".join(f"{i}.mp4\n" for i in range(20)))
    data = dict(train=str(folder / "train.csv"), frames=4, stride=1, size=8, max_bad_fraction=0.4)
    options = {f"data.{key}": value for key, value in data.items()} | {"checkpoint.every": "2 steps"}
    return toy.config(batch_size=7, total_steps=STEPS, **options)


def interrupted(config, workdir, objective, step, meanwhile=lambda: None):
    """Trains until the end, with a stop after some steps, in which something happens; gives the last state."""

    def evaluator(step, params):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    config.eval.every = f"{step} steps"
    assert int(train(config, workdir, objective=objective, evaluator=evaluator)["step"]) < STEPS
    meanwhile()
    return train(config, workdir, objective=objective)


def test_a_run_on_a_damaged_set_shows_every_good_sample_as_planned_and_says_so(config, tmp_path, caplog):
    caplog.set_level("INFO")
    state = interrupted(config, tmp_path / "run", Counting(), 3)
    counts = np.asarray(state["extra"]["counts"])[0]
    assert counts[GOOD].tolist() == [STEPS * 7 // 14] * 14 and counts.sum() == STEPS * 7
    accounts = json.loads((tmp_path / "run" / "input.json").read_text())
    last = accounts[str(STEPS)]
    assert last["steps"] == [0, STEPS] and last["clips"] == STEPS * 7 and last["replaced"] == {}
    (source,) = last["sources"]
    assert (source["listed"], source["planned"], source["times"]) == (20, 14, [5, 5])
    assert "data: 6 of 20 left out: 6 cannot be read" in caplog.text
    assert "data: 14 samples (6 of 20 left out: 6 cannot be read), planned 5 times each" in caplog.text
    assert "all 70 clips were shown as planned" in caplog.text
    bad = [json.loads(line) for line in (tmp_path / "run" / "bad_files.jsonl").read_text().splitlines()]
    assert len(bad) == 6 and all(entry["reason"] for entry in bad)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = {"input/decode_ms", "input/transform_ms", "input/wait_ms", "input/bad_clips"}
    assert told <= rows[0].keys() and rows[0]["input/bad_clips"] == 0


def test_a_run_that_goes_on_keeps_to_its_plan_whatever_became_of_the_files(config, tmp_path):
    folder = tmp_path / "set"

    def meanwhile():
        (folder / "1.mp4").write_bytes((folder / "0.mp4").read_bytes())  # mended
        (folder / "5.mp4").write_text("broken now")

    state = interrupted(config, tmp_path / "run", Counting(), 3, meanwhile)
    shown = json.loads((tmp_path / "run" / "input.json").read_text())[str(STEPS)]
    counts = np.asarray(state["extra"]["counts"])[0]
    assert counts[1] == 0 and shown["replaced"] == {str(folder / "5.mp4"): 5 - counts[5]} and counts[5] < 5
    assert shown["sources"][0]["times"] == [5, 5] and counts[GOOD].sum() == STEPS * 7
    assert (counts[[i for i in GOOD if i != 5]] >= 5).all()


def test_what_breaks_during_a_run_is_counted_apart(config, tmp_path, caplog):
    caplog.set_level("INFO")
    config.data.check = False
    state = interrupted(config, tmp_path / "run", Counting(), 3)
    counts = np.asarray(state["extra"]["counts"])[0]
    missed = STEPS * 7 - int(np.minimum(counts, 3)[GOOD].sum())
    assert counts[GOOD].min() >= 3 and missed > 0 and counts.sum() == STEPS * 7
    replaced = json.loads((tmp_path / "run" / "input.json").read_text())[str(STEPS)]["replaced"]
    assert {int(os.path.basename(name)[:-4]) for name in replaced} == set(range(20)) - set(GOOD)
    assert set(replaced.values()) <= {3, 4}  # 70 clips of 20 samples: each was planned three or four times
    shown = STEPS * 7 - sum(replaced.values())
    assert f"{shown} of 70 clips were shown as planned; another sample stood in for " in caplog.text


def test_a_mixture_is_trained_on_by_the_shares_of_its_weights(config, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "set"
    lists = dict(first=GOOD[:4], second=GOOD[4:])
    for name, members in lists.items():
        (folder / f"{name}.csv").write_text("path\n" + "".join(f"{i}.mp4\n" for i in members))
    config.data.train = {
        "sources": {
            "first": {"path": str(folder / "first.csv"), "weight": 3},
            "second": {"path": str(folder / "second.csv"), "weight": ((0, 3), (5, 0))},
        }
    }
    whole = train(config, tmp_path / "whole", objective=Counting(2, 10))
    state = interrupted(config, tmp_path / "run", Counting(2, 10), 3)
    counts = np.asarray(state["extra"]["counts"])
    assert (counts == np.asarray(whole["extra"]["counts"])).all()
    assert (
        abs(counts[0].sum() - (17.5 + 35)) <= 2 and counts.sum() == 70
    )  # half of five steps, all of five more
    assert np.ptp(counts[0, :4]) <= 1 and np.ptp(counts[1]) <= 1
    times = [
        source["times"]
        for source in json.loads((tmp_path / "run" / "input.json").read_text())["10"]["sources"]
    ]
    assert times == [[counts[0, :4].min(), counts[0, :4].max()], [counts[1].min(), counts[1].max()]]
    assert (
        "data first: 4 samples, planned 1" in caplog.text
        and "all 70 clips were shown as planned" in caplog.text
    )


def test_sources_whose_files_have_the_same_names_have_plans_of_their_own(tmp_path):
    """Two folders of a mixture: the originals and smaller copies."""
    names = [[f"{folder}/{i}.mp4" for i in range(3)] for folder in ("large", "small")]
    bad = [np.array([True, False, False]), np.array([False, False, True])]
    plan = Plan(tmp_path, goes_on=False)
    made = [plan(lambda b=b: b, n) for n, b in zip(names, bad, strict=True)]
    assert [found.tolist() for found in made] == [found.tolist() for found in bad]
    again = Plan(tmp_path, goes_on=True)  # whatever became of the files, wherever they are now
    kept = [again(lambda: np.ones(3, bool), [f"moved/{name}" for name in n]) for n in names]
    assert [found.tolist() for found in kept] == [found.tolist() for found in bad]


def test_batches_are_on_the_devices_before_a_step_asks_for_them():
    asked = []

    def batches():
        for step in range(100):
            asked.append(step)
            yield dict(id=np.arange(4) + step)

    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    feed = Feed(batches(), sharding.batch_sharding(mesh), 4, 3)
    end = time.monotonic() + 60
    while len(asked) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    assert (
        len(asked) >= 4 and feed.waited == 0
    )  # three are ready and a fourth is placed, and nobody has asked
    batch, ids = next(feed)
    assert isinstance(batch["id"], jax.Array) and ids.tolist() == [0, 1, 2, 3]
    feed.close()

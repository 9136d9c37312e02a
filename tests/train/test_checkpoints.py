"""Checkpoints: complete or absent, kept by policy, readable without a model, clear when they do not fit."""

import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from scripts import checkpoint as listing
from vfm.errors import UserError
from vfm.train import checkpoint, train
from vfm.train.initial import check_frozen
from vfm.train.processes import alone_in


def fit(toy, workdir, **changes):
    return train(toy.config(**changes), workdir, objective=toy.objective, batches=toy.batches())


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """A run of 6 steps with all its checkpoints, and its last state."""
    workdir = tmp_path_factory.mktemp("finished")
    state = fit(toy, workdir, ema=0.5, **{"checkpoint.keep": 9})
    return workdir, jax.device_get(state)


def test_the_last_step_and_every_interval_is_saved(finished):
    assert checkpoint.steps(finished[0]) == [2, 4, 6]


def test_parameters_come_back_as_numpy_without_a_model(finished):
    workdir, state = finished
    for which in ("params", "ema"):
        params, step = checkpoint.restore_params(workdir, which=which)
        assert step == 6
        jax.tree.map(np.testing.assert_array_equal, params, state[which])
        assert {type(leaf) for leaf in jax.tree.leaves(params)} == {np.ndarray}
    assert checkpoint.restore_params(workdir, 4)[1] == 4


def test_a_digest_tells_bits_names_and_shapes_apart():
    tree = {"a": np.zeros((2, 3), np.float32), "b": {"c": np.ones(1, np.int32)}}
    digest = checkpoint.sha256(tree)
    assert digest == checkpoint.sha256({"b": tree["b"], "a": tree["a"].copy()})
    for other in (
        {**tree, "a": np.full((2, 3), -0.0, np.float32)},
        {**tree, "a": np.zeros((3, 2), np.float32)},
        {**tree, "d": tree["b"]},
    ):
        assert digest != checkpoint.sha256(other)


def test_the_newest_and_those_at_multiples_stay(toy, tmp_path):
    changes = {"checkpoint.every": "1 step", "checkpoint.keep": 2, "checkpoint.keep_every": "3 steps"}
    fit(toy, tmp_path, total_steps=8, **changes)
    assert checkpoint.steps(tmp_path) == [3, 6, 7, 8]


def test_a_half_written_checkpoint_is_ignored_and_removed(toy, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    folder = run / "checkpoints"
    (folder / "6").rename(folder / "6.orbax-checkpoint-tmp")
    assert checkpoint.steps(run) == [2, 4]
    state = fit(toy, run, ema=0.5, **{"checkpoint.keep": 9})
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), finished[1])
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4", "6"]


def test_a_finished_run_stays_as_it_is(toy, finished):
    state = fit(toy, finished[0], ema=0.5)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), finished[1])
    assert checkpoint.steps(finished[0]) == [2, 4, 6]


def test_missing_checkpoints_and_averages_are_clear_errors(toy, finished, tmp_path):
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoint.restore_params(tmp_path)
    with pytest.raises(UserError, match="no checkpoint of step 5; it has: 2, 4, 6"):
        checkpoint.restore_params(finished[0], 5)
    fit(toy, tmp_path, total_steps=1)
    with pytest.raises(UserError, match="has no 'ema'.*config.ema above 0"):
        checkpoint.restore_params(tmp_path, which="ema")


def test_a_checkpoint_of_another_model_names_the_first_difference(finished):
    state = finished[1]
    state = state | {"params": jax.tree.map(lambda x: np.zeros((*x.shape, 2), x.dtype), state["params"])}
    with pytest.raises(
        UserError, match=r"another model.*'params/encoder/.*', shape \(.*\) in the checkpoint, \(.*, 2\)"
    ):
        checkpoint.restore(finished[0], 6, state)
    with pytest.raises(UserError, match="'ema/encoder/.*', shape .* none in this config"):
        checkpoint.restore(finished[0], 6, {k: v for k, v in finished[1].items() if k != "ema"})


def test_a_run_continues_or_takes_parts_of_another(toy, finished, tmp_path, caplog):
    caplog.set_level("INFO")
    run = str(finished[0])
    state = fit(toy, tmp_path / "whole", ema=0.5, **{"init.run": run, "optim.lr_rules": ((".*", 1e-30),)})
    assert int(state["step"]) == 6 and int(state["opt"]["count"]) == 12
    jax.tree.map(np.testing.assert_allclose, state["params"], finished[1]["params"])
    state = fit(
        toy, tmp_path / "part", **{"init.encoder": run, "optim.lr_rules": (("enc.*", 0.0), (".*", 1.0))}
    )
    jax.tree.map(np.testing.assert_array_equal, state["params"]["encoder"], finished[1]["params"]["encoder"])
    assert "loaded 4 arrays (64 parameters), missing here: none; unused there: none" in caplog.text


def test_a_frozen_part_that_nothing_has_trained_is_refused(toy, tmp_path):
    frozen = {"optim.lr_rules": (("enc.*", 0.0), (".*", 1.0)), "total_steps": 1}
    with pytest.raises(
        UserError, match="freeze 'encoder', which nothing has trained.*--config.init.encoder="
    ):
        fit(toy, tmp_path / "forgotten", **frozen)
    assert int(fit(toy, tmp_path / "meant", **frozen, **{"init.encoder": ""})["step"]) == 1
    # Adapters on a frozen part do not make it a trained one; a frozen layer is no frozen part.
    like = {"lm": {"w": np.zeros(2), "q": {"lora_a": np.zeros(2)}}, "head": np.zeros(2)}
    config = toy.config(**{"optim.lr_rules": ((r"lm/.*/lora_[ab]", 1.0), (r"lm/.*", 0.0), (r".*", 1.0))})
    with pytest.raises(UserError, match="freeze 'lm'"):
        check_frozen(config, like)
    config.optim.lr_rules = ((r"lm/w", 0.0), (r".*", 1.0))
    check_frozen(config, {"lm": {"w": np.zeros(2), "v": np.zeros(2)}})


def test_parts_that_do_not_fit_are_reported_and_may_be_allowed(toy, finished, tmp_path):
    class Smaller(type(toy.objective)):
        def init(self, rng, batch):
            params, extra = super().init(rng, batch)
            params["encoder"]["norm"]["bias"] = params["encoder"]["patch_embed"].pop("bias")
            return params, extra

        def loss(self, params, *rest):
            encoder = dict(params["encoder"])
            encoder["patch_embed"] = encoder["patch_embed"] | {"bias": encoder["norm"]["bias"]}
            return super().loss({**params, "encoder": encoder}, *rest)

    arguments = dict(objective=Smaller(), batches=toy.batches())
    config = toy.config(**{"init.encoder": str(finished[0])})
    with pytest.raises(UserError, match=r"2 parameters do not fit, first 'encoder/norm/bias'.*init.allow"):
        train(config, tmp_path, **arguments)
    config.init.allow = (r"encoder/norm/bias", r"encoder/patch_embed/bias")
    train(config, tmp_path, **arguments)
    with pytest.raises(UserError, match="init.encoder: 'nowhere' has no complete checkpoint"):
        train(toy.config(**{"init.encoder": "nowhere"}), tmp_path / "b", **arguments)


@pytest.mark.parametrize("key", ["init.encoder", "init.run", "teachers.clip.run"])
def test_a_run_that_is_not_there_is_noticed_before_the_data_are_opened(toy, tmp_path, key):
    def unread(start, rows):
        pytest.fail("the data were opened")

    config = toy.config()
    config.teachers = ConfigDict(dict(clip=dict(run="", mean=(0.0,) * 3, std=(1.0,) * 3)))
    config.update_from_flattened_dict({key: "nowhere"})
    with pytest.raises(UserError, match=f"config.{key}.*'nowhere'.* no complete checkpoint"):
        train(config, tmp_path / "b", objective=toy.objective, batches=unread)
    assert not (tmp_path / "b").exists()
    # Nor is a folder kept in which nothing was.
    with pytest.raises(UserError, match="of another kind"), alone_in(tmp_path / "b"):
        raise UserError("of another kind")
    assert not (tmp_path / "b").exists()


FULL_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[2])
import conftest
from vfm.train import cli, progress, train
progress.show_logs()
size = int(sys.argv[3])
def run():
    if size:
        # As on a full disk, no file can grow; only the error number differs.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    config = conftest.make_config(total_steps=4)
    train(config, sys.argv[1], objective=conftest.Regression(), batches=conftest.make_batches())
cli.run(run)
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few pages where mounting is allowed; else None."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        sys.platform == "linux"
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True
        ).returncode
    )
    yield disk if mounted else None
    if mounted:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_a_clear_error_and_keeps_what_is_complete(toy, small_disk, tmp_path):
    run = (small_disk or tmp_path) / "run"
    fit(toy, run, total_steps=2)
    before = checkpoint.sha256(checkpoint.restore_params(run, 2)[0])
    if small_disk:
        # Leave room for what is written before the first checkpoint.
        filler = small_disk / "filler"
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(0, free - 48 * 1024)))
    limit = "0" if small_disk else "4096"
    done = toy.run("-c", FULL_DISK, str(run), str(toy.root / "tests/train"), limit)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
    assert "space" in done.stderr or "too large" in done.stderr
    assert checkpoint.steps(run) == [2]
    assert before == checkpoint.sha256(checkpoint.restore_params(run, 2)[0])
    if small_disk:
        filler.unlink()
    assert int(fit(toy, run, total_steps=4)["step"]) == 4


def test_a_listing_whose_newest_checkpoint_is_damaged_fails_after_all_rows(monkeypatch, tmp_path, capsys):
    def restore(workdir, step, which):
        if step in damaged:
            raise UserError("damaged")
        return {"a": np.zeros(3)}, step

    monkeypatch.setattr(checkpoint, "steps", lambda workdir: [2, 4, 6])
    monkeypatch.setattr(checkpoint, "restore_params", restore)
    monkeypatch.setattr(sys, "argv", ["checkpoint", str(tmp_path)])
    damaged = {4}
    listing.main()
    damaged = {2, 6}
    with pytest.raises(UserError, match=r"2 of 3 checkpoints cannot be read, the newest among them"):
        listing.main()
    assert capsys.readouterr().out.count("damaged") == 3


def test_a_damaged_checkpoint_is_told_without_the_settings_of_its_storage(finished, monkeypatch):
    def load(*_):
        raise ValueError("Error opening 'zarr': missing\nSee full TensorStore details: {driver: zarr}")

    monkeypatch.setattr(checkpoint.ocp, "load", load)
    with pytest.raises(UserError, match=r"ValueError: Error opening 'zarr': missing; if it is damaged"):
        checkpoint.restore_params(finished[0])

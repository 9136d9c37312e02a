"""The step: accumulation equals the whole batch, bad updates are left out, averages follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm.errors import UserError
from vfm.train import sharding, train
from vfm.train.program import Program


def program(toy, batch, **changes):
    config = toy.config(**changes)
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        made = Program(config, mesh, batch, 6, None, toy.objective)
        step = made.compile()
        return made.new(), lambda state, batch: step(state, batch, {})


def first(toy, broken=()):
    return next(toy.batches(broken)(0, slice(None)))


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def test_micro_batches_add_up_to_the_batch_also_with_uneven_weights(toy):
    batch = first(toy)
    ends = []
    for accumulate in (1, 4):
        state, step = program(toy, batch, accumulate=accumulate)
        state, metrics = step(state, batch)
        ends.append((state["params"], metrics, state["opt"]))
        assert int(state["extra"]["seen"]) == toy.rows
    close(*ends, rtol=1e-5, atol=1e-6)


def test_an_update_that_is_not_finite_is_left_out_whole(toy):
    good, bad = first(toy), first(toy, broken=(0,))
    state, step = program(toy, good, ema=0.5)
    state, metrics = step(state, good)
    before = jax.device_get(state)
    state, metrics = step(state, bad)
    assert metrics["skipped"][0] == 1 and int(state["step"]) == 2
    after = jax.device_get(state)
    for part in ("params", "opt", "ema", "extra"):
        jax.tree.map(np.testing.assert_array_equal, after[part], before[part])
    state, metrics = step(state, good)
    assert metrics["skipped"][0] == 0 and np.isfinite(metrics["loss"][0])


def test_the_average_follows_the_parameters(toy):
    batch = first(toy)
    state, step = program(toy, batch, ema=0.75)
    start = jax.device_get(state["params"])
    state, _ = step(state, batch)
    expected = jax.tree.map(lambda old, now: 0.75 * old + 0.25 * now, start, state["params"])
    close(state["ema"], expected, rtol=1e-5, atol=1e-7)


def test_a_run_counts_skipped_updates_and_goes_on(toy, tmp_path, caplog):
    caplog.set_level("INFO")
    state = train(
        toy.config(log_every="3 steps"), tmp_path, objective=toy.objective, batches=toy.batches((1,))
    )
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state["params"]))
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert '"skipped": 1.0' in lines and '"skipped": 0.0' in lines and "null" not in lines
    assert "step 2: loss or gradient not finite" in caplog.text and "100, 101" in caplog.text


def test_too_many_bad_updates_in_a_row_stop_the_run_and_name_the_samples(toy, tmp_path):
    config = toy.config(max_bad_steps=3, total_steps=50, log_every="50 steps")
    with pytest.raises(
        UserError, match=r"step 6: .*3 updates in a row.*ids of this batch's samples: 500, 501"
    ):
        train(config, tmp_path, objective=toy.objective, batches=toy.batches((1, 3, 4, 5, 6, 7)))
    # The checkpoints in the folder are sound: the run goes on from them with better data.
    state = train(config, tmp_path, objective=toy.objective, batches=toy.batches())
    assert int(state["step"]) == 50


def test_data_that_end_early_are_an_error(toy, tmp_path):
    def two(start, rows):
        for _, batch in zip(range(2), toy.batches()(start, rows), strict=False):
            yield batch

    with pytest.raises(UserError, match="data ended"):
        train(toy.config(), tmp_path, objective=toy.objective, batches=two)


def test_an_error_in_the_data_reaches_the_user(toy, tmp_path):
    def broken(start, rows):
        yield first(toy)
        raise UserError("file 'a.mp4' is no video")

    with pytest.raises(UserError, match="'a.mp4' is no video"):
        train(toy.config(), tmp_path, objective=toy.objective, batches=broken)


def test_a_batch_that_does_not_divide_names_the_keys(toy, tmp_path):
    config = toy.config(batch_size=9, accumulate=2)
    with pytest.raises(UserError, match="config.batch_size=9 .*config.accumulate=2.*multiple of 2"):
        train(config, tmp_path, objective=toy.objective, batches=toy.batches())
    with pytest.raises(UserError, match="config.mesh.fsdp=3.*multiply"):
        train(toy.config(**{"mesh.fsdp": 3}), tmp_path, objective=toy.objective, batches=toy.batches())
    assert not list(tmp_path.iterdir())

"""Durations, the checks of a config, what may change when a run resumes, and the shapes of learning rates."""

import re

import numpy as np
import pytest

from configs.common import teacher
from vfm.errors import UserError
from vfm.train import config as configs
from vfm.train import schedules

UNITS = dict(total_steps=1000, batch_size=50, examples=2000)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("500 steps", 500),
        ("1 step", 1),
        ("2 epochs", 80),
        ("0.5 epochs", 20),
        ("1e4 examples", 200),
        ("10,000 examples", 200),
        ("5%", 50),
        ("", 0),
    ],
)
def test_a_duration_in_any_unit_becomes_steps(text, steps):
    assert configs.duration(text, **UNITS) == steps


@pytest.mark.parametrize(
    ("text", "says"), [("5 stps", "did you mean 'steps'"), ("soon", "no duration"), ("7", "unknown unit")]
)
def test_a_duration_that_cannot_be_read_names_its_key(text, says):
    with pytest.raises(UserError, match=f"config.log_every='{text}'.*{says}"):
        configs.duration(text, key="config.log_every", **UNITS)


def test_the_length_of_a_run_in_any_unit(toy):
    assert configs.total_steps(toy.config(total_steps=7), None) == 7
    assert configs.total_steps(toy.config(total_steps=None, total_epochs=2.0), 100) == 25
    assert configs.total_steps(toy.config(total_steps=None, total_examples=80), None) == 10


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "config.data.train is not set.*--config.data.train=PATH"),
        ({"data.train": "x", "total_epochs": 3.0}, "exactly one.*total_steps=6.*total_epochs=3.0"),
        ({"data.train": "x", "total_steps": None}, "exactly one.*none of them"),
        ({"data.train": "x", "batch_size": 0}, "config.batch_size=0.*above 0"),
        ({"data.train": "x", "ema": 1.0}, "config.ema=1.0"),
    ],
)
def test_a_config_that_cannot_be_run_says_which_key(toy, changes, says):
    with pytest.raises(UserError, match=says):
        configs.check(toy.config(**changes))


@pytest.mark.parametrize(
    ("key", "value", "range_"),
    [
        ("unroll", -1, "at least 0"),
        ("optim.lr", -1.0, "at least 0"),
        ("optim.lr", float("nan"), "at least 0"),
        ("optim.b1", 2.0, "from 0 to below 1"),
        ("optim.clip", -1.0, "at least 0"),
        ("optim.layer_decay", 0.0, "above 0 and at most 1"),
        ("model.encoder.drop_path", 2.0, "from 0 to below 1"),
        ("data.mean", (0.5,), "three numbers"),
        ("data.std", (1.0, 0.0, 1.0), "three numbers above 0"),
        ("data.workers", -1, "at least 0"),
        ("data.threads", 0, "at least 1 where there are no processes"),
        ("data.threads", -2, "at least 0"),
        ("data.prefetch", 0, "at least 1"),
        ("data.max_bad_fraction", 7.0, "from 0 to 1"),
        ("data.cache_size", -4, "at least 0"),
    ],
)
def test_a_number_outside_its_range_is_refused(toy, key, value, range_):
    with pytest.raises(UserError, match=re.escape(f"{key}={value!r}")) as error:
        configs.check(toy.config(**{"data.train": "x", key: value}))
    assert range_ in str(error.value)


def test_normalisations_are_named_on_the_command_line_and_numbers_in_the_run(toy):
    config = toy.config(**{"data.train": "x", "data.mean": "clip", "data.std": "clip"})
    config.teachers = {"one": teacher(mean="half", std="half")}
    configs.check(config)
    assert config.data.mean == (0.48145466, 0.4578275, 0.40821073)
    assert config.teachers.one.std == (0.5, 0.5, 0.5)
    for value in ("clipp", (0.5, 0.5)):
        with pytest.raises(UserError, match="config.data.std=.*siglip"):
            configs.check(toy.config(**{"data.train": "x", "data.std": value}))


def test_a_config_survives_its_file_and_is_locked(toy, tmp_path):
    config = toy.config(seed=3)
    configs.save_config(config, tmp_path)
    loaded = configs.load_config(tmp_path)
    assert configs.differences(config, loaded) == {}
    assert loaded.optim.lr_rules == config.optim.lr_rules
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(AttributeError):
        loaded.sed = 4


def test_a_folder_without_a_run_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="no run: it has no config.json"):
        configs.load_config(tmp_path)


def test_another_model_is_refused_and_harmless_changes_are_told(toy):
    old = toy.config()
    changed = configs.check_same_model(old, toy.config(log_every="9 steps"), "runs/a")
    assert changed == {"log_every": ("1 step", "9 steps")}
    with pytest.raises(UserError, match=r"model.encoder.depth was 0, is 3.*another --workdir"):
        configs.check_same_model(old, toy.config(**{"model.encoder.depth": 3}), "runs/a")


def rates(toy, **changes):
    base = {"optim.lr": 1.0, "optim.min_lr": 0.1, "optim.warmup": "10 steps", "total_steps": 100}
    schedule = schedules.build(toy.config(**(base | changes)), 100, None)
    return np.array([schedule(step) for step in range(100)])


def test_every_schedule_warms_up_from_zero_and_ends_as_it_says(toy):
    for shape in schedules.SHAPES:
        lr = rates(toy, **{"optim.schedule": shape})
        np.testing.assert_allclose(lr[:11], np.arange(11) / 10, atol=1e-6)
    cosine = rates(toy)
    expected = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(90) / 90)) / 2
    np.testing.assert_allclose(cosine[10:], expected, rtol=1e-5)
    assert set(rates(toy, **{"optim.schedule": "constant"})[10:]) == {1.0}
    cooled = rates(toy, **{"optim.schedule": "linear_cooldown", "optim.cooldown": "20%"})
    assert set(cooled[10:80]) == {1.0}
    np.testing.assert_allclose(cooled[80:], np.linspace(1, 0.1, 21)[:20], rtol=1e-5)


def test_the_rate_is_scaled_with_the_batch(toy):
    config = toy.config(batch_size=512, **{"optim.lr": 1.0, "optim.lr_scaling": True})
    assert schedules.peak(config) == 2.0


def test_a_schedule_that_does_not_exist_or_fit_is_an_error(toy):
    with pytest.raises(UserError, match="optim.schedule='cosin' .did you mean 'cosine'"):
        rates(toy, **{"optim.schedule": "cosin"})
    with pytest.raises(UserError, match="optim.cooldown='95%' is 95 steps"):
        rates(toy, **{"optim.schedule": "linear_cooldown", "optim.cooldown": "95%"})


@pytest.mark.parametrize("text", ["[1]", "{}", '{"model": 3, "data": {}, "objective": {}}', "{", "\x80"])
def test_a_config_file_that_is_no_config_is_a_clear_error(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="config.json' is (no config of a run|not readable as JSON)"):
        configs.load_config(tmp_path)
    with pytest.raises(UserError, match="is no run"):
        configs.load_config(tmp_path / "config.json")


@pytest.mark.parametrize("key", ["optim.lr_rules", "optim.decay_rules", "sharding_rules"])
@pytest.mark.parametrize("value", [(5,), (("a", 1, 2),), ((".*", "often"),)])
def test_rules_of_another_form_are_refused(toy, key, value):
    with pytest.raises(UserError, match=rf"config.{key}.*expected"):
        configs.check(toy.config(**{"data.train": "x", key: value}))

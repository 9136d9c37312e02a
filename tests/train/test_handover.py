"""An encoder is handed from one run to the next, also to clips of another length and resolution."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from vfm import models
from vfm.errors import UserError
from vfm.train import checkpoint, teachers
from vfm.train import config as configs
from vfm.train.handover import take_part

TINY = dict(width=12, depth=1, heads=2, frames=4, image_size=16, tubelet=2, patch=4)


def config_with(**encoder):
    config = common.get_config()
    config.total_steps = 1
    config.model.encoder = common.vit(**TINY | encoder)
    return config


def params_of(config, seed=0):
    e = config.model.encoder
    video = np.zeros((1, e.frames, e.image_size, e.image_size, 3), np.float32)
    shapes = jax.eval_shape(models.build(e).init, jax.random.key(0), video)["params"]
    rng = np.random.default_rng(seed)
    return {
        "encoder": jax.tree.map(lambda s: jax.device_put(rng.normal(size=s.shape).astype(s.dtype)), shapes)
    }


@pytest.fixture
def run_of(tmp_path):
    """Writes the folder of a run that ended with the given parameters."""

    def write(config, params):
        configs.save_config(config, tmp_path)
        checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, keep_every=0)
        checkpoints.save(1, {"params": params})
        checkpoints.wait()
        checkpoints.close()
        return str(tmp_path)

    return write


@pytest.mark.parametrize("kind", ["learned", "learned_separable"])
def test_learned_positions_are_resampled_as_the_encoder_does_at_run_time(run_of, kind):
    old, new = config_with(positions=kind), config_with(positions=kind, frames=8, image_size=24)
    theirs = params_of(old)
    ours = take_part("encoder", run_of(old, theirs), params_of(new, seed=1), new)
    video = np.random.default_rng(2).normal(size=(1, 8, 24, 24, 3)).astype(np.float32)

    def tokens(config, params):
        return models.build(config.model.encoder).apply({"params": params["encoder"]}, video).tokens

    np.testing.assert_allclose(tokens(old, theirs), tokens(new, ours), atol=1e-5)


def test_fixed_positions_stay_those_of_the_clip_they_were_made_for(run_of):
    old, new = config_with(), config_with(frames=8)
    run = run_of(old, params_of(old))
    with pytest.raises(
        UserError, match="frames is 4 there, 8 here.*leave frames, and change config.data.frames"
    ):
        take_part("encoder", run, params_of(new), new)


def test_an_encoder_of_another_width_is_refused(run_of):
    old, new = config_with(), config_with(width=24)
    run = run_of(old, params_of(old))
    with pytest.raises(UserError, match="another encoder: .*width is 12 there, 24 here"):
        take_part("encoder", run, params_of(new), new)
    with pytest.raises(
        UserError, match=r"config.init.text='.*': this model has no part 'text', it has encoder"
    ):
        take_part("text", run, params_of(new), new)


def test_keys_that_only_set_initial_values_or_add_a_table_make_no_other_encoder(run_of):
    old = config_with(positions="learned", layer_scale=0.1)
    new = config_with(positions="learned_from_sincos", layer_scale=1e-5, image_positions="own")
    new.init.allow = ("encoder/image_pos",)
    theirs, ours = params_of(old), params_of(new, seed=1)
    taken = take_part("encoder", run_of(old, theirs), ours, new)["encoder"]
    np.testing.assert_array_equal(taken["pos"], theirs["encoder"]["pos"])
    np.testing.assert_array_equal(taken["image_pos"], ours["encoder"]["image_pos"])


def test_a_teacher_may_see_clips_of_another_length_than_its_run(run_of, tmp_path):
    old = config_with(positions="learned", image_positions="own")
    theirs = params_of(old)
    run = run_of(old, theirs)
    keys = TINY | dict(positions="learned", frames=8, image_size=24)
    config = common.get_config()
    config.teachers.clip = ConfigDict(common.teacher(run=run, encoder=common.vit(**keys)))
    video = np.random.default_rng(2).normal(size=(1, 8, 24, 24, 3)).astype(np.float32)
    batch = {"video": video, "id": np.zeros(1, np.int32)}
    taken = teachers.load(config, tmp_path, batch, teachers.shapes(config, batch))["clip"]

    def tokens(encoder, params):
        return models.build(encoder).apply({"params": params["encoder"]}, video).tokens

    expected = tokens(old.model.encoder, theirs)
    np.testing.assert_allclose(tokens(config.teachers.clip.encoder, taken), expected, atol=1e-5)

"""An encoder is handed from one run to the next, also to clips of another length and resolution."""

import jax
import numpy as np
import pytest

from configs import common
from vfm import models
from vfm.errors import UserError
from vfm.train import checkpoint
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
    with pytest.raises(UserError, match="another encoder: width is 12 there, 24 here"):
        take_part("encoder", run, params_of(new), new)
    with pytest.raises(
        UserError, match=r"config.init.text='.*': this model has no part 'text', it has encoder"
    ):
        take_part("text", run, params_of(new), new)

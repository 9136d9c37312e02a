"""Masked modelling and contrast together: one encoder, the sum of both gradients."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from vfm import objectives
from vfm.errors import UserError

WEIGHTS = dict(pixels=2.0, texts=0.5)


def make_config(pairs):
    config, default = pairs.config(), common.get_config().objective
    config.model.encoder.drop_path = 0.0
    contrast = config.objective.to_dict()
    masked = default.to_dict() | dict(mask=dict(name="random", ratio=0.5))
    masked["predictor"].update(width=16, depth=1, heads=2)
    parts = {
        name: keys | dict(weight=WEIGHTS[name]) for name, keys in dict(pixels=masked, texts=contrast).items()
    }
    config.objective = ConfigDict(dict(name="together", parts=parts))
    return config


def test_the_gradient_is_the_weighted_sum(pairs):
    both, batch, rng = objectives.build(make_config(pairs)), pairs.batch(), jax.random.key(1)
    params, extra = jax.jit(both.init)(jax.random.key(0), batch)
    assert {"encoder", "predictor", "text", "video_proj", "text_proj", "scale"} == set(params)

    def of(objective, extra, key):
        def loss(params):
            value, (metrics, _) = objective.loss(params, extra, batch, key, 0, {})
            return value, metrics

        return jax.value_and_grad(loss, has_aux=True)

    def everything(params):
        alone = {
            name: of(objective, extra[name], jax.random.fold_in(rng, index))(params)
            for index, (name, objective) in enumerate(both.objectives.items())
        }
        return of(both, extra, rng)(params), alone

    ((loss, metrics), grads), alone = jax.jit(everything)(params)
    expected = sum(WEIGHTS[name] * alone[name][0][0] for name in WEIGHTS)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    sums = jax.tree.map(
        lambda *g: sum(w * x for w, x in zip(WEIGHTS.values(), g, strict=True)),
        *(alone[n][1] for n in WEIGHTS),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, sums)
    assert {"loss", "pixels/loss", "texts/loss", "texts/temperature"} <= set(metrics)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], loss, rtol=1e-6)


def test_bounds_of_the_temperature_hold(pairs):
    both = objectives.build(make_config(pairs))
    assert both.after_update({"scale": {"log_scale": jax.numpy.float32(9.0)}})["scale"]["log_scale"] < 4.7


def test_mistakes_are_named(pairs):
    config = make_config(pairs)
    config.objective.parts.texts.weight = 0.0
    with pytest.raises(UserError, match="parts.texts"):
        objectives.build(config)
    config = make_config(pairs)
    other = config.objective.parts.texts.to_dict() | dict(dim=4)
    config.objective.parts.other = ConfigDict(other)
    with pytest.raises(UserError, match="'other' and 'texts' share 'video_proj'"):
        jax.eval_shape(objectives.build(config).init, jax.random.key(0), pairs.batch())

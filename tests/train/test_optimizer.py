"""AdamW by rules: the numbers of a step, what decays, what is frozen, layer-wise rates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vfm.errors import UserError
from vfm.train import optim


def build(toy, params, lr=0.1, **changes):
    config = toy.config(**{f"optim.{key}": value for key, value in changes.items()})
    return optim.build(config, params, lambda step: jnp.float32(lr))


@pytest.fixture(scope="module")
def params(toy):
    return toy.objective.init(jax.random.key(0), dict(x=jnp.zeros((2, 6))))[0]


def step(optimizer, params, grads, opt=None, at=0):
    learning, _ = optimizer.split(params)
    grads, _ = optimizer.split(grads)
    opt = opt or optimizer.init(params)
    learning, opt = optimizer.update(grads, opt, learning, jnp.int32(at), optax.global_norm(grads))
    return optim.merge(params, learning), opt


def test_a_step_is_adamw_with_decay_by_rule(toy, params):
    optimizer = build(toy, params, weight_decay=0.5, b1=0.9, b2=0.99)
    grads = jax.tree.map(lambda p: jnp.sin(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape) + 0.1, params)
    now, opt = step(optimizer, params, grads)
    now, opt = step(optimizer, now, grads, opt, 1)
    decayed = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
    reference = optax.adamw(0.1, 0.9, 0.99, weight_decay=0.5, mask=decayed)
    expected, state = params, reference.init(params)
    for _ in range(2):
        updates, state = reference.update(grads, state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), now, expected)


def test_the_gradient_is_clipped_to_its_global_norm(toy, params):
    optimizer = build(toy, params, clip=1.0)
    grads = jax.tree.map(jnp.ones_like, params)
    _, opt = step(optimizer, params, grads)
    norm = optax.global_norm(grads)
    np.testing.assert_allclose(opt["mu"]["encoder"]["norm"]["scale"], 0.1 / norm * np.ones(4), rtol=1e-5)


def test_frozen_parameters_stay_and_cost_no_moments(toy, params):
    optimizer = build(toy, params, lr_rules=((r"encoder/.*", 0.0), (r".*", 1.0)))
    now, opt = step(optimizer, params, jax.tree.map(jnp.ones_like, params))
    jax.tree.map(np.testing.assert_array_equal, now["encoder"], params["encoder"])
    assert list(opt["mu"]) == list(opt["nu"]) == ["predictor"]
    assert not np.array_equal(now["predictor"]["head"]["kernel"], params["predictor"]["head"]["kernel"])


def test_layers_of_a_stack_learn_at_rates_of_their_own(toy, params):
    rates = optim.layer_rates(params, 0.5)
    # Two layers: embedding .5^3, layers .5^2 and .5^1, what follows and other parts 1.
    assert rates["encoder"]["patch_embed"]["kernel"] == 0.125
    np.testing.assert_array_equal(rates["encoder"]["blocks"]["mlp"]["kernel"], [[[0.25]], [[0.5]]])
    assert rates["encoder"]["norm"]["scale"] == rates["predictor"]["head"]["kernel"] == 1.0
    grads = jax.tree.map(jnp.ones_like, params)
    now, _ = step(build(toy, params, layer_decay=0.5, weight_decay=0.0), params, grads)
    moved = jax.tree.map(lambda a, b: np.abs(a - b), now, params)
    np.testing.assert_allclose(moved["encoder"]["blocks"]["mlp"]["kernel"][:, 0, 0], [0.025, 0.05], rtol=1e-4)


def test_rules_that_freeze_everything_or_name_nothing_are_errors(toy, params):
    with pytest.raises(UserError, match="nothing would learn"):
        build(toy, params, lr_rules=((r".*", 0.0),))
    with pytest.raises(UserError, match="lr_rules.*decodr"):
        build(toy, params, lr_rules=((r"decodr/.*", 0.0), (r".*", 1.0)))
    with pytest.raises(UserError, match="layer_decay=0.5 needs an encoder"):
        optim.layer_rates({"predictor": params["predictor"]}, 0.5)

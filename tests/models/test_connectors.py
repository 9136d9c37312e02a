"""Every connector gives as many tokens as it says, trains, and passes on what the video shows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from vfm import models
from vfm.errors import UserError
from vfm.models.connectors import interleaved, pooled

GRID, D, OUT = (2, 3, 4), 8, 12
N = 2 * 3 * 4
TINY_QFORMER = dict(queries=3, width=8, depth=2, heads=2)
CONNECTORS = {
    "linear": (dict(name="linear_connector"), 24),
    "mlp": (dict(common.connector()), 2 * 2 * 2),
    "mlp_rows": (dict(common.connector(newline="row", pooling="bilinear")), 2 * 2 * 3),
    "mlp_frames": (dict(common.connector(newline="frame", pool=(2, 1, 2))), 1 * (3 * 2 + 1)),
    "qformer": (dict(TINY_QFORMER, name="qformer", extra_queries=2), 5),
    "resampler": (dict(name="resampler", queries=3, depth=2, heads=2, frames=4), 3),
    "mamba": (dict(name="mamba_compressor", d_state=4), 8),
}


def tokens(seed=0, batch=2):
    return np.random.default_rng(seed).normal(size=(batch, N, D)).astype(np.float32)


def build(name, **changes):
    return models.build(CONNECTORS[name][0] | changes, out_dim=OUT)


@functools.cache
def made(name):
    """(connector, its parameters at first, away from zeros and ones, compiled (output, gradients))."""
    connector = build(name)
    initial = jax.jit(lambda key: connector.init(key, tokens(), GRID))(jax.random.key(0))
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), initial)

    def run(params, x):
        y = connector.apply(params, x, GRID)
        return jnp.sin(y * jnp.arange(1, OUT + 1)).sum(), y

    return connector, initial, moved, jax.jit(jax.grad(run, has_aux=True))


@pytest.mark.parametrize("name", CONNECTORS)
def test_every_parameter_of_every_connector_learns(name):
    connector, initial, moved, run = made(name)
    gradients, y = run(moved, tokens())
    assert y.shape == (2, CONNECTORS[name][1], OUT) and connector.count(GRID) == y.shape[1]
    for params in (initial, moved):
        gradients = run(params, tokens())[0]
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]:
            assert np.isfinite(leaf).all(), path
            key_bias = "/".join(k.key for k in path).endswith(
                ("qkv/bias", "cross/kv/bias")
            )  # partly without effect
            assert key_bias or params is initial or np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("name", CONNECTORS)
def test_samples_do_not_mix_and_the_video_shows(name):
    _, _, moved, run = made(name)
    x = tokens()
    y = np.asarray(run(moved, x)[1])
    other = x.copy()
    other[1] = tokens(1)[1]
    changed = np.asarray(run(moved, other)[1])
    np.testing.assert_allclose(changed[0], y[0], atol=1e-6)
    assert np.abs(changed[1] - y[1]).max() > 1e-3


@pytest.mark.parametrize("name", CONNECTORS)
@pytest.mark.parametrize("grid", [(1, 3, 3), (5, 2, 7)])
def test_the_count_holds_for_other_grids(name, grid):
    connector, initial, *_ = made(name)
    size = int(np.prod(grid))
    shape = jax.eval_shape(lambda: connector.apply(initial, jnp.zeros((1, size, D)), grid)).shape
    assert shape == (1, connector.count(grid), OUT)


def test_published_counts():
    llava = models.build(common.connector(newline="row", pooling="bilinear"), out_dim=OUT)
    assert llava.count((64, 27, 27)) == 13_440
    perception = models.build(common.connector(), out_dim=OUT)
    assert perception.count((32, 32, 32)) == 8_192
    bimba = models.build(dict(name="mamba_compressor", pool=(4, 2, 2)), out_dim=OUT)
    assert bimba.count((64, 24, 24)) == 2_304


def test_pooling_averages_cells():
    x = tokens()
    cells = x.reshape(2, *GRID, D)
    np.testing.assert_allclose(
        pooled(x, GRID, (2, 1, 2)), cells.reshape(2, 1, 2, 3, 2, 2, D).mean((2, 5)), atol=1e-6
    )
    rows = np.asarray(pooled(x, GRID, (1, 2, 1)))  # 3 rows to 2, which share the middle one
    np.testing.assert_allclose(rows[:, :, 0], cells[:, :, :2].mean(2), atol=1e-6)
    np.testing.assert_allclose(rows[:, :, 1], cells[:, :, 1:].mean(2), atol=1e-6)


def test_the_newline_ends_each_row():
    connector, _, moved, run = made("mlp_rows")
    y = np.asarray(run(moved, tokens())[1]).reshape(2, 2, 2, 3, OUT)
    token = moved["params"]["newline_token"]
    np.testing.assert_array_equal(y[:, :, :, 2], np.broadcast_to(token, (2, 2, 2, OUT)))


def test_the_mamba_compressor_starts_as_pooled_tokens():
    connector, initial, _, run = made("mamba")
    plain = build("mlp")
    expected = plain.apply({"params": initial["params"]["mlp"]}, tokens(), GRID)
    np.testing.assert_allclose(run(initial, tokens())[1], expected, atol=1e-5)


@pytest.mark.parametrize(("count", "queries"), [(24, 8), (24, 24), (36_864, 2_304)])
def test_queries_are_spread_among_tokens_and_the_last_place_is_theirs(count, queries):
    places = interleaved(count, queries)
    assert len(np.unique(places)) == queries and places[-1] == count + queries - 1
    gaps = np.diff(places)
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (dict(common.connector(), newline="column"), "newline 'column'"),
        (dict(common.connector(), pooling="max"), "pooling 'max'"),
        (dict(common.connector(), pool=(1, 0, 2)), "pool"),
        (dict(TINY_QFORMER, name="qformer", cross_every=3), "cross_every 3"),
        (dict(name="resampler", heads=3), "heads 3"),
        (dict(name="mlp_connector", layer=3), "layers"),
    ],
)
def test_what_does_not_fit_is_named(part, named):
    with pytest.raises(UserError, match=named):
        models.build(part, out_dim=OUT).init(jax.random.key(0), tokens(), GRID)

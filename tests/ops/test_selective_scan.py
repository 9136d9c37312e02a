"""The selective scan equals the plain recurrence, and its memory is linear in the length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vfm.errors import UserError
from vfm.ops import selective_scan as operation

IMPLS = ("sequential", "associative")


def selective_scan(**kwargs):
    """The operation as one compiled program."""
    arrays = {k: v for k, v in kwargs.items() if not isinstance(v, str | int)}
    options = {k: v for k, v in kwargs.items() if k not in arrays}
    return jax.jit(lambda x: operation.selective_scan(**x, **options))(arrays)


def plain(u, delta, A, B, C, D=None, z=None, delta_bias=None, softplus=False):
    """The recurrence as written in the paper, for [B,L,D] and B, C of [B,L,N]: (y, last state)."""
    delta = delta if delta_bias is None else delta + delta_bias
    delta = jnp.logaddexp(delta, 0) if softplus else delta

    def step(h, x):
        u, delta, B, C = x
        h = jnp.exp(delta[..., None] * A) * h + (delta * u)[..., None] * B[:, None]
        return h, (h * C[:, None]).sum(-1)

    h = jnp.zeros((u.shape[0], *A.shape), u.dtype)
    last, y = lax.scan(step, h, tuple(jnp.moveaxis(x, 1, 0) for x in (u, delta, B, C)))
    y = jnp.moveaxis(y, 0, 1)
    y = y if D is None else y + D * u
    return (y if z is None else y * jax.nn.silu(z)), last


def arrays(length, batch=2, channels=6, states=4, scale=1.0, shift=0.0, options=("D", "z", "delta_bias")):
    r = np.random.default_rng(length)
    shape = (batch, length, channels)
    out = dict(
        u=r.normal(size=shape),
        delta=scale * r.normal(size=shape) + shift,
        A=-np.exp(r.normal(size=(channels, states))),
        B=r.normal(size=(batch, length, states)),
        C=r.normal(size=(batch, length, states)),
        D=r.normal(size=channels),
        z=r.normal(size=shape),
        delta_bias=r.normal(size=channels),
    )
    return {
        k: v.astype(np.float32) for k, v in out.items() if k not in ("D", "z", "delta_bias") or k in options
    }


def with_gradients(scan, inputs, dtype):
    """Outputs, and gradients of a fixed random projection of both outputs."""
    r = np.random.default_rng(1)
    inputs = {k: jnp.asarray(v, dtype) for k, v in inputs.items()}
    weights = [
        jnp.asarray(r.normal(size=s.shape), dtype) for s in jax.eval_shape(lambda x: scan(**x), inputs)
    ]

    @jax.jit
    def run(inputs):
        outputs, pull = jax.vjp(lambda x: scan(**x), inputs)
        return outputs, pull(tuple(weights))[0]

    (y, last), gradients = run(inputs)
    return {"y": y, "last": last} | {f"d{k}": v for k, v in gradients.items()}


def worst(ours, expected):
    assert ours.keys() == expected.keys()
    return max(
        float(np.abs(np.asarray(ours[k], np.float64) - v).max() / max(np.abs(v).max(), 1e-30))
        for k, v in expected.items()
    )


def compare(inputs, impl, **kwargs):
    softplus = kwargs.pop("softplus", True)
    with jax.enable_x64(True):
        expected = with_gradients(functools.partial(plain, softplus=softplus), inputs, jnp.float64)
        expected = jax.tree.map(np.asarray, expected)
    ours = functools.partial(
        operation.selective_scan, softplus=softplus, return_last_state=True, impl=impl, **kwargs
    )
    return worst(with_gradients(ours, inputs, jnp.float32), expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("length", [1, 7, 64, 1000])
def test_equals_the_plain_float64_recurrence(length, impl):
    assert compare(arrays(length), impl) < 1e-5


@pytest.mark.parametrize("options", [(), ("D",), ("z",), ("delta_bias",)])
def test_options_one_by_one(options):
    assert compare(arrays(19, options=options), "auto", softplus=False, chunk=8) < 1e-5


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("scale", "shift"), [(8.0, 20.0), (0.1, -12.0)])
def test_very_large_and_very_small_steps(scale, shift, impl):
    assert compare(arrays(100, scale=scale, shift=shift), impl) < 1e-5


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_any_chunk_gives_the_same(chunk, impl):
    assert compare(arrays(23), impl, chunk=chunk) < 1e-5


def test_float64_inputs_are_computed_in_float64():
    with jax.enable_x64(True):
        inputs = {k: jnp.asarray(v, jnp.float64) for k, v in arrays(64).items()}
        y = selective_scan(**inputs, softplus=True)
        np.testing.assert_allclose(y, plain(**inputs, softplus=True)[0], rtol=1e-10, atol=1e-10)


def test_bfloat16_inputs_keep_a_float32_state():
    inputs = {k: jnp.asarray(v, jnp.bfloat16) for k, v in arrays(200).items()}
    y, last = selective_scan(**inputs, softplus=True, return_last_state=True)
    exact = selective_scan(**{k: v.astype(jnp.float32) for k, v in inputs.items()}, softplus=True)
    assert y.dtype == jnp.bfloat16 and last.dtype == jnp.float32
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
    loss = jax.jit(jax.grad(lambda x: operation.selective_scan(**x).astype(jnp.float32).sum()))
    gradients = loss(inputs)
    assert all(g.dtype == jnp.bfloat16 for g in gradients.values())


def test_stacked_parameter_sets_equal_one_scan_each():
    sets = [arrays(21), {k: v[..., ::-1].copy() for k, v in arrays(21).items()}]
    stacked = {k: np.stack([s[k] for s in sets]) for k in sets[0]}
    both = selective_scan(**stacked, softplus=True)
    for i, one in enumerate(sets):
        np.testing.assert_allclose(both[i], selective_scan(**one, softplus=True), rtol=1e-6, atol=1e-6)


def test_groups_and_constant_weights():
    x = arrays(13)
    blocks = np.stack([x["B"], 2 * x["B"]], axis=2)  # channels 0..2 take the first, 3..5 the second
    y = selective_scan(**{**x, "B": blocks})
    np.testing.assert_allclose(y[..., :3], selective_scan(**x)[..., :3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        y[..., 3:], selective_scan(**{**x, "B": 2 * x["B"]})[..., 3:], rtol=1e-5, atol=1e-5
    )
    constant = x["B"][0, 0]
    expected = selective_scan(**{**x, "B": np.broadcast_to(constant, x["B"].shape)})
    y = selective_scan(**{**x, "B": np.broadcast_to(constant, (6, 4))})
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_of_many_tiles_equals_samples_alone():
    x = arrays(9, batch=12, channels=256, states=16)  # 16 KiB of state a sample
    x = {k: (v if k in ("A", "D", "delta_bias") else np.concatenate([v] * 4)) for k, v in x.items()}
    y = selective_scan(**x, softplus=True)
    alone = selective_scan(**{k: (v if v.ndim < 3 else v[5:6]) for k, v in x.items()}, softplus=True)
    np.testing.assert_allclose(y[5:6], alone, rtol=1e-5, atol=1e-5)


def temporary_bytes(length, impl):
    shapes = jax.eval_shape(
        lambda: {k: jnp.asarray(v) for k, v in arrays(length, channels=64, states=16).items()}
    )
    loss = jax.grad(lambda x: operation.selective_scan(**x, softplus=True, impl=impl).sum())
    return jax.jit(loss).lower(shapes).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("impl", IMPLS)
def test_memory_is_linear_in_length_and_small(impl):
    once, twice = temporary_bytes(2048, impl), temporary_bytes(4096, impl)
    assert twice < 2.05 * once
    activation = 4096 * 2 * 64 * 4  # bytes of one [B, L, D] array
    states = 16 * activation
    assert (
        twice < states + 4 * activation
    )  # all states once, let alone the several copies of a plain backward pass


def test_shapes_that_do_not_belong_together_are_named():
    x = arrays(5)
    with pytest.raises(UserError, match=r"delta has shape \[2, 4, 6\]; expected \[2, 5, 6\]"):
        selective_scan(**{**x, "delta": x["delta"][:, 1:]})
    with pytest.raises(UserError, match="not divided by 4 groups of B"):
        selective_scan(**{**x, "B": np.stack([x["B"]] * 4, axis=2)})
    with pytest.raises(UserError, match="impl 'tree': expected one of auto"):
        selective_scan(**x, impl="tree")

"""The causal convolution sees the past only, and equals its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm.errors import UserError
from vfm.ops.causal_conv import causal_conv1d


def by_definition(x, kernel, bias):
    y = np.zeros(x.shape)
    for t in range(x.shape[1]):
        for k in range(len(kernel)):
            source = t - len(kernel) + 1 + k
            if source >= 0:
                y[:, t] += kernel[k] * x[:, source]
    return y + bias


def arrays(length, taps):
    r = np.random.default_rng(0)
    return (
        r.normal(size=(2, length, 5)).astype(np.float32),
        r.normal(size=(taps, 5)).astype(np.float32),
        r.normal(size=5).astype(np.float32),
    )


@pytest.mark.parametrize(("length", "taps"), [(1, 4), (3, 4), (19, 4), (19, 1), (8, 3)])
def test_equals_its_definition(length, taps):
    x, kernel, bias = arrays(length, taps)
    expected = by_definition(x, kernel, bias)
    np.testing.assert_allclose(causal_conv1d(x, kernel, bias), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        causal_conv1d(x, kernel, bias, "silu"), expected / (1 + np.exp(-expected)), rtol=1e-5, atol=1e-5
    )


def test_no_output_depends_on_the_future():
    x, kernel, bias = arrays(10, 4)
    gradient = jax.grad(lambda x: causal_conv1d(x, kernel, bias, "silu")[:, 6].sum())(x)
    assert not gradient[:, 7:].any() and not gradient[:, :3].any() and gradient[:, 3:7].all()


def test_stacked_parameter_sets_equal_one_convolution_each():
    x, kernel, bias = arrays(10, 4)
    both = causal_conv1d(
        jnp.stack([x, 2 * x]), jnp.stack([kernel, -kernel]), jnp.stack([bias, bias + 1]), "silu"
    )
    np.testing.assert_allclose(both[0], causal_conv1d(x, kernel, bias, "silu"), rtol=1e-6)
    np.testing.assert_allclose(both[1], causal_conv1d(2 * x, -kernel, bias + 1, "silu"), rtol=1e-6)


def test_a_kernel_of_other_channels_is_named():
    x, kernel, bias = arrays(10, 4)
    with pytest.raises(UserError, match=r"kernel has shape \[4, 4\], x \[2, 10, 5\]"):
        causal_conv1d(x, kernel[:, :4], bias)
    with pytest.raises(UserError, match="activation 'sliu' .did you mean 'silu'"):
        causal_conv1d(x, kernel, bias, "sliu")

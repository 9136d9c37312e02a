"""Matrix products and attention: precision is what its name says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm.ops import dot
from vfm.ops.attention import attention


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("precision", dot.PRECISIONS)
def test_product_and_its_gradients_are_as_good_as_the_precision(precision):
    x, kernel, cotangent = normal(0, 2, 3, 32), normal(1, 32, 8), normal(2, 2, 3, 8)
    y, pull = jax.vjp(lambda x, w: dot.matmul(x, w, precision).astype(jnp.float32), x, kernel)
    got = (y, *pull(cotangent))
    x64, kernel64, cotangent64 = (np.asarray(a, np.float64) for a in (x, kernel, cotangent))
    expected = (
        x64 @ kernel64,
        cotangent64 @ kernel64.T,
        np.einsum("abi,abo->io", x64, cotangent64),
    )
    tolerance = 1e-6 if precision == "float32" else 1.5e-2
    for ours, theirs in zip(got, expected, strict=True):
        assert np.abs(ours - theirs).max() / np.abs(theirs).max() < tolerance


def test_bfloat16_dots_narrow_the_operands_of_all_three_products():
    x, kernel = normal(0, 4, 32), normal(1, 32, 8)
    gradient = jax.grad(lambda x, w: dot.matmul(x, w, "bfloat16_dots").sum(), (0, 1))
    equations = jax.make_jaxpr(gradient)(x, kernel).eqns
    products = [e for e in equations if e.primitive.name == "dot_general"]
    assert len(products) >= 2  # those of the backward pass; the forward one may be behind its own call
    for product in products:
        assert {v.aval.dtype for v in product.invars} == {jnp.dtype(jnp.bfloat16)}
        assert product.outvars[0].aval.dtype == jnp.float32
    assert dot.matmul(x, kernel, "bfloat16_dots").dtype == jnp.float32
    assert dot.matmul(x, kernel, "bfloat16").dtype == jnp.bfloat16


def test_precision_names_are_checked():
    assert dot.resolve_precision("auto") in dot.PRECISIONS
    with pytest.raises(ValueError, match=r"'bfloat17' \(did you mean 'bfloat16'\?\)"):
        dot.resolve_precision("bfloat17")


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_attention_is_softmax_of_scaled_products(dtype, tolerance):
    q, k, v = normal(0, 2, 5, 3, 8), normal(1, 2, 7, 3, 8), normal(2, 2, 7, 3, 8)
    logits = np.einsum("bnhd,bmhd->bhnm", *(np.asarray(a, np.float64) for a in (q, k))) * 0.7
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum("bhnm,bmhd->bnhd", weights, np.asarray(v, np.float64))
    got = attention(q.astype(dtype), k.astype(dtype), v.astype(dtype), scale=0.7)
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, atol=3 * tolerance)


def test_attention_gradient_is_that_of_the_plain_softmax():
    q, k, v, cotangent = (normal(i, 1, 6, 2, 4) for i in range(4))

    def plain(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k) * 0.5, axis=-1)
        return jnp.einsum("bhnm,bmhd->bnhd", weights, v)

    for ours, theirs in zip(
        jax.vjp(attention, q, k, v)[1](cotangent), jax.vjp(plain, q, k, v)[1](cotangent), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_attention_survives_huge_logits():
    q = jnp.full((1, 2, 1, 4), 1e4)
    assert np.isfinite(attention(q, q, q)).all()


def test_attention_implementations_are_checked():
    q = normal(0, 1, 2, 1, 8)
    with pytest.raises(ValueError, match="'flash'.*auto, xla, cudnn"):
        attention(q, q, q, impl="flash")
    with pytest.raises(ValueError, match="cudnn.*float32.*use impl 'auto'"):
        attention(q, q, q, impl="cudnn")


def test_a_transposed_kernel_learns_too():
    """As the output layer of a language model that shares its table of word vectors."""
    x, table = normal(0, 64, 16, 128), normal(1, 128, 128)

    def loss(kernel_of, x, table):
        return jnp.square(dot.matmul(x, kernel_of(table), "bfloat16_dots")).sum()

    shared = jax.jit(jax.grad(lambda x, table: loss(jnp.transpose, x, table), (0, 1)))(x, table)
    own = jax.jit(jax.grad(lambda x, kernel: loss(lambda k: k, x, kernel), (0, 1)))(x, table.T)
    np.testing.assert_allclose(shared[0], own[0], rtol=1e-5)
    np.testing.assert_allclose(shared[1], own[1].T, rtol=1e-5)

"""Cross-entropy in chunks is the plain one, with memory linear in the chunk; rotary positions are relative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm.ops import rope
from vfm.ops.vocabulary import token_cross_entropy

B, L, D, V = 2, 7, 6, 11


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    hidden, kernel = rng.normal(size=(B, L, D)), rng.normal(size=(D, V))
    return hidden.astype(np.float32), kernel.astype(np.float32), rng.integers(0, V, (B, L))


@functools.cache
def run(chunk, smoothing=0.1):
    """(gradients of a weighted loss by hidden states and kernel, scores)."""
    hidden, kernel, labels = inputs()
    weight = np.random.default_rng(1).random((B, L), np.float32)

    def loss(hidden, kernel):
        scores = token_cross_entropy(hidden, kernel, labels, chunk=chunk, smoothing=smoothing)
        return (scores.loss * weight).sum(), scores

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(hidden, kernel)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_negative_log_probability_of_the_smoothed_label(smoothing):
    hidden, kernel, labels = inputs()
    logits = hidden.astype(np.float64) @ kernel.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = np.eye(V)[labels] * (1 - smoothing) + smoothing / V
    scores = run(0, smoothing)[1]
    np.testing.assert_allclose(scores.loss, -(target * log_p).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(scores.correct, logits.argmax(-1) == labels)


@pytest.mark.parametrize("chunk", [1, 3, 7, 8])
def test_chunks_change_neither_values_nor_gradients(chunk):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), run(0), run(chunk))


def test_memory_is_linear_in_the_chunk():
    rows, length, width, words = 2, 128, 8, 4096

    def megabytes(chunk):
        def loss(hidden, kernel):
            return token_cross_entropy(
                hidden, kernel, jnp.zeros((rows, length), jnp.int32), chunk=chunk
            ).loss.sum()

        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, length, width), (width, words))]
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes / 2**20

    taken = {chunk: megabytes(chunk) for chunk in (16, 32, 64)}  # compiled, never run
    logits = rows * words * 4 / 2**20  # of one position
    # Each further position costs no more than its logits and what is computed from them.
    assert taken[32] - taken[16] <= 3 * 16 * logits
    assert abs((taken[64] - taken[32]) - 2 * (taken[32] - taken[16])) < 0.2 * (taken[64] - taken[32])


def test_rotation_depends_on_distances_only_and_keeps_lengths():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 5, 2, 8)).astype(np.float32)

    @jax.jit
    def products(shift):
        cos, sin = rope.angles(jnp.arange(5)[None] + shift, 8)
        turned = rope.rotate(q, cos, sin), rope.rotate(k, cos, sin)
        return jnp.einsum("bnhd,bmhd->bhnm", *turned), jnp.linalg.norm(turned[0], axis=-1)

    np.testing.assert_allclose(products(0)[0], products(1000)[0], atol=2e-3)
    np.testing.assert_allclose(products(0)[0], products(3)[0], atol=1e-5)
    np.testing.assert_allclose(products(7)[1], np.linalg.norm(q, axis=-1), rtol=1e-5)


def test_rotation_by_position_one_turns_pairs_of_halves():
    cos, sin = rope.angles(jnp.ones((1, 1), jnp.int32), 4, theta=100.0)
    turned = rope.rotate(jnp.asarray([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4), cos, sin).ravel()
    slow = 0.1  # 100 ** (-2 / 4)
    expected = [
        np.cos(1) - 3 * np.sin(1), 2 * np.cos(slow) - 4 * np.sin(slow),
        3 * np.cos(1) + np.sin(1), 4 * np.cos(slow) + 2 * np.sin(slow),
    ]  # fmt: skip
    np.testing.assert_allclose(turned, expected, rtol=1e-6)

"""Quantizers: straight-through gradients, codes that count right, codebooks that follow their formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm import models
from vfm.errors import UserError
from vfm.models import quantizers


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (4,)])
def test_fsq_codes_and_vectors_are_one_to_one(levels):
    module = quantizers.fsq(levels)
    codes = jnp.arange(module.codes)
    vectors = module.lookup(codes)
    assert module.codes == np.prod(levels) and len(np.unique(np.asarray(vectors), axis=0)) == module.codes
    assert np.abs(vectors).max() <= 1
    for channel, count in enumerate(levels):
        assert len(np.unique(np.asarray(vectors[:, channel]))) == count
    # Any vector is quantized to the vector of its code, and the codes of far vectors are the outermost ones.
    z = jnp.asarray(np.random.default_rng(0).normal(0, 3, (500, len(levels))), jnp.float32)
    quantized = module.apply({}, z)
    np.testing.assert_allclose(module.lookup(quantized.codes), quantized.values, atol=1e-6)
    assert len(np.unique(quantized.codes)) > 0.5 * min(module.codes, 500) ** 0.9
    ends = module.apply({}, jnp.asarray([[-99.0] * len(levels), [99.0] * len(levels)])).codes
    np.testing.assert_array_equal(ends, [0, module.codes - 1])


def test_fsq_gradient_is_that_of_the_squashed_vector():
    module = quantizers.fsq((5, 3))
    z = jnp.asarray([[0.3, -0.2]])
    grad = jax.grad(lambda z: module.apply({}, z).values.sum())(z)
    half = (np.array([5, 3]) - 1) * 1.001 / 2
    np.testing.assert_allclose(grad, (1 - np.tanh(z) ** 2) * half / np.array([2, 1]), rtol=1e-5)


def make_vq(decay):
    module = quantizers.vq(codes=4, dim=2, commitment=0.25, decay=decay)
    codebook = jnp.asarray([[0.0, 0], [1, 0], [0, 1], [9, 9]])
    z = jnp.asarray([[0.1, 0.2], [0.9, -0.1], [0.2, 0.2]])
    return module, codebook, z


def test_vq_takes_the_nearest_and_passes_gradients_straight_through():
    module, codebook, z = make_vq(0.0)
    weight = jnp.asarray([[1.0, 2], [3, 4], [5, 6]])
    quantized = module.apply({"params": {"codebook": codebook}}, z)
    np.testing.assert_array_equal(quantized.codes, [0, 1, 0])
    np.testing.assert_allclose(quantized.values, codebook[jnp.asarray([0, 1, 0])], atol=1e-6)

    def values(z, codebook):
        return (module.apply({"params": {"codebook": codebook}}, z).values * weight).sum()

    of_z, of_codebook = jax.grad(values, (0, 1))(z, codebook)
    np.testing.assert_allclose(of_z, weight)
    np.testing.assert_allclose(of_codebook, 0)


def test_vq_loss_pulls_vectors_by_the_commitment_and_codes_only_without_averages():
    for decay in (0.0, 0.9):
        module, codebook, z = make_vq(decay)

        def loss(z, codebook, module=module):
            return module.apply({"params": {"codebook": codebook}}, z).loss

        difference = z - codebook[jnp.asarray([0, 1, 0])]
        of_z, of_codebook = jax.grad(loss, (0, 1))(z, codebook)
        np.testing.assert_allclose(of_z, 0.25 * 2 * difference / z.size, rtol=1e-4)
        expected = np.zeros((4, 2))
        if not decay:
            np.add.at(expected, [0, 1, 0], -2 * np.asarray(difference) / z.size)
        np.testing.assert_allclose(of_codebook, expected, rtol=1e-4, atol=1e-7)


def test_the_averaged_codebook_is_the_formula():
    rng = np.random.default_rng(0)
    codebook = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
    old = quantizers.averages_of(codebook)._replace(batches=jnp.asarray(1))
    counts, sums, decay = np.ones(3), np.asarray(codebook, np.float64), 0.9
    for _ in range(3):
        z = rng.normal(size=(4, 5, 2)).astype(np.float32)
        codes = rng.integers(0, 2, (4, 5))  # the last code never occurs
        old = quantizers.averaged(old, jnp.asarray(z), jnp.asarray(codes), jax.random.key(0), decay, 0.0)
        counts = decay * counts + (1 - decay) * np.bincount(codes.ravel(), minlength=3)
        new = np.stack([z[codes == k].sum(0) for k in range(3)])
        sums = decay * sums + (1 - decay) * new
    np.testing.assert_allclose(old.counts, counts, rtol=1e-5)
    np.testing.assert_allclose(old.sums, sums, rtol=1e-4, atol=1e-6)
    total = counts.sum()
    smoothed = (counts + 1e-5) / (total + 3e-5) * total
    np.testing.assert_allclose(quantizers.codebook_of(old), sums / smoothed[:, None], rtol=1e-4, atol=1e-6)


def test_the_first_batch_seeds_all_codes_and_later_ones_those_without_use():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)
    codes = jnp.zeros(8, jnp.int32)
    fresh = quantizers.averages_of(jnp.full((3, 2), 50.0))
    first = quantizers.averaged(fresh, z, codes, jax.random.key(0), 0.9, 1.0)
    assert np.abs(quantizers.codebook_of(first)).max() < 5
    seeded = quantizers.averaged(first, z, codes, jax.random.key(1), 0.9, 0.95)
    moved = np.abs(quantizers.codebook_of(seeded) - quantizers.codebook_of(first)).max(1)
    rows = np.asarray(quantizers.codebook_of(seeded)[1:])
    assert all(np.abs(np.asarray(z) - row).max(1).min() < 1e-3 for row in rows) and moved[0] > 0
    kept = quantizers.averaged(first, z, codes, jax.random.key(1), 0.9, 0.0)
    np.testing.assert_allclose(quantizers.codebook_of(kept)[1:], quantizers.codebook_of(first)[1:], rtol=1e-3)


@pytest.mark.parametrize("make", [lambda: quantizers.fsq((8, 1)), lambda: quantizers.vq(codes=1)])
def test_impossible_quantizers_are_errors(make):
    with pytest.raises(UserError, match="expected"):
        make()


def test_windows_of_a_tokenizer_do_not_see_each_other():
    part = dict(
        name="video_tokenizer",
        window=1,
        encoder=dict(
            name="vit", width=16, depth=1, heads=2, frames=1, image_size=8, tubelet=1, patch=4,
            positions="sincos3d",
        ),
        quantizer=dict(name="fsq", levels=(8, 8)),
    )  # fmt: skip
    module = models.build(part)
    video = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8, 8, 3)), jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(0), video)
    variables = {"params": variables["params"]}
    apply = jax.jit(lambda *inputs: module.apply(variables, *inputs, mutable=["intermediates"]))
    features, seen = apply(video)
    changed, _ = apply(video.at[:, 1].add(1.0))
    assert features.tokens.shape == (2, 12, 16) and features.grid == (3, 2, 2)
    assert seen["intermediates"]["codes"][0].shape == (2, 12)
    same = np.isclose(changed.tokens, features.tokens, atol=1e-6).all((0, 2)).reshape(3, 4).all(1)
    np.testing.assert_array_equal(same, [True, False, True])
    keep = jnp.asarray([[0, 5], [3, 11]])
    kept, _ = apply(video, keep)
    np.testing.assert_allclose(kept.tokens[1], features.tokens[1, jnp.asarray([3, 11])], atol=1e-6)

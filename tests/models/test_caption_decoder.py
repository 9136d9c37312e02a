"""The caption decoder: what sees what, and that a cache changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm import models
from vfm.errors import UserError
from vfm.ops.attention import attention, causal_mask

PART = dict(name="caption_decoder", vocab_size=11, width=16, depth=2, heads=2, length=8)


def randomised(tree):
    """So that nothing is 0, as the head is at first."""
    leaves, shape = jax.tree.flatten(tree)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        shape, [leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves]
    )


@pytest.fixture(scope="module", params=[0, 1], ids=["cappa", "coca"])
def decoder(request):
    module = models.build(PART | dict(text_depth=request.param))
    rng = np.random.default_rng(1)
    ids = jnp.asarray(rng.integers(0, 11, (2, 6)), jnp.int32)
    memory = jnp.asarray(rng.normal(size=(2, 5, 12)), jnp.float32)
    params = randomised(jax.jit(module.init)(jax.random.key(0), ids, memory)["params"])
    return module, params, ids, memory, jax.jit(lambda *inputs: module.apply({"params": params}, *inputs))


def test_a_masked_key_is_never_seen_and_prefixes_are_seen_whole():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in np.random.default_rng(0).normal(size=(3, 2, 4, 1, 8)))
    mask = causal_mask(4, prefix=jnp.asarray([0, 3]))
    expected = np.tril(np.ones((4, 4), bool))
    np.testing.assert_array_equal(mask[0, 0], expected)
    np.testing.assert_array_equal(mask[1, 0], expected | (np.arange(4) < 3))
    out = attention(q, k, v, mask=mask)
    logits = np.where(mask, np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(8), -np.inf)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(out, np.einsum("bhnm,bmhd->bnhd", weights, v), atol=1e-5)
    np.testing.assert_array_equal(causal_mask(1, 4, start=2)[0, 0], [[True, True, True, False]])


def test_logits_see_the_video_and_no_later_word(decoder):
    _, _, ids, memory, apply = decoder
    logits = apply(ids, memory)
    changed = apply(ids.at[:, 3].add(1) % 11, memory)
    np.testing.assert_allclose(changed[:, :3], logits[:, :3], atol=1e-6)
    assert np.abs(changed[:, 3:] - logits[:, 3:]).max(-1).min() > 1e-4
    assert np.abs(apply(ids, memory + 1) - logits).max(-1).min() > 1e-4


@pytest.mark.parametrize("decoder", [0], indirect=True, ids=["cappa"])
def test_without_a_causal_mask_the_first_position_sees_the_last(decoder):
    _, _, ids, memory, apply = decoder
    every = jnp.ones((1, 1, 6, 6), bool)
    logits = apply(ids, memory, every)
    changed = apply(ids.at[:, 5].add(1) % 11, memory, every)
    assert np.abs(changed[:, 0] - logits[:, 0]).max() > 1e-4


def test_a_cache_gives_the_logits_of_the_whole_text(decoder):
    module, params, ids, memory, apply = decoder
    expected = apply(ids, memory)
    extend = jax.jit(lambda *inputs: module.apply({"params": params}, *inputs, method="extend"))
    logits, cache = extend(module.empty_cache(2, 5), ids[:, :3], memory)
    found = [logits]
    for i in range(3, 6):
        logits, cache = extend(cache, ids[:, i : i + 1])
        found.append(logits)
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), expected, atol=1e-5)


@pytest.mark.parametrize("decoder", [1], indirect=True, ids=["coca"])
def test_the_class_token_sees_all_but_padding(decoder):
    module, params, ids, _, _ = decoder
    read = jax.jit(lambda ids, mask: module.apply({"params": params}, ids, mask, method="read"))
    mask = jnp.arange(6) < jnp.asarray([[6], [4]])
    tokens, cls = read(ids, mask)
    tokens_of_other, other = read((ids + (np.arange(6) == 5)) % 11, mask)
    assert np.abs(other[0] - cls[0]).max() > 1e-4  # a word
    np.testing.assert_allclose(other[1], cls[1], atol=1e-6)  # padding
    np.testing.assert_allclose(tokens_of_other[:, :5], tokens[:, :5], atol=1e-6)


def test_no_biases_unless_asked_for(decoder):
    params = decoder[1]
    names = {str(path[-1].key) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]}
    assert "bias" not in names


def test_a_text_that_is_too_long_is_an_error(decoder):
    module, params, _, memory, _ = decoder
    with pytest.raises(UserError, match=r"objective\.decoder\.length"):
        module.apply({"params": params}, jnp.zeros((2, 9), jnp.int32), memory)


def test_query_pool_gives_as_many_vectors_as_queries():
    pool = models.build(dict(name="query_pool", width=16, queries=3, heads=2))
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 12)), jnp.float32)
    out, variables = jax.jit(pool.init_with_output)(jax.random.key(0), tokens)
    assert out.shape == (2, 3, 16)
    # The order of a set of tokens does not matter.
    np.testing.assert_allclose(jax.jit(pool.apply)(variables, tokens[:, ::-1]), out, atol=1e-5)

"""The language model: what sees what, caches that change nothing, adapters that start as nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm import models
from vfm.errors import UserError
from vfm.models.lm import UNSEEN, lm

TINY = dict(vocab_size=13, width=16, depth=2, heads=4, kv_heads=2, mlp_dim=24)
B, N = 2, 8


@functools.cache
def made():
    """(model, parameters away from zeros and ones, compiled apply)."""
    model = lm(**TINY, qkv_bias=True, tied=False)
    initial = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), initial)
    return model, params, jax.jit(model.apply)


def words(seed=0, batch=B, length=N):
    return np.random.default_rng(seed).integers(0, 13, (batch, length), np.int32)


def flags(*row):
    return np.tile(np.asarray(row, bool), (B, 1))


def another(ids, places):
    """Other words at some places."""
    ids = ids.copy()
    ids[:, places] = (ids[:, places] + 1) % 13
    return ids


def logits(*inputs):
    _, params, apply = made()
    return np.asarray(apply(params, *inputs)[0])


def test_logits_never_depend_on_later_tokens():
    ids = words()
    before = logits(ids, None, None)
    for place in range(1, N):
        after = logits(another(ids, slice(place, None)), None, None)
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (np.abs(after[:, place] - before[:, place]).max(-1) > 1e-3).all()


def test_a_prefix_sees_itself_and_never_the_suffix():
    ids, prefix = words(), flags(1, 1, 1, 1, 0, 0, 0, 0)
    before = logits(ids, None, prefix)
    suffix = logits(another(ids, slice(4, None)), None, prefix)
    np.testing.assert_array_equal(suffix[:, :4], before[:, :4])
    inside = logits(another(ids, 3), None, prefix)
    assert (np.abs(inside[:, 0] - before[:, 0]).max(-1) > 1e-3).all()  # backwards too
    later = logits(another(ids, 6), None, prefix)
    np.testing.assert_array_equal(later[:, :6], before[:, :6])  # the suffix is causal


@pytest.mark.parametrize("places", [(0, 1), (3, 6), (8, 9)], ids=["front", "middle", "end"])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_padding_changes_nothing(places, with_prefix):
    ids, prefix = words(), flags(1, 1, 1, 1, 0, 0, 0, 0)
    expected = logits(ids, None, prefix if with_prefix else None)
    true = np.setdiff1d(np.arange(N + 2), places)
    padded, mask, wide = np.full((B, N + 2), 5, np.int32), np.zeros((B, N + 2), bool), None
    padded[:, true], mask[:, true] = ids, True
    if with_prefix:
        wide = np.zeros_like(mask)
        wide[:, true] = prefix
    np.testing.assert_allclose(logits(padded, mask, wide)[:, true], expected, atol=1e-5)


def test_the_batch_size_changes_nothing():
    ids = words(batch=5)
    whole = logits(ids)
    for row in range(5):
        np.testing.assert_allclose(logits(ids[row : row + 1])[0], whole[row], atol=1e-5)


@pytest.mark.parametrize("pieces", [(1,) * N, (5, 1, 2)])
@pytest.mark.parametrize("prompted", [False, True])
def test_a_cache_changes_nothing(pieces, prompted):
    """With a prefix, all of it goes in at once, as in decoding."""
    model, params, apply = made()
    if prompted and pieces[0] < 5:
        pieces = (5, *(1,) * (N - 5))
    ids, prefix = words(), flags(1, 1, 1, 1, 1, 0, 0, 0) if prompted else None
    mask = np.ones((B, N), bool)
    mask[0, 0] = mask[1, 6] = False
    expected = logits(ids, mask, prefix)
    cache, found, start = model.empty_cache(B, N + 3), [], 0
    for piece in pieces:
        part = slice(start, start + piece)
        made_logits, cache = apply(
            params, ids[:, part], mask[:, part], None if prefix is None else prefix[:, part], cache
        )
        found.append(made_logits)
        start += piece
    found = np.concatenate(found, axis=1)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-5)
    assert int(cache.length) == N
    np.testing.assert_array_equal(cache.position, mask.sum(1))
    np.testing.assert_array_equal(cache.blocks[:, N:], UNSEEN)


def test_the_last_token_of_a_prefix_may_be_put_in_again():
    model, params, apply = made()
    ids, prefix = words(), flags(*[1] * N)
    expected, cache = apply(params, ids, None, prefix, model.empty_cache(B, N))
    again, cache = apply(params, ids[:, -1:], None, None, cache.without_last())
    np.testing.assert_allclose(again[:, 0], expected[:, -1], atol=1e-5)
    assert int(cache.length) == N


def test_embeddings_may_stand_for_ids():
    model, params, _ = made()
    embedded = model.apply(params, words(), method="embed")
    np.testing.assert_array_equal(logits(embedded), logits(words()))


def test_adapters_start_as_the_model_without_them_and_learn():
    base, params, apply = made()
    adapted = lm(**TINY, qkv_bias=True, tied=False, lora_rank=2, lora_alpha=6.0)
    fresh = jax.jit(adapted.init)(jax.random.key(1), words())
    flat = jax.tree_util.tree_flatten_with_path(fresh)[0]
    mine = {jax.tree_util.keystr(path): leaf for path, leaf in flat}
    theirs = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_flatten_with_path(params)[0]}
    adapters = set(mine) - set(theirs)
    assert set(theirs) < set(mine) and len(adapters) == 2 * 7
    assert all("lora_a" in name or "lora_b" in name for name in adapters)
    joined = jax.tree_util.tree_map_with_path(lambda p, x: theirs.get(jax.tree_util.keystr(p), x), fresh)
    run = jax.jit(lambda p: adapted.apply(p, words())[0])
    np.testing.assert_array_equal(run(joined), apply(params, words())[0])

    gradient = jax.jit(jax.grad(lambda p: adapted.apply(p, words())[0][..., 0].sum()))(joined)
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]:
        if "lora_b" in jax.tree_util.keystr(path):
            assert (np.abs(leaf).reshape(len(leaf), -1).max(1) > 0).all()  # in every layer

    # Adapters are the model whose kernels they change.
    rng = np.random.default_rng(3)
    moved = jax.tree_util.tree_map_with_path(
        lambda p, x: (
            x + rng.normal(size=x.shape).astype(np.float32) if "lora" in jax.tree_util.keystr(p) else x
        ),
        joined,
    )

    def merged(tree):
        if "lora_a" in tree:
            change = jnp.einsum("lir,lro->lio", tree["lora_a"], tree["lora_b"]) * 6.0 / 2
            return {k: v + change if k == "kernel" else v for k, v in tree.items() if "lora" not in k}
        return {k: merged(v) if isinstance(v, dict) else v for k, v in tree.items()}

    expected = apply(merged(moved), words())[0]
    np.testing.assert_allclose(run(moved), expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_rematerialisation_and_unrolling_change_nothing():
    _, params, _ = made()

    def gradient(**run_time):
        model = models.build(dict(TINY, name="lm", qkv_bias=True, tied=False), **run_time)
        return jax.jit(jax.grad(lambda p: jnp.sin(model.apply(p, words())[0]).sum()))(params)

    plain = gradient()
    for run_time in (dict(remat="full"), dict(unroll=0)):
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
        jax.tree.map(close, plain, gradient(**run_time))


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16_dots"])
def test_other_precisions_are_near_and_give_logits_in_float32(precision):
    _, params, _ = made()
    model = lm(**TINY, qkv_bias=True, tied=False, precision=precision)
    found, cache = jax.jit(model.apply)(params, words(), cache=model.empty_cache(B, N))
    assert found.dtype == jnp.float32
    expected = logits(words())
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_a_tied_model_has_no_head():
    model = lm(**TINY)
    shapes = jax.eval_shape(model.init, jax.random.key(0), words())["params"]
    assert set(shapes) == {"words", "blocks", "norm"}
    assert shapes["words"]["embedding"].shape == (13, 16)
    assert shapes["blocks"]["attn"]["k"]["kernel"].shape == (2, 16, 8)


@pytest.mark.parametrize(
    ("size", "billions"),
    [
        ("qwen2_0.5b", 0.49),
        ("tinyllama_1.1b", 1.1),
        ("qwen2_1.5b", 1.54),
        ("llama2_7b", 6.74),
        ("llama3_8b", 8.03),
    ],
)
def test_published_sizes(size, billions):
    qwen = size.startswith("qwen")
    vocabulary = {"qwen2": 151_936, "llama3": 128_256}.get(size.split("_")[0], 32_000)
    model = lm(vocabulary, size, qkv_bias=qwen, tied=qwen)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (dict(vocab_size=0), "vocab_size 0"),
        (dict(size="7b"), "llama2_7b"),
        (dict(kv_heads=3), "kv_heads 3"),
        (dict(heads=5, kv_heads=5), "width 16"),
        (dict(width=12, heads=4), "odd"),
        (dict(activation="swish"), "activation 'swish'"),
    ],
)
def test_what_does_not_fit_is_named(keys, named):
    with pytest.raises(UserError, match=named):
        lm(**TINY | keys)

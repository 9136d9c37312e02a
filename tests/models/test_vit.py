"""Published sizes, and the decoder, poolers and classifier around an encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm import models
from vfm.models.classifier import Classifier
from vfm.models.poolers import AttentivePooler, heads_of

TINY = dict(name="vit", width=32, depth=1, heads=2, frames=4, image_size=16, tubelet=2, patch=4)
DECODER = dict(name="decoder", width=16, depth=2, heads=2)


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def shapes(module, *arguments):
    return jax.eval_shape(lambda key: module.init(key, *arguments), jax.random.key(0))


@pytest.mark.parametrize(
    "size, patch, parameters",
    # Of published classifiers without head and pooled norm (VideoMAE; V2 for g), plus registers of nothing.
    [("s", 16, 21_879_168), ("b", 16, 86_225_664), ("l", 16, 303_858_688), ("h", 16, 631_604_480)],
)
def test_sizes_have_the_published_parameter_counts(size, patch, parameters):
    encoder = models.build(dict(name="vit", size=size, patch=patch, final_norm=False))
    assert count(shapes(encoder, jnp.zeros((1, 16, 224, 224, 3)))) == parameters


@pytest.mark.parametrize("final_norm, parameters", [(False, 94_209_408), (True, 94_210_944)])
def test_videomae_base_pretraining_has_the_published_parameter_count(final_norm, parameters):
    encoder = models.build(dict(name="vit", size="b", final_norm=final_norm))
    decoder = models.build(dict(name="decoder", width=384, depth=4, heads=6), out_dim=1536)
    ids = jnp.zeros((1, 1), jnp.int32)
    total = count(shapes(encoder, jnp.zeros((1, 16, 224, 224, 3)), ids))
    total += count(shapes(decoder, jnp.zeros((1, 1, 768)), ids, ids, (8, 14, 14)))
    assert total == parameters


@pytest.fixture(scope="module")
def decoder():
    module = models.build(DECODER, out_dim=10)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 32)), jnp.float32)
    keep = jnp.asarray([[0, 3, 8, 20, 31], [1, 2, 3, 4, 5]])
    masked = jnp.asarray([[1, 2, 30], [0, 6, 31]])
    variables = jax.jit(lambda key: module.init(key, tokens, keep, masked, (2, 4, 4)))(jax.random.key(0))
    apply = jax.jit(lambda tokens, keep, masked: module.apply(variables, tokens, keep, masked, (2, 4, 4)))
    return apply, tokens, keep, masked


def test_decoder_predicts_masked_tokens_in_the_order_asked_for(decoder):
    apply, tokens, keep, masked = decoder
    out = apply(tokens, keep, masked)
    assert out.shape == (2, 3, 10)
    other = apply(tokens, keep, masked[:, ::-1])
    np.testing.assert_allclose(other[:, ::-1], out, atol=1e-5)


def test_decoder_reads_positions_of_visible_and_masked_tokens(decoder):
    apply, tokens, keep, masked = decoder
    out = apply(tokens, keep, masked)
    order = jnp.asarray([4, 2, 0, 1, 3])
    shuffled = apply(tokens[:, order], keep[:, order], masked)
    np.testing.assert_allclose(shuffled, out, atol=1e-5)
    moved = apply(tokens, keep, masked.at[0, 2].set(29))
    assert np.abs(moved[0, 2] - out[0, 2]).max() > 1e-3


def test_pooler_is_one_cross_attention_block_as_in_vjepa():
    width, heads = 128, 2
    pooler = AttentivePooler(queries=3)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(2, 6, width)), jnp.float32)
    variables = jax.jit(pooler.init)(jax.random.key(0), tokens)
    variables = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), variables)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p[name]["scale"] + p[name]["bias"]

    def split(x):
        return x.reshape(*x.shape[:-1], heads, width // heads)

    seen = norm(np.asarray(tokens, np.float64), "norm1")
    q = split(p["query"] @ p["q"]["kernel"] + p["q"]["bias"])
    k, v = split(seen @ p["kv"]["k"]), split(seen @ p["kv"]["v"] + p["kv"]["v_bias"])
    logits = np.einsum("qhs,bnhs->bhqn", q, k) / np.sqrt(width // heads)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    x = p["query"] + np.einsum("bhqn,bnhs->bqhs", weights, v).reshape(2, 3, width)
    hidden = norm(x, "norm2") @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"]
    hidden = np.asarray(jax.nn.gelu(hidden, approximate=False))
    x = x + hidden @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"]
    np.testing.assert_allclose(jax.jit(pooler.apply)(variables, tokens), x, atol=2e-4)


def test_pooler_ignores_padding_and_many_train_at_once():
    pooler = AttentivePooler(heads=2)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 32)), jnp.float32)
    apply = jax.jit(pooler.apply)
    many = jax.jit(jax.vmap(pooler.init, (0, None)))(jax.random.split(jax.random.key(0), 3), tokens)
    outputs = jax.jit(jax.vmap(pooler.apply, (0, None)))(many, tokens)
    assert outputs.shape == (3, 2, 1, 32)
    one = jax.tree.map(lambda leaf: leaf[1], many)
    np.testing.assert_allclose(outputs[1], apply(one, tokens), atol=1e-5)
    mask = jnp.arange(6)[None] < jnp.asarray([[6], [4]])
    padded = apply(one, tokens.at[1, 4:].set(9.0), mask)
    np.testing.assert_allclose(padded, apply(one, tokens, mask), atol=1e-6)
    np.testing.assert_allclose(padded[1], apply(one, tokens[1:, :4])[0], atol=1e-5)


def test_pooler_heads_follow_the_width():
    assert [heads_of(width) for width in (32, 128, 192, 384, 576, 768, 1024)] == [1, 2, 3, 6, 9, 12, 16]


@pytest.mark.parametrize("pooling", ["mean", "first", "cls"])
def test_classifier_pools_as_named(pooling):
    encoder = models.build(TINY | dict(cls_token=True))
    model = Classifier(encoder, classes=5, pooling=pooling, norm=False)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)), jnp.float32)

    @jax.jit
    def run(key):
        variables = model.init(key, x)
        features = encoder.apply({"params": variables["params"]["encoder"]}, x)
        return *model.apply(variables, x, mutable=["intermediates"]), features

    logits, seen, features = run(jax.random.key(0))
    expected = dict(mean=features.tokens.mean(1), first=features.tokens[:, 0], cls=features.cls)[pooling]
    np.testing.assert_allclose(seen["intermediates"]["features"][0], expected, atol=1e-6)
    assert logits.shape == (2, 5)


def test_classifier_without_the_token_it_pools_says_so():
    model = Classifier(models.build(TINY), classes=5, pooling="cls")
    with pytest.raises(ValueError, match="cls_token=True"):
        shapes(model, jnp.zeros((1, 4, 16, 16, 3)))

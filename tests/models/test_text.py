"""What text encoders promise: order, padding and batch never leak into an embedding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from vfm import models
from vfm.models.naflex import NaFlexViT
from vfm.models.poolers import MapPool

TINY = dict(vocab_size=50, length=10, width=32, depth=2, heads=2)
FUSED = dict(TINY, name="bert", fusion_layer=1)
ENCODERS = {
    "clip": dict(TINY, name="text", activation="quick_gelu"),
    "siglip": dict(
        TINY, name="text", causal=False, sees_padding=True, pooling="last", activation="gelu_tanh", norm_eps=1e-6
    ),
    "map": dict(TINY, name="text", causal=False, pooling="map", positions="sincos1d", embed_scale=2.0),
    "mean": dict(TINY, name="text", causal=False, pooling="mean"),
    "bert": dict(TINY, name="bert", pooler=True),
}  # fmt: skip
PADDING_IS_HIDDEN = ("clip", "map", "mean", "bert")
LENGTHS = np.array([8, 5, 1])


def texts(seed=0):
    """Three texts of 8, 5 and 1 tokens, and their mask."""
    ids = np.random.default_rng(seed).integers(1, 50, (3, 8)).astype(np.int32)
    mask = np.arange(8) < LENGTHS[:, None]
    return np.where(mask, ids, 0), mask


def moved(variables):
    """Parameters away from zeros and ones."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), variables)


@functools.cache
def made(name):
    """(variables, compiled apply) of an encoder."""
    model = models.build(ENCODERS[name])
    variables = moved(jax.jit(model.init)(jax.random.key(0), *texts()))
    return variables, jax.jit(lambda text, mask: model.apply(variables, text, mask))


def run(name, text, mask):
    return made(name)[1](text, mask)


@pytest.mark.parametrize("name", ENCODERS)
def test_tokens_and_one_vector(name):
    out = run(name, *texts())
    assert out.tokens.shape == (3, 8, 32)
    assert out.pooled.shape == (3, 32)
    assert np.isfinite(out.tokens).all() and np.isfinite(out.pooled).all()


def test_a_causal_token_never_depends_on_later_ones():
    text, mask = texts()[0], np.ones((3, 8), bool)
    before = run("clip", text, mask).tokens
    for place in range(1, 8):
        after = run("clip", np.where(np.arange(8) >= place, 49, text), mask).tokens
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
    assert np.abs(run("siglip", np.where(np.arange(8) > 6, 49, text), mask).tokens[:, 0]
                  - run("siglip", text, mask).tokens[:, 0]).max() > 1e-4  # fmt: skip


@pytest.mark.parametrize("name", PADDING_IS_HIDDEN)
def test_padding_never_changes_an_embedding(name):
    text, mask = texts()
    out = run(name, text, mask)
    other = run(name, np.where(mask, text, 17), mask)
    np.testing.assert_array_equal(other.pooled, out.pooled)
    longer = run(name, np.pad(text, ((0, 0), (0, 2)), constant_values=3), np.pad(mask, ((0, 0), (0, 2))))
    np.testing.assert_allclose(longer.pooled, out.pooled, atol=1e-5)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(longer.tokens[row, :length], out.tokens[row, :length], atol=1e-5)


def test_siglip_pools_the_last_position_and_sees_padding():
    text, mask = texts()
    out = run("siglip", text, mask)
    np.testing.assert_array_equal(out.pooled, out.tokens[:, -1])
    assert np.abs(run("siglip", np.where(mask, text, 17), mask).pooled[1] - out.pooled[1]).max() > 1e-3


def test_clip_pools_the_end_of_each_text():
    out = run("clip", *texts())
    np.testing.assert_array_equal(out.pooled, out.tokens[np.arange(3), LENGTHS - 1])


@pytest.mark.parametrize("name", ENCODERS)
def test_batch_size_never_changes_an_embedding(name):
    text, mask = texts()
    out = run(name, text, mask).pooled
    one = run(name, text[1:2], mask[1:2]).pooled
    np.testing.assert_allclose(one[0], out[1], atol=1e-5)
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(run(name, text[order], mask[order]).pooled, out[order], atol=1e-5)


@pytest.mark.parametrize("kind", ["text", "bert"])
def test_configs_name_every_key_and_build(kind):
    part = getattr(common, kind)(**TINY)
    assert models.build(part).width == 32
    with pytest.raises(ValueError, match="'dpeth'.*did you mean 'depth'"):
        models.build(part | dict(dpeth=1))


@pytest.mark.parametrize(
    "part, named",
    [
        (ENCODERS["clip"] | dict(vocab_size=0), "vocab_size 0: .*data.text.tokenizer"),
        (ENCODERS["bert"] | dict(vocab_size=0), "vocab_size 0"),
        (ENCODERS["clip"] | dict(heads=5), "heads 5 do not divide width 32"),
        (ENCODERS["clip"] | dict(pooling="eos"), "pooling 'eos'.*eot, last"),
        (ENCODERS["clip"] | dict(size="x"), "size 'x'"),
        (ENCODERS["clip"] | dict(length=7), "texts of 8 tokens.*7 positions"),
        (ENCODERS["bert"] | dict(length=7), "texts of 8 tokens.*7 positions"),
        (ENCODERS["bert"] | dict(fusion_layer=2), "fusion_layer 2: expected a layer from 0 to 1"),
    ],
)
def test_a_wrong_value_is_named(part, named):
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(lambda: models.build(part).init(jax.random.key(0), *texts()))


@pytest.fixture(scope="module")
def fused():
    """A BERT whose second layer fuses, its variables, and texts with videos of 6 tokens of another width."""
    model = models.build(FUSED)
    video = jnp.asarray(np.random.default_rng(2).normal(size=(3, 6, 20)), jnp.float32)
    text, mask = texts()
    init = jax.jit(lambda key: model.init(key, text, mask, video, method="everything"))
    return model, moved(init(jax.random.key(0))), text, mask, video


def test_fusion_looks_at_the_video_and_hides_padding(fused):
    model, variables, text, mask, video = fused

    @jax.jit
    def fuse(text, video):
        tokens = model.apply(variables, text, mask).tokens
        return tokens, model.apply(variables, tokens, mask, video, method="fuse")

    tokens, out = fuse(text, video)
    assert out.shape == tokens.shape == (3, 8, 32)
    _, other = fuse(text, video.at[1].set(video[2]))
    assert np.abs(other[1] - out[1]).max() > 1e-3
    np.testing.assert_array_equal(other[0], out[0])
    _, shuffled = fuse(
        text, video[:, ::-1]
    )  # a video's tokens are a set: positions are the encoder's business
    np.testing.assert_allclose(shuffled, out, atol=1e-5)
    _, padded = fuse(np.where(mask, text, 17), video)
    np.testing.assert_array_equal(padded[mask], out[mask])


def test_layers_below_fusion_are_the_text_encoder(fused):
    model, variables, text, mask, _ = fused
    assert {leaf.shape[0] for leaf in jax.tree.leaves(variables["params"]["blocks"])} == {1}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(variables["params"]["fusion_blocks"])} == {1}
    alone = models.build(FUSED | dict(depth=1, fusion_layer=-1))
    np.testing.assert_array_equal(
        jax.jit(model.apply)(variables, text, mask).tokens, jax.jit(alone.apply)(variables, text, mask).tokens
    )
    with pytest.raises(ValueError, match="no fusion layers"):
        alone.apply(variables, jnp.zeros((1, 2, 32)), None, jnp.zeros((1, 2, 20)), method="fuse")


def test_words_are_predicted_with_their_own_vectors(fused):
    model, variables, *_ = fused
    tokens = jnp.ones((1, 2, 32))
    predict = jax.jit(lambda variables: model.apply(variables, tokens, method="predict"))
    logits = predict(variables)
    assert logits.shape == (1, 2, 50)
    words = variables["params"]["words"] | dict(
        embedding=variables["params"]["words"]["embedding"].at[7].set(0)
    )
    changed = predict({"params": variables["params"] | dict(words=words)})
    np.testing.assert_array_equal(np.delete(changed, 7, axis=-1), np.delete(logits, 7, axis=-1))
    np.testing.assert_allclose(changed[..., 7], variables["params"]["mlm"]["bias"][7], atol=1e-6)


def test_dropout_needs_training(fused):
    _, variables, text, mask, _ = fused
    model = models.build(FUSED | dict(dropout=0.3))
    plain = jax.jit(model.apply)(variables, text, mask).tokens
    train = jax.jit(lambda key: model.apply(variables, text, mask, train=True, rngs={"dropout": key}).tokens)
    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert np.abs(first - plain).max() > 1e-2
    assert np.abs(first - second).max() > 1e-2
    np.testing.assert_array_equal(first, train(jax.random.key(0)))


def test_map_pool_is_one_attention_of_a_learned_query():
    width, heads = 32, 2
    pool = MapPool(heads, 48, activation="relu")
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(2, 6, width)), jnp.float32)
    mask = np.arange(6) < np.array([[6], [4]])
    variables = moved(jax.jit(pool.init)(jax.random.key(0), tokens))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    everything = np.concatenate([np.tile(p["query"], (2, 1, 1)), tokens], axis=1)
    q, k, v = np.split(everything @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, axis=-1)
    q, k, v = (x.reshape(2, -1, heads, width // heads) for x in (q[:, :1], k[:, 1:], v[:, 1:]))
    logits = np.einsum("bqhs,bnhs->bhqn", q, k) / np.sqrt(width // heads)
    weights = np.exp(np.where(mask[:, None, None], logits, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    x = np.einsum("bhqn,bnhs->bqhs", weights, v).reshape(2, width) @ p["proj"]["kernel"] + p["proj"]["bias"]
    y = x - x.mean(-1, keepdims=True)
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * p["norm"]["scale"] + p["norm"]["bias"]
    y = np.maximum(y @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"], 0)
    expected = x + y @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"]
    run = jax.jit(lambda *inputs: pool.apply(variables, *inputs))
    np.testing.assert_allclose(run(tokens, None, mask), expected, atol=2e-4)
    joined = jnp.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)
    np.testing.assert_allclose(run(tokens[:, 1:], tokens[:, 0]), run(joined), atol=1e-5)


def test_naflex_is_a_vit_where_grids_are_equal_and_ignores_padding():
    keys = dict(width=32, depth=2, heads=2, mlp_dim=64, norm_eps=1e-6, activation="gelu_tanh")
    naflex = NaFlexViT(native=(2, 3), **keys)
    vit = models.build(
        dict(
            keys,
            name="vit",
            frames=1,
            image_size=(8, 12),
            tubelet=1,
            patch=4,
            positions="learned",
            qkv_bias="qkv",
        )
    )
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 8, 12, 3)), jnp.float32)
    variables = moved(jax.jit(vit.init)(jax.random.key(0), image))
    expected = jax.jit(vit.apply)(variables, image).tokens
    patches = image.reshape(2, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 48)
    places = np.stack(np.divmod(np.arange(6), 3), -1)[None].repeat(2, 0)
    run = jax.jit(naflex.apply)
    tokens = run(variables, patches, places, np.ones((2, 1, 1, 6), bool))
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    # The second image is smaller: its padding changes nothing, and its positions are resampled for 1 x 3 patches.
    real = np.arange(8) < np.array([[6], [3]])
    places = np.where(real[..., None], np.pad(places, ((0, 0), (0, 2), (0, 0))), 0)
    for filling in (0.0, 9.0):
        padded = jnp.where(real[..., None], jnp.pad(patches, ((0, 0), (0, 2), (0, 0))), filling)
        out = run(variables, padded, places, real[:, None, None])
        np.testing.assert_allclose(out[0, :6], expected[0], atol=1e-5)
        small = run(variables, patches[1:, :3], places[1:, :3], np.ones((1, 1, 1, 3), bool))
        np.testing.assert_allclose(out[1, :3], small[0], atol=1e-5)
    assert np.abs(small[0] - expected[1, :3]).max() > 1e-3

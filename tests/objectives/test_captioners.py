"""CapPa and CoCa: losses, parallel prediction, likelihoods and generated captions, on a tiny model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import cappa, coca, common
from vfm import objectives
from vfm.errors import UserError

EOS, WORDS = 2, 9


def config_of(name: str) -> ConfigDict:
    c = {"captioner": cappa, "coca": coca}[name].get_config()
    c.precision, c.unroll = "float32", 1
    c.data.text.tokenizer = ""
    shape = dict(width=16, depth=1, heads=2, frames=2, image_size=8, tubelet=1, patch=4)
    c.model.encoder = ConfigDict(common.vit(**shape))
    c.objective.decoder.update(dict(vocab_size=WORDS, width=16, depth=1, heads=2, length=10))
    if name == "coca":
        c.objective.decoder.text_depth = 1
        c.objective.contrast_pool.update(dict(width=16, heads=2))
        c.objective.caption_pool.update(dict(width=16, heads=2, queries=3))
    return c


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "video": jnp.asarray(rng.integers(0, 256, (4, 2, 8, 8, 3)), jnp.uint8),
        "id": jnp.arange(4, dtype=jnp.int32),
        "text": jnp.asarray(rng.integers(3, WORDS, (4, 6)), jnp.int32),
        "text_mask": jnp.arange(6) < jnp.asarray([[6], [4], [5], [2]]),
        "text_id": jnp.asarray([0, 1, 2, 1], jnp.int32),
    }


@pytest.fixture(scope="module", params=["captioner", "coca"])
def model(request, batch):
    objective = objectives.build(config_of(request.param))
    params, _ = jax.jit(objective.init)(jax.random.key(0), batch)
    rng = np.random.default_rng(0)  # so that nothing is 0, as the head is at first
    params = jax.tree.map(lambda p: p + rng.normal(0, 0.2, p.shape).astype(np.float32), params)
    return objective, params


def test_loss_does_not_see_what_stands_in_the_padding(model, batch):
    objective, params = model
    loss = jax.jit(lambda batch: objective.loss(params, {}, batch, jax.random.key(1), 0, {}))
    value, (metrics, _) = loss(batch)
    noise = jnp.where(batch["text_mask"], batch["text"], 5)
    np.testing.assert_allclose(loss(batch | {"text": noise})[0], value, rtol=1e-5)
    captions = metrics.get("caption", metrics["loss"])
    assert captions[1] == 17 and np.isfinite(value)
    if "contrast" in metrics:
        parts = metrics["contrast"][0] / 4 + 2 * captions[0] / captions[1]
        np.testing.assert_allclose(value, parts, rtol=1e-5)


def test_likelihood_is_of_the_tokens_asked_for_and_comes_from_the_video(model, batch):
    objective, params = model
    apply = jax.jit(objective.likelihood)
    ones = jnp.ones((4, 6), bool)
    whole = apply(params, batch["video"], batch["text"], batch["text_mask"], ones)
    first = jnp.broadcast_to(jnp.arange(6) < 2, (4, 6))
    halves = [
        apply(params, batch["video"], batch["text"], batch["text_mask"], part) for part in (first, ~first)
    ]
    np.testing.assert_allclose(halves[0] + halves[1], whole, atol=1e-4)
    blind = jax.jit(functools.partial(objective.likelihood, video=None))(
        params, text=batch["text"], text_mask=batch["text_mask"], text_loss=ones
    )
    assert np.abs(blind - whole).min() > 1e-4


def test_greedy_text_is_what_likelihoods_choose(model, batch):
    objective, params = model
    prompt = [4, 7]
    generate = jax.jit(lambda video: objective.generate(params, video, prompt, length=3, eos=EOS))
    found = np.asarray(generate(batch["video"]))
    likelihood = jax.jit(objective.likelihood)
    text = jnp.broadcast_to(jnp.asarray(prompt, jnp.int32), (4, 2))
    ended = np.zeros(4, bool)
    for place in range(3):
        padded = [
            jnp.pad(jnp.concatenate([text, jnp.full((4, 1), word, jnp.int32)], 1), ((0, 0), (0, 3 - place)))
            for word in range(WORDS)
        ]
        where = jnp.broadcast_to(jnp.arange(6) == 2 + place, (4, 6))
        scores = [likelihood(params, batch["video"], rows, jnp.ones((4, 6), bool), where) for rows in padded]
        expected = np.where(ended, EOS, np.argmax(scores, axis=0))
        np.testing.assert_array_equal(found[:, place], expected)
        ended |= expected == EOS
        text = jnp.concatenate([text, jnp.asarray(expected, jnp.int32)[:, None]], 1)


def test_a_beam_without_a_prompt_begins_at_the_start(model, batch):
    objective, params = model
    run = jax.jit(lambda video: objective.generate(params, video, length=2, method="beam", beams=3, eos=EOS))
    assert run(batch["video"][:2]).shape == (2, 2)


def test_a_text_longer_than_the_decoder_is_an_error(model, batch):
    objective, params = model
    with pytest.raises(UserError, match="the decoder has 10"):
        objective.generate(params, batch["video"], [1] * 8, length=3, eos=EOS)
    with pytest.raises(UserError, match="eos=ID"):
        objective.generate(params, batch["video"], length=3)


def test_parallel_prediction_hides_all_words_and_has_no_causal_mask(batch):
    objective = objectives.build(config_of("captioner"))
    parallel = jnp.asarray([True, False, True, False])
    inputs, mask = objective.inputs(batch["text"], parallel)
    mask = np.broadcast_to(mask, (4, 1, 6, 6))
    np.testing.assert_array_equal(inputs[0], [WORDS] * 6)
    np.testing.assert_array_equal(inputs[1], [WORDS + 1, *batch["text"][1, :-1]])
    assert mask[0].all() and mask[2].all()
    np.testing.assert_array_equal(mask[1, 0], np.tril(np.ones((6, 6), bool)))


@pytest.mark.parametrize("share", [0.0, 0.75, 1.0])
def test_parallel_prediction_has_its_probability(share, batch):
    config = config_of("captioner")
    config.objective.parallel = share
    objective = objectives.build(config)
    many = batch | {"id": jnp.arange(4000, dtype=jnp.int32)}
    drawn = objective.draw_parallel(jax.random.key(0), many)
    assert drawn.mean() == pytest.approx(share, abs=0.03)


def test_batches_without_captions_and_unknown_vocabularies_say_what_to_set(batch):
    config = config_of("captioner")
    with pytest.raises(UserError, match=r"data\.text\.tokenizer"):
        objectives.build(config).init(jax.random.key(0), {"video": batch["video"], "id": batch["id"]})
    config.objective.decoder.vocab_size = 0
    with pytest.raises(UserError, match="bytes"):
        objectives.build(config)


def test_embeddings_are_unit_vectors_that_no_other_row_changes(batch):
    objective = objectives.build(config_of("coca"))
    params, _ = jax.jit(objective.init)(jax.random.key(0), batch)
    embed = jax.jit(lambda b: (
        objective.embed_video(params, b["video"]), objective.embed_text(params, b["text"], b["text_mask"])
    ))  # fmt: skip
    whole, one = embed(batch), embed({name: rows[1:2] for name, rows in batch.items()})
    for several, single in zip(whole, one, strict=True):
        np.testing.assert_allclose(jnp.linalg.norm(several, axis=-1), 1, rtol=1e-5)
        np.testing.assert_allclose(several[1:2], single, atol=1e-5)


def test_the_scale_stays_in_its_range(batch):
    objective = objectives.build(config_of("coca"))
    params = objective.after_update({"scale": {"log_scale": jnp.asarray(7.0)}})
    np.testing.assert_allclose(jnp.exp(params["scale"]["log_scale"]), 100, rtol=1e-5)

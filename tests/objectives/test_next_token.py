"""Next-token prediction: the loss is of answers alone, generation goes on as training saw it, what is frozen stays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from vfm import objectives, rules
from vfm.errors import UserError
from vfm.generation import METHODS, decode
from vfm.train import optim, sharding
from vfm.train.step import make_step

B, L = 4, 10
WORDS = 260  # of the bytes tokenizer
ENCODERS = {
    "vit": common.vit(width=16, depth=1, heads=2, frames=4, image_size=8, patch=4),
    "mamba": common.mamba(width=16, depth=1, frames=4, image_size=8, patch=4, tubelet=2, d_state=2),
}


def config(encoder="vit", **changes):
    c = common.get_config()
    c.precision = "float32"
    c.data.text.tokenizer = "bytes"
    c.model.encoder = ConfigDict(ENCODERS[encoder])
    c.model.lm = ConfigDict(common.lm(width=16, depth=2, heads=2, kv_heads=1, mlp_dim=24, lora_rank=2))
    c.model.connector = ConfigDict(common.connector(layers=1, pool=(1, 1, 2)))
    c.objective = ConfigDict(common.next_token())
    c.update_from_flattened_dict(changes)
    return c


@functools.cache
def made(encoder="vit", attend="prefix"):
    """(objective, parameters away from zeros and ones)."""
    objective = objectives.build(config(encoder, **{"objective.attend": attend}))
    params, extra = jax.jit(objective.init)(jax.random.key(0), batch())
    assert set(params) == {"encoder", "connector", "lm"} and extra == {}
    rng = np.random.default_rng(1)
    return objective, jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), params)


@functools.cache
def compiled(encoder="vit", attend="prefix"):
    """(loss, likelihood) as compiled functions of parameters and a batch."""
    objective, _ = made(encoder, attend)
    key = jax.random.key(0)
    loss = jax.jit(lambda params, batch: objective.loss(params, {}, batch, key, 0, {}))
    names = ("text", "text_mask", "text_loss")
    likelihood = jax.jit(
        lambda params, batch: objective.likelihood(params, batch.get("video"), *(batch[n] for n in names))
    )
    return loss, likelihood


def batch(length=L, seed=0):
    """Rows of begin, prompt (2), answer of 1 to 4 words, end; then padding."""
    rng = np.random.default_rng(seed)
    text = rng.integers(4, WORDS, (B, length), np.int32)
    places, ends = np.arange(length), 4 + np.arange(B)[:, None]
    text[:, 0], text[places == ends] = 1, 2
    text[places > ends] = 0
    return dict(
        video=rng.integers(0, 256, (B, 4, 8, 8, 3), np.uint8),
        id=np.arange(B, dtype=np.int32),
        text=text,
        text_mask=np.broadcast_to(places <= ends, text.shape),
        text_loss=(places >= 3) & (places <= ends),
    )


def rows(batch, chosen):
    return {name: value[chosen] for name, value in batch.items()}


def plain_log_p(objective, params, batch, video=True):
    """log p [B,L] of each token, from logits of the whole sequence; NaN for a first one without anything before."""
    embedded = objective.lm.apply({"params": params["lm"]}, batch["text"], method="embed")
    seen = objective.read(params, batch["video"]) if video else jnp.zeros((B, 0, embedded.shape[-1]))
    m = seen.shape[1]
    asked = jnp.cumsum(batch["text_loss"], axis=1) == 0
    ahead = jnp.ones((B, m), bool)
    prefix = jnp.concatenate([ahead, asked], axis=1) if objective.attend == "prefix" else None
    mask = jnp.concatenate([ahead, batch["text_mask"]], axis=1)
    x = jnp.concatenate([seen, embedded], axis=1)
    log_p = jax.nn.log_softmax(objective.lm.apply({"params": params["lm"]}, x, mask, prefix)[0])
    log_p = jnp.concatenate([jnp.full_like(log_p[:, :1], jnp.nan), log_p[:, :-1]], axis=1)[:, m:]
    return jnp.take_along_axis(log_p, batch["text"][..., None], axis=-1)[..., 0]


@pytest.mark.parametrize(("encoder", "attend"), [("vit", "prefix"), ("vit", "causal"), ("mamba", "prefix")])
def test_the_loss_is_the_mean_over_all_answer_tokens_of_the_batch(encoder, attend):
    objective, params = made(encoder, attend)
    one = batch()
    log_p = np.asarray(jax.jit(functools.partial(plain_log_p, objective))(params, one))
    loss, (metrics, extra) = compiled(encoder, attend)[0](params, one)
    counted = one["text_loss"]
    np.testing.assert_allclose(loss, -log_p[counted].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (-log_p[counted].sum(), counted.sum()), rtol=1e-5)
    assert 0 <= metrics["accuracy"][0] <= metrics["accuracy"][1] == counted.sum()
    likelihood = compiled(encoder, attend)[1](params, one)
    np.testing.assert_allclose(likelihood, np.where(counted, log_p, 0).sum(1), rtol=1e-5)


@pytest.mark.parametrize(
    "part",
    [
        dict(name="linear_connector"),
        dict(name="qformer", queries=3, width=16, depth=2, heads=2),
        dict(name="resampler", queries=3, depth=1, heads=2),
        dict(name="mamba_compressor", pool=(1, 2, 2), d_state=2),
    ],
    ids=lambda part: part["name"],
)
def test_every_connector_learns_through_the_language_model(part):
    c = config()
    c.model.connector = ConfigDict(common.connector(**part))
    objective, one, key = objectives.build(c), batch(), jax.random.key(0)
    params, _ = jax.jit(objective.init)(key, one)
    # Some of them start as zeros, behind which nothing learns yet.
    params["connector"] = jax.tree.map(lambda x: x + 0.1, params["connector"])
    gradient = jax.jit(jax.grad(lambda params: objective.loss(params, {}, one, key, 0, {})[0]))(params)
    flat = jax.tree_util.tree_leaves_with_path(gradient["connector"])
    still = [jax.tree_util.keystr(path) for path, g in flat if not np.abs(g).max() > 0]
    assert flat and not [path for path in still if "bias" not in path], still


def test_padding_and_the_size_of_the_batch_change_nothing():
    _, params = made()
    one, longer = batch(), batch(L + 3)
    for name, value in one.items():
        if name.startswith("text"):
            longer[name] = np.concatenate([value, np.zeros((B, 3), value.dtype)], axis=1)
        else:
            longer[name] = value
    longer["text"][:, L:] = 77  # what stands at padding does not matter
    loss, likelihood = compiled()
    expected = likelihood(params, one)
    np.testing.assert_allclose(likelihood(params, longer), expected, rtol=1e-5)
    np.testing.assert_allclose(loss(params, longer)[0], loss(params, one)[0], rtol=1e-5)
    for row in range(B):
        np.testing.assert_allclose(likelihood(params, rows(one, [row]))[0], expected[row], rtol=1e-5)


def test_prompts_are_never_learned_and_answers_depend_on_the_video():
    _, params = made()
    one = batch()
    _, likelihood = compiled()
    none = one | {"text_loss": np.zeros_like(one["text_loss"])}
    np.testing.assert_array_equal(likelihood(params, none), np.zeros(B))
    assert compiled()[0](params, none)[0] == 0  # not NaN
    other = one | {"video": batch(seed=5)["video"]}
    assert (np.abs(likelihood(params, other) - likelihood(params, one)) > 1e-3).all()


@pytest.mark.parametrize("attend", ["prefix", "causal"])
def test_a_blind_likelihood_is_that_of_the_text_alone(attend):
    objective, params = made(attend=attend)
    one = batch()
    seen = {name: value for name, value in one.items() if name != "video"}
    found = compiled(attend=attend)[1](params, seen)
    log_p = jax.jit(functools.partial(plain_log_p, objective, video=False))(params, one)
    np.testing.assert_allclose(found, np.where(one["text_loss"], log_p, 0).sum(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "attend", "methods"),
    [("vit", "prefix", METHODS), ("vit", "causal", ("greedy",)), ("mamba", "prefix", ("greedy",))],
)
def test_a_cache_changes_nothing_in_generation(encoder, attend, methods):
    """The words are those of whole passes over everything so far, as the loss makes them, by every method."""
    objective, params = made(encoder, attend)
    video, prompt, length = batch()["video"], np.array([1, 7, 8]), 4
    options = dict(length=length, eos=5, beams=3, top_p=0.9, rng=jax.random.key(2))
    words = len(prompt) + length - 1

    def whole(params, video, method):
        seen = objective.read(params, video)
        m = seen.shape[1]
        places = jnp.broadcast_to(jnp.arange(m + words), (B * options["beams"], m + words))

        def step(cache, ids):
            text = cache["text"].at[:, cache["place"]].set(ids)
            x = objective.lm.apply({"params": params["lm"]}, text, method="embed")
            x = jnp.concatenate([cache["seen"], x], axis=1)
            prefix = places[: len(x)] < m + len(prompt) if attend == "prefix" else None
            logits, _ = objective.lm.apply({"params": params["lm"]}, x, None, prefix)
            return logits[:, m + cache["place"]], cache | {"text": text, "place": cache["place"] + 1}

        text = jnp.zeros((B, words), jnp.int32).at[:, : len(prompt)].set(prompt)
        cache = {"text": text, "place": len(prompt) - 1, "seen": seen}
        first = jnp.full(B, prompt[-1])
        axes = {"text": 0, "place": -1, "seen": 0}
        return decode(step, cache, first, method=method, axes=axes, **options)

    def cached(params, video, method):
        return objective.generate(params, video, prompt, method=method, **options)

    both = jax.jit(lambda *inputs: [[run(*inputs, method) for run in (whole, cached)] for method in methods])
    for expected, found in both(params, video):
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(found, axis=0)) > 1  # videos make a difference


def test_prompts_of_several_lengths_and_blind_ones():
    objective, params = made()
    one = batch()
    prompts, mask = np.array([[1, 9, 8], [1, 9, 0], [1, 0, 0], [1, 6, 5]]), np.ones((B, 3), bool)
    mask[1, 2:], mask[2, 1:] = False, False
    options = dict(length=3, method="nucleus", rng=jax.random.key(3), temperature=2.0)
    run = jax.jit(
        lambda p, v, ids, m, key: objective.generate(p, v, ids, prompt_mask=m, **options | {"rng": key})
    )
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(3), row))(np.arange(B))
    together = np.asarray(run(params, one["video"], prompts, mask, keys))
    for row in (1, 2):
        ids = prompts[row : row + 1][:, mask[row]]
        alone = run(params, one["video"][row : row + 1], ids, np.ones_like(ids, bool), keys[row : row + 1])
        np.testing.assert_array_equal(alone[0], together[row])
    for ids, count in (((1, 5), 1), (prompts, B)):
        blind = functools.partial(objective.generate, video=None, prompt_ids=ids, length=3)
        assert jax.eval_shape(blind, params).shape == (count, 3)


@pytest.mark.parametrize("mode", ["frozen", "lora", pytest.param("full", marks=pytest.mark.slow)])
def test_what_is_frozen_stays_bit_for_bit(mode):
    objective, params = made()
    settings = config(**{"optim.lr_rules": common.language_model_rates(mode)})
    mesh = sharding.make_mesh(settings.mesh)
    optimizer = optim.build(settings, params, lambda step: 0.1)
    step = make_step(objective, optimizer, seed=0, accumulate=1, ema=0, mesh=mesh)
    state = dict(step=np.zeros((), np.int32), params=params, extra={}, opt=jax.jit(optimizer.init)(params))
    after, metrics = jax.jit(step)(state, batch(), {})
    assert metrics["skipped"][0] == 0
    before, after = rules.flatten(state["params"]), rules.flatten(after["params"])
    changed = {path for path in before if (np.asarray(before[path]) != np.asarray(after[path])).any()}
    words = {path for path in changed if path.startswith("lm/")}
    assert any(path.startswith("connector/") for path in changed)
    assert any(path.startswith("encoder/") for path in changed)
    if mode == "frozen":
        assert not words
    elif mode == "lora":
        assert words and all("lora_" in path for path in words)
    else:
        assert {"lm/words/embedding", "lm/norm/scale"} < words


@pytest.mark.slow
def test_it_learns_to_tell_videos_apart():
    objective, params = made()
    one = batch()
    one["text"][:, 1:3] = 9  # the same prompt, so that the answer must come from the video
    loss = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, {}, one, jax.random.key(0), 0, {})[0]))
    momenta = jax.tree.map(jnp.zeros_like, params)
    first = None
    for _ in range(300):
        value, gradient = loss(params)
        first = first or value
        momenta = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * jnp.sign(g), momenta, gradient)
        params = jax.tree.map(lambda p, m: p - 5e-3 * m, params, momenta)
    assert value < 0.05 * first
    found = np.asarray(objective.generate(params, one["video"], one["text"][0, :3], length=L - 3))
    for row in range(B):
        answer = one["text"][row][one["text_loss"][row]]
        np.testing.assert_array_equal(found[row][: len(answer)], answer)


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match="config.model.lm is empty"):
        objectives.build(config(**{"model.lm": ConfigDict()}))
    with pytest.raises(UserError, match="vocab_size=0"):
        objectives.build(config(**{"data.text.tokenizer": ""}))
    with pytest.raises(UserError, match="attend 'prefx'.*prefix"):
        objectives.build(config(**{"objective.attend": "prefx"}))
    objective, params = made()
    with pytest.raises(UserError, match="text_loss"):
        objective.init(
            jax.random.key(0), {name: batch()[name] for name in ("video", "id", "text", "text_mask")}
        )
    with pytest.raises(UserError, match="prompt holds no token"):
        objective.generate(params, None, [], length=2)

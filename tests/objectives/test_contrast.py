"""Video-text contrast: chunks, masks, temperatures, matching and masked words, frozen towers, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from vfm import objectives
from vfm.errors import UserError
from vfm.masking import Drawn
from vfm.objectives import fusion
from vfm.objectives.rows import in_chunks
from vfm.train import optim

ALL = dict(vtc=1.0, vtm=1.0, mlm=1.0)


def gradients(objective, params, batch, seed=3):
    """((loss, metrics), gradients), compiled."""

    def loss(params):
        value, (metrics, _) = objective.loss(params, {}, batch, jax.random.key(seed), 0, {})
        return value, metrics

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.fixture(scope="module")
def plain(pairs):
    """A model with InfoNCE alone on videos and images, its parameters, a batch, and its gradients."""
    batch = pairs.batch(images=4)
    objective = objectives.build(pairs.config())
    params, _ = jax.jit(objective.init)(jax.random.key(0), batch)
    return objective, params, batch, gradients(objective, params, batch)


@pytest.fixture(scope="module")
def fused(pairs):
    """The same with all three losses; nothing is dropped, which keeps it small."""
    config = pairs.config(pairs.bert | dict(dropout=0.0), losses=ALL)
    config.model.encoder.drop_path = 0.0
    objective, batch = objectives.build(config), pairs.batch()
    params, _ = jax.jit(objective.init)(jax.random.key(0), batch)
    return objective, params, batch, gradients(objective, params, batch)


def test_parameters_have_the_names_of_the_contract(plain, fused):
    assert set(plain[1]) == {"encoder", "text", "video_proj", "text_proj", "scale"}
    assert set(fused[1]) == {*plain[1], "vtm_head"}
    assert "fusion_blocks" in fused[1]["text"]


def test_chunks_give_the_gradients_of_the_whole_batch(pairs, plain):
    """Under masks and drop path, which belong to samples."""
    _, params, batch, ((loss, metrics), grads) = plain
    chunked = objectives.build(pairs.config(chunks=4, loss_chunk=5))
    (other, found), chunk_grads = gradients(chunked, params, batch)
    np.testing.assert_allclose(other, loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves((found, chunk_grads)), jax.tree.leaves((metrics, grads)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(1, float(abs(b).max())))


@pytest.mark.slow
def test_chunks_of_all_losses_with_dropout(pairs):
    batch = pairs.batch(images=4)
    found = []
    for chunks in (1, 4):
        objective = objectives.build(pairs.config(pairs.bert, losses=ALL, chunks=chunks))
        params, _ = jax.jit(objective.init)(jax.random.key(0), batch)
        found.append(gradients(objective, params, batch))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(1, float(abs(a).max())))


def test_metrics_are_pairs_and_the_loss_is_the_weighted_sum(plain, fused):
    for (loss, metrics), _ in (plain[3], fused[3]):
        values = {name: float(total / weight) for name, (total, weight) in metrics.items()}
        losses = [values[name] for name in ALL if name in values]
        np.testing.assert_allclose([values["loss"], sum(losses)], float(loss), rtol=1e-6)
        assert abs(values["temperature"] - 0.07) < 1e-6
        assert (
            0 <= values["text_to_video"] <= 1 and 0 <= values["video_to_text"] <= 1 and values["spread"] > 0
        )
    assert metrics["loss"][1] == 8 and plain[3][0][1]["loss"][1] == 12


def test_everything_learns(plain, fused):
    for _, _, _, (_, grads) in (plain, fused):
        dead = [
            jax.tree_util.keystr(path)
            for path, g in jax.tree_util.tree_flatten_with_path(grads)[0]
            if not float(jnp.abs(g).max()) > 0
        ]
        # One segment of two, and the last positions of short texts, are not used.
        assert not [path for path in dead if "types" not in path], dead


def test_embeddings_are_unit_vectors_and_do_not_depend_on_the_batch(plain):
    objective, params, batch, _ = plain
    embed = jax.jit(lambda v, t, m: (objective.embed_video(params, v), objective.embed_text(params, t, m)))
    whole = embed(batch["video"], batch["text"], batch["text_mask"])
    part = embed(*(batch[key][:3] for key in ("video", "text", "text_mask")))
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(jnp.linalg.norm(a, axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(a[:3], b, atol=1e-6)
    assert objective.embed_video(params, batch["image"]).shape == (4, 8)


def test_matching_scores_pairs_apart(fused):
    objective, params, batch, _ = fused
    inputs = [batch[key] for key in ("video", "text", "text_mask")]
    scores = jax.jit(lambda *x: objective.match(params, *x))(*inputs)
    assert scores.shape == (8,)
    one = jax.jit(lambda *x: objective.match(params, *x))(*(x[:1] for x in inputs))
    np.testing.assert_allclose(scores[:1], one, atol=1e-5)


def test_matching_needs_its_layers(pairs, plain):
    with pytest.raises(UserError, match="cannot match"):
        plain[0].match(plain[1], *(plain[2][key] for key in ("video", "text", "text_mask")))
    with pytest.raises(UserError, match="fusion"):
        objectives.build(pairs.config(losses=dict(vtc=1.0, vtm=1.0)))


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            dict(kind="log_scale", init=0.07, low=0.01, high=1.0, learned=True),
            (np.log(1 / 0.07), 0, np.log(100)),
        ),
        (dict(kind="temperature", init=0.07, low=0.001, high=0.5, learned=True), (0.07, 0.001, 0.5)),
        (dict(kind="temperature", init=0.01, low=0.01, high=0.0, learned=True), (0.01, 0.01, 9.0)),
        (dict(kind="log_scale", init=0.1, low=0.0, high=0.0, learned=True), (np.log(10), -9.0, 9.0)),
    ],
)
def test_temperatures_start_and_stay_where_published(pairs, text, expected):
    objective = objectives.build(pairs.config(temperature=text))
    scale = objective.temperature.init()
    kind = text["kind"]
    np.testing.assert_allclose(scale[kind], expected[0], rtol=1e-6)
    for moved, bound in ((-9.0, expected[1]), (9.0, expected[2])):
        clamped = objective.after_update({"scale": {kind: jnp.float32(moved)}, "text": 1})
        np.testing.assert_allclose(clamped["scale"][kind], bound, rtol=1e-6, atol=1e-7)
        assert clamped["text"] == 1


def test_a_fixed_temperature_is_no_parameter_and_sigmoid_has_a_bias(pairs):
    fixed = dict(kind="temperature", init=0.05, low=0.0, high=0.0, learned=False)
    batch = pairs.batch()
    params, _ = jax.eval_shape(
        objectives.build(pairs.config(temperature=fixed)).init, jax.random.key(0), batch
    )
    assert "scale" not in params
    objective = objectives.build(pairs.config(kind="sigmoid", bias=-2.71))
    assert objective.temperature.init()["bias"] == np.float32(-2.71)
    params, _ = jax.jit(objective.init)(jax.random.key(0), batch)

    def loss(scale):
        return objective.loss(params | {"scale": scale}, {}, batch, jax.random.key(0), 0, {})[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(params["scale"])
    assert np.isfinite(value) and abs(grads["bias"]) > 0


def test_a_locked_tower_neither_learns_nor_has_moments(pairs, plain):
    _, params, _, _ = plain
    config = pairs.config()
    config.optim.lr_rules = ((r"text/.*", 0.0), (r".*", 1.0))
    optimizer = optim.build(config, params, lambda step: 0.1)
    learning, frozen = optimizer.split(params)
    assert set(frozen) == {"text"} and "text" not in learning
    assert "text" not in optimizer.init(params)["mu"]


@pytest.mark.parametrize("follow", [False, True])
def test_visible_tokens_are_aligned_with_a_teacher_in_the_same_pass(pairs, follow):
    config = pairs.config(losses=dict(vtc=1.0, uta=2.0))
    keys = config.model.encoder.to_dict() | dict(drop_path=0.0, cls_token=True, depth=2)
    config.model.encoder, config.optim.lr = ConfigDict(keys), 0.0
    config.teachers.clip = ConfigDict(common.teacher(run="", encoder=keys))
    heads = dict(middle=common.layer_head("clip", 2, cls=True), last=common.layer_head("clip", 1, weight=0.5))
    config.objective.heads = ConfigDict(heads)
    config.objective.mask = ConfigDict({})
    if follow:
        mask = dict(name="teacher_attention", teacher="clip", ratio=0.5, per="clip")
        config.objective.mask = ConfigDict(mask)
    batch = pairs.batch(4, images=0 if not follow else 2)
    whole, chunked = objectives.build(config), ConfigDict(config.to_dict())
    chunked.objective.chunks = 2
    rng = jax.random.key(3)
    params, _ = jax.jit(whole.init)(jax.random.key(0), batch)
    frozen = {"clip": whole.teachers["clip"].init(jax.random.key(5), batch)}

    def of(objective):
        def loss(params):
            value, (metrics, _) = objective.loss(params, {}, batch, rng, 0, frozen)
            return value, metrics

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (loss, metrics), grads = of(whole)
    assert set(params["heads"]) == {"middle", "last"} and np.isfinite(loss)
    np.testing.assert_allclose(loss, metrics["vtc"][0] + 2 * metrics["uta"][0], rtol=1e-6)
    assert any(abs(g).max() > 0 for g in jax.tree.leaves(grads["heads"]))
    if follow:
        (again, _), others = of(objectives.build(chunked))
        np.testing.assert_allclose(again, loss, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), grads, others)
        return
    # With all tokens visible it is what distillation alone computes.
    config.objective = ConfigDict(common.distill(heads=heads, mask=dict(name="random", ratio=0.5)))
    alone = objectives.build(config)
    alone.mask = lambda key, grid: Drawn(jnp.arange(4), jnp.arange(0), jnp.ones(0))
    expected = jax.jit(lambda params: alone.loss(params, {}, batch, rng, 0, frozen)[0])(params)
    np.testing.assert_allclose(metrics["uta"][0], expected, rtol=1e-5)


def test_samples_of_one_number_in_several_sources_are_several_samples(pairs):
    batch = pairs.batch()
    batch["id"], batch["source"] = jnp.array([5, 5, 5, 2**30] + [5] * (len(batch["id"]) - 4)), batch["id"] * 0
    batch["source"] = batch["source"].at[1].set(1)
    same = np.asarray(objectives.build(pairs.config(positives="id"))._media(batch)["video"]["positive"])
    assert same[0] == same[2] and len({int(same[0]), int(same[1]), int(same[3])}) == 3


def test_an_image_is_never_the_video_of_its_number(pairs):
    batch = pairs.batch(images=4)
    batch["image_id"] = batch["id"][:4]
    media = objectives.build(pairs.config(positives="id"))._media(batch)
    assert not set(np.asarray(media["video"]["positive"])) & set(np.asarray(media["image"]["positive"]))


def test_negatives_are_never_positives_and_rows_without_any_drop_out():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)) * 30)
    ids = jnp.array([5, 5, 6, 7])
    for seed in range(20):
        keys = jax.random.split(jax.random.key(seed), 4)
        drawn, found = fusion.draw_negatives(keys, logits, ids)
        assert found.all() and (ids[drawn] != ids).all()
    for bad in (jnp.full(4, 5), None):
        values = logits if bad is not None else jnp.full((4, 4), jnp.nan)
        drawn, found = fusion.draw_negatives(keys, values, ids if bad is None else bad)
        assert not found.any() and (drawn == jnp.arange(4)).all()


def test_a_batch_of_one_pair_and_nothing_masked_is_finite(pairs, fused):
    objective, params, _, _ = fused
    batch = pairs.batch(1)
    batch["text_mask"] = jnp.zeros_like(batch["text_mask"]).at[:, 0].set(True)
    batch["text"] = batch["text"].at[:, 0].set(1)  # the begin token alone
    (loss, metrics), grads = gradients(objective, params, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, grads)))
    assert metrics["vtm_accuracy"][1] == 1 and metrics["mlm_accuracy"][1] == 0
    assert metrics["mlm"][0] == 0


def test_hidden_words_are_words(pairs):
    batch = pairs.batch()
    text = batch["text"].at[:, 0].set(1)
    allowed = fusion.maskable(text, batch["text_mask"], (0, 1, 2, 3))
    assert not allowed[:, 0].any() and not (allowed & ~batch["text_mask"]).any()
    keys = jax.random.split(jax.random.key(0), len(text))
    changed, hidden = fusion.mask_words(keys, text, allowed, 0.5, 260, 3)
    assert not (hidden & ~allowed).any() and hidden.any()
    assert (jnp.where(hidden, text, changed) == text).all()
    rows = jnp.array([5, 2])
    again, _ = fusion.mask_words(keys[rows], text[rows], allowed[rows], 0.5, 260, 3)
    assert (again == changed[rows]).all()


def test_chunks_must_divide_the_rows():
    with pytest.raises(UserError, match="chunks=3"):
        in_chunks(lambda x: x, 3, jnp.ones((4, 2)))


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(kind="info"), "infonce"),
        (dict(losses=dict(vtc=0.0)), "above 0"),
        (dict(losses=dict(vtx=1.0)), "vtc"),
        (dict(temperature=dict(kind="log_scale", init=0.001, low=0.01, high=1.0, learned=True)), "low=0.01"),
        (dict(temperature=dict(kind="tau", init=0.1, low=0.01, high=1.0, learned=True)), "temperature"),
    ],
)
def test_mistakes_in_the_config_are_named(pairs, change, named):
    with pytest.raises(UserError, match=named):
        objectives.build(pairs.config(**change))


def test_batches_without_captions_or_ids_are_named(pairs, plain):
    objective, params, batch, _ = plain
    for key, named in (("text", "tokenizer"), ("text_id", "positives")):
        rest = {name: value for name, value in batch.items() if name != key}
        with pytest.raises(UserError, match=named):
            objective.loss(params, {}, rest, jax.random.key(0), 0, {})


def test_a_text_tower_needs_a_vocabulary(pairs):
    config = pairs.config()
    config.data.text.tokenizer = ""
    with pytest.raises(UserError, match="vocab_size"):
        objectives.build(config)

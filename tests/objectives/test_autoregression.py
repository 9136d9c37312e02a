"""Next patch, next code and the tokenizer between them: nothing sees what it predicts, encoders serve probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import aim, common, toto, video_tokenizer
from vfm import models, objectives
from vfm.errors import UserError
from vfm.models.quantizers import Averages, codebook_of

SHAPE = dict(width=16, depth=1, heads=2, image_size=8, patch=4)
TOKENS = 8  # 2 frames of 2 x 2


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.integers(0, 256, (4, 2, 8, 8, 3)), jnp.uint8)
    return {"video": video, "id": jnp.arange(4, dtype=jnp.int32)}


def brighter_from(batch, frame):
    """The batch with other pixels in one patch: the first of a frame."""
    changed = batch["video"].at[:, frame, :4, :4].set(255 - batch["video"][:, frame, :4, :4])
    return batch | {"video": changed}


def aim_config(**encoder) -> ConfigDict:
    c = aim.get_config()
    c.precision, c.unroll = "float32", 1
    part = common.vit(frames=2, tubelet=1, positions="sincos3d", attends="prefix", **SHAPE)
    c.model.encoder = ConfigDict(part | encoder)
    c.objective.predictor.update(dict(depth=1))
    return c


def test_next_patch_is_predicted_from_earlier_ones_and_the_prefix(batch):
    objective = objectives.build(aim_config())
    params, _ = jax.jit(objective.init)(jax.random.key(0), batch)
    encode = jax.jit(
        lambda video, prefix=None: (
            objective.encoder.apply(
                {"params": params["encoder"]}, video.astype(jnp.float32) / 255, prefix=prefix
            ).tokens
        )
    )
    prefix = jnp.asarray([1, 4, 5, 6])
    tokens, changed = (encode(b["video"], prefix) for b in (batch, brighter_from(batch, 1)))
    same = np.isclose(changed, tokens, atol=1e-6).all(-1)
    # Token 4 changed: inside a prefix all of it sees the change, outside only what comes later.
    np.testing.assert_array_equal(same[:, :4].all(1), [True, True, False, False])
    assert not same[:, 4:].any()
    # Without a prefix an encoder that is used later sees the clip whole.
    whole, whole_changed = (encode(b["video"]) for b in (batch, brighter_from(batch, 1)))
    assert not np.isclose(whole_changed, whole, atol=1e-6).all(-1).any()


def test_next_patch_loss_counts_tokens_behind_the_prefix(batch):
    objective = objectives.build(aim_config())
    params, _ = jax.jit(objective.init)(jax.random.key(0), batch)
    value, (metrics, _) = jax.jit(lambda b: objective.loss(params, {}, b, jax.random.key(3), 0, {}))(batch)
    prefix = objective.prefixes(jax.random.split(jax.random.key(3))[0], batch, TOKENS)
    assert metrics["loss"][1] == (TOKENS - prefix).sum() and np.isfinite(value)
    pictures = jax.jit(objective.reconstruct)(params, batch, jax.random.key(3))
    given = pictures["masked"] == pictures["original"]
    np.testing.assert_array_equal(
        np.where(given, pictures["predicted"], 0), np.where(given, pictures["original"], 0)
    )
    assert (pictures["masked"] == 0.5).any()


def test_prefixes_take_every_allowed_length_and_belong_to_their_sample(batch):
    objective = objectives.build(aim_config())
    many = {"id": jnp.arange(500, dtype=jnp.int32)}
    lengths = np.asarray(objective.prefixes(jax.random.key(0), many, TOKENS))
    assert set(lengths) == set(range(1, TOKENS))
    some = objective.prefixes(jax.random.key(0), {"id": many["id"][7:9]}, TOKENS)
    np.testing.assert_array_equal(some, lengths[7:9])


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(attends="all"), "attends='all'"),
        (dict(attends="nothing"), "attends"),
    ],
)
def test_an_encoder_that_sees_what_comes_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        objectives.build(aim_config(**changes))


def test_scans_of_one_direction_are_causal_and_of_two_are_refused(batch):
    config = aim_config()
    part = common.mamba(width=16, depth=1, frames=2, image_size=8, patch=4, d_state=4, cls_token=False)
    config.model.encoder = ConfigDict(part)
    with pytest.raises(UserError, match="bidirectional"):
        objectives.build(config)
    config.model.encoder.bidirectional = False
    objective = objectives.build(config)
    params, _ = jax.jit(objective.init)(jax.random.key(0), batch)
    encode = jax.jit(
        lambda v: objective.encoder.apply({"params": params["encoder"]}, v.astype(jnp.float32)).tokens
    )
    tokens, changed = (encode(b["video"]) for b in (batch, brighter_from(batch, 1)))
    np.testing.assert_allclose(changed[:, :4], tokens[:, :4], atol=1e-4)
    value, (metrics, _) = jax.jit(lambda b: objective.loss(params, {}, b, jax.random.key(3), 0, {}))(batch)
    assert metrics["loss"][1] == 4 * (TOKENS - 1) and np.isfinite(value)


def tokenizer_part(kind: str) -> dict:
    part = video_tokenizer.tokenizer(kind)
    part["encoder"] |= SHAPE
    if kind == "vq":
        part["quantizer"] |= dict(codes=16, dim=4)
    return part


def tokenizer_objective(kind: str):
    c = video_tokenizer.get_config(kind)
    c.precision, c.unroll = "float32", 1
    c.model.encoder = ConfigDict(tokenizer_part(kind))
    c.objective.decoder.update(dict(width=16, depth=1, heads=2))
    return objectives.build(c)


@pytest.fixture(scope="module", params=["fsq", "vq"])
def tokenizer(request, batch):
    objective = tokenizer_objective(request.param)
    params, extra = jax.jit(objective.init)(jax.random.key(0), batch)

    @jax.jit
    def step(params, extra, batch, key):
        def loss(params):
            return objective.loss(params, extra, batch, key, 0, {})

        (_, (metrics, after)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        moved = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
        return objective.settle(moved, after, {}), after, metrics, grads

    return objective, params, extra, step


def test_a_tokenizer_learns_and_its_codebook_follows_its_averages(tokenizer, batch):
    objective, params, extra, step = tokenizer
    first = None
    for number in range(12):
        params, extra, metrics, grads = step(params, extra, batch, jax.random.key(number))
        first = metrics if first is None else first
    assert metrics["reconstruction"][0] < 0.9 * first["reconstruction"][0]
    assert metrics["psnr"][0] > first["psnr"][0]
    assert 1 <= metrics["perplexity"][0] / 4 <= objective.encoder.codes
    assert 0 < metrics["used"][0] / 4 <= 1
    # Through the codes to the patches' embedding.
    assert np.abs(grads["encoder"]["encoder"]["patch_embed"]["kernel"]).max() > 0
    if objective.decay:
        codebook = params["encoder"]["quantizer"]["codebook"]
        np.testing.assert_allclose(codebook, codebook_of(Averages(**extra["averages"])))
        assert np.abs(grads["encoder"]["quantizer"]["codebook"]).max() == 0
        assert extra["averages"]["batches"] == 12


def test_codes_decode_to_what_the_decoder_saw(tokenizer, batch):
    objective, params, _, _ = tokenizer
    codes = jax.jit(objective.encode)(params, batch["video"])
    assert codes.shape == (4, TOKENS) and codes.max() < objective.encoder.codes
    video = jax.jit(lambda codes: objective.decode(params, codes, batch["video"].shape))(codes)
    assert video.shape == batch["video"].shape and 0 <= video.min() and video.max() <= 1


def toto_config(kind: str = "fsq") -> ConfigDict:
    c = toto.get_config()
    c.precision, c.unroll = "float32", 1
    small = dict(width=16, depth=2, heads=2, kv_heads=1, mlp_dim=32)
    c.model.encoder.update(small)
    c.model.encoder.tokenizer = ConfigDict(tokenizer_part(kind))
    c.teachers.tokenizer.encoder = ConfigDict(tokenizer_part(kind))
    return c


@pytest.fixture(scope="module")
def codes_model(tokenizer, batch):
    objective = objectives.build(toto_config("vq" if tokenizer[0].decay else "fsq"))
    params, extra = jax.jit(objective.init)(jax.random.key(5), batch)
    return objective, params, extra, {"tokenizer": {"encoder": tokenizer[1]["encoder"]}}


def test_next_code_sees_only_earlier_codes(codes_model):
    objective, params, _, _ = codes_model
    predict = jax.jit(
        lambda codes: objective.encoder.apply({"params": params["encoder"]}, codes, method="predict")
    )
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 16, (2, TOKENS)))
    hidden, kernel = predict(codes)
    changed, _ = predict(codes.at[:, 3].set((codes[:, 3] + 1) % 16))
    assert kernel.shape == (16, objective.encoder.codes + 1)
    np.testing.assert_allclose(changed[:, :4], hidden[:, :4], atol=1e-6)
    assert np.abs(changed[:, 4:] - hidden[:, 4:]).max(-1).min() > 1e-6


def test_next_code_learns_the_teachers_codes_and_keeps_a_copy_of_it(codes_model, batch, tokenizer):
    objective, params, extra, teacher = codes_model

    def loss(params):
        return objective.loss(params, extra, batch, jax.random.key(0), 0, teacher)

    (value, (metrics, _)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert metrics["loss"][1] == 4 * TOKENS
    assert value == pytest.approx(np.log(objective.encoder.codes + 1), rel=0.4)
    assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(grads["encoder"]["tokenizer"]))
    settled = objective.settle(params, extra, teacher)
    # A probe reads videos with the encoder's own parameters; its tokens stand for the teacher's codes.
    encoder = models.build(toto_config("vq" if tokenizer[0].decay else "fsq").model.encoder)
    video = jnp.asarray(
        (np.asarray(batch["video"]) / 255 - np.array(objective.mean)) / np.array(objective.std), jnp.float32
    )
    features = jax.jit(lambda v, k=None: encoder.apply({"params": settled["encoder"]}, v, k))
    tokens = features(video).tokens
    assert tokens.shape == (4, TOKENS, encoder.width) and encoder.grid_of(video.shape) == (2, 2, 2)
    codes = tokenizer[0].encode(tokenizer[1], batch["video"])
    hidden, _ = encoder.apply(
        {"params": settled["encoder"]}, jnp.pad(codes, ((0, 0), (0, 1))), method="predict"
    )
    np.testing.assert_allclose(tokens, hidden[:, 1:], atol=1e-5)
    keep = jnp.broadcast_to(jnp.arange(3), (4, 3))
    np.testing.assert_allclose(features(video, keep).tokens, tokens[:, :3], atol=1e-5)


def test_a_tokenizer_that_is_missing_or_another_one_is_an_error():
    config = toto_config()
    config.teachers.tokenizer.encoder.window = 2
    with pytest.raises(UserError, match="one network"):
        objectives.build(config)
    config = toto_config()
    config.data.mean = (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match="normalised in two ways"):
        objectives.build(config)
    config.teachers = ConfigDict()
    with pytest.raises(UserError, match=r"config\.teachers\.tokenizer"):
        objectives.build(config)

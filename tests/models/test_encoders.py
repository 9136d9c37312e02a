"""What every encoder promises, whatever its layers are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm import models

TINY = dict(width=32, depth=2, frames=4, image_size=16, tubelet=2, patch=4)  # a grid of 2 x 4 x 4 = 32 tokens
ENCODERS = {
    "vit": dict(TINY, name="vit", heads=2),
    "vit_learned": dict(
        TINY, name="vit", heads=2, positions="learned", cls_token=True, registers=2, norm="rmsnorm",
        qk_norm=True, layer_scale=0.1, qkv_bias="qkv",
    ),
    "vit_separable": dict(TINY, name="vit", heads=2, positions="learned_separable", qkv_bias="none", final_norm=False),
    "vit_sincos3d": dict(TINY, name="vit", heads=2, positions="sincos3d", cls_token=True),
    "vit_clip": dict(
        TINY, name="vit", heads=2, positions="learned", cls_token=True, cls_position=True, pre_norm=True,
        patch_bias=False, qkv_bias="qkv", activation="quick_gelu",
    ),
    "mamba": dict(TINY, name="mamba", d_state=4),
    "mamba_fixed": dict(TINY, name="mamba", d_state=4, positions="sincos1d", cls_token=False, divide_out=True),
}  # fmt: skip
BOTH = ("vit_learned", "mamba")  # one of each kind, for what does not depend on the options


def video(batch=2, frames=4, height=16, width=16, seed=0):
    values = np.random.default_rng(seed).normal(size=(batch, frames, height, width, 3))
    return jnp.asarray(values, jnp.float32)


def ids(*rows):
    return jnp.asarray(rows, jnp.int32)


def build(encoder, **changes):
    settings = {k: changes.pop(k) for k in ("precision", "remat", "unroll") if k in changes}
    return models.build(ENCODERS[encoder] | changes, **settings)


@functools.cache
def made(name):
    """(encoder, variables, compiled apply): parameters are moved away from zeros and ones."""
    encoder = build(name)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), video())
    initial, tree = jax.tree.flatten(jax.jit(encoder.init)(jax.random.key(0), video()))
    assert jax.tree.structure(shapes) == tree
    rng = np.random.default_rng(1)
    leaves = [leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in initial]
    apply = jax.jit(functools.partial(encoder.apply, mutable=["intermediates"]))
    return encoder, jax.tree.unflatten(tree, leaves), apply


def run(name, x, keep=None):
    """Features, and the tokens after the embedding."""
    _, variables, apply = made(name)
    features, seen = apply(variables, x, keep)
    return features, seen["intermediates"]


@pytest.mark.parametrize("name", ENCODERS)
def test_tokens_class_token_grid_and_intermediates(name):
    encoder = made(name)[0]
    features, seen = run(name, video())
    assert features.tokens.shape == (2, 32, encoder.width)
    assert features.grid == (2, 4, 4) == encoder.grid_of((2, 4, 16, 16, 3))
    assert (encoder.tubelet, encoder.patch) == (2, 4)
    assert np.isfinite(features.tokens).all()
    if encoder.cls_token:
        assert features.cls.shape == (2, encoder.width)
    else:
        assert features.cls is None
    extra = encoder.cls_token + getattr(encoder, "registers", 0)
    assert seen["embed"][0].shape == (2, extra + 32, encoder.width)
    assert seen["blocks"]["output"][0].shape == (2, 2, extra + 32, encoder.width)  # layers first


@pytest.mark.parametrize("name", ENCODERS)
def test_keeping_all_tokens_changes_nothing(name):
    everything, _ = run(name, video())
    kept, _ = run(name, video(), ids(range(32), range(32)))
    np.testing.assert_allclose(kept.tokens, everything.tokens, atol=2e-5)
    if everything.cls is not None:
        np.testing.assert_allclose(kept.cls, everything.cls, atol=2e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_tokens_are_never_seen(name):
    keep = ids([0, 5, 17, 31], [1, 2, 3, 30])
    x = np.array(video())
    before, _ = run(name, jnp.asarray(x), keep)
    x[:, :2, 4:8, 8:12] = 7.0  # token 6
    x[1, 2:, 12:, 12:] = -7.0  # token 31, which only the first sample keeps
    after, _ = run(name, jnp.asarray(x), keep)
    np.testing.assert_array_equal(before.tokens, after.tokens)
    assert before.tokens.shape == (2, 4, 32)


@pytest.mark.parametrize("name", ENCODERS)
def test_position_codes_follow_ids(name):
    # Equal patches everywhere: only their ids tell them apart.
    x = jnp.ones((2, 4, 16, 16, 3))
    features, part = run(name, x, ids([0, 5, 17, 31], [0, 6, 17, 31]))
    assert np.abs(features.tokens[0] - features.tokens[1]).max() > 1e-3
    _, whole = run(name, x)
    extra = whole["embed"][0].shape[1] - 32
    expected = whole["embed"][0][1, extra + np.array([0, 6, 17, 31])]
    np.testing.assert_allclose(part["embed"][0][1, extra:], expected, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_other_frames_and_resolutions_run(name):
    features, _ = run(name, video(1, 8, 8, 24))
    assert features.grid == (4, 2, 6)
    assert features.tokens.shape == (1, 48, 32)
    assert np.isfinite(features.tokens).all()


@pytest.mark.parametrize("name", BOTH)
def test_a_video_that_patches_do_not_divide_is_an_error(name):
    with pytest.raises(ValueError, match="18x16.*4x4"):
        run(name, video(1, 4, 18, 16))


@pytest.mark.parametrize("name", ENCODERS)
def test_equal_encoders_share_compiled_functions(name):
    apply = jax.jit(lambda module: jnp.zeros(module.width), static_argnums=0)
    assert apply(build(name)).shape == apply(build(name)).shape
    assert apply._cache_size() == 1


@pytest.mark.parametrize("name", BOTH)
def test_residual_branches_drop_in_training_only(name):
    variables = made(name)[1]
    encoder = build(name, drop_path=0.5)
    plain = run(name, video())[0].tokens
    train = jax.jit(lambda key: encoder.apply(variables, video(), train=True, rngs={"dropout": key}).tokens)
    drawn = [train(jax.random.key(seed)) for seed in range(4)]
    assert all(np.abs(tokens - plain).max() > 1e-3 for tokens in drawn)
    assert any(np.abs(tokens - drawn[0]).max() > 1e-3 for tokens in drawn)
    np.testing.assert_array_equal(drawn[0], train(jax.random.key(0)))
    # Evaluation needs no randomness; neither does training at a rate of 0.
    jax.eval_shape(lambda: encoder.apply(variables, video()))
    jax.eval_shape(lambda: made(name)[0].apply(variables, video(), train=True))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16_dots"])
def test_lower_precisions_stay_near(name, precision):
    tokens = jax.jit(build(name, precision=precision).apply)(made(name)[1], video()).tokens
    assert tokens.dtype == (jnp.bfloat16 if precision == "bfloat16" else jnp.float32)
    error = np.abs(tokens.astype(jnp.float32) - run(name, video())[0].tokens)
    assert 1e-5 < error.max() < 0.3
    assert error.mean() < 0.02


def gradients(name, **changes):
    encoder = build(name, drop_path=0.2, **changes)

    def loss(variables):
        features = encoder.apply(variables, video(1), train=True, rngs={"dropout": jax.random.key(3)})
        return (features.tokens**3).sum()

    return jax.jit(jax.value_and_grad(loss))(made(name)[1])


@pytest.mark.parametrize("name", BOTH)
def test_a_scan_over_layers_equals_a_loop_and_recomputing_changes_nothing(name):
    value, expected = gradients(name)
    for changes in (dict(unroll=0, remat="dots"), dict(remat="full")):
        other, got = gradients(name, **changes)
        np.testing.assert_allclose(other, value, rtol=1e-4, err_msg=str(changes))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max() + 1e-6, err_msg=str(changes))


@pytest.mark.parametrize("name", BOTH)
def test_parameters_of_layers_are_stacked(name):
    variables = made(name)[1]["params"]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(variables["blocks"])} == {2}
    assert variables["patch_embed"]["kernel"].shape == (2 * 4 * 4 * 3, 32)
    assert variables["cls_token"].shape == (1, 32)


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(name="vti"), "'vti'.*did you mean 'vit'"),
        (dict(dpeth=3), "'dpeth'.*did you mean 'depth'"),
        (dict(size="x"), "size 'x'.*ti, s, b, l, h, g"),
        (dict(heads=5), "heads 5 do not divide width 32"),
        (dict(positions="sincos2d"), "sincos2d.*did you mean"),
        (dict(norm="layer"), "norm 'layer'"),
        (dict(qkv_bias="all"), "qkv_bias 'all'"),
        (dict(image_size=18), "18x18"),
        (dict(remat="some"), "remat 'some'"),
        (dict(precision="half"), "precision 'half'"),
    ],
)
def test_a_wrong_key_or_value_is_named(changes, named):
    settings = {key: value for key, value in changes.items() if key in ("remat", "precision")}
    part = {key: value for key, value in changes.items() if key not in settings}
    with pytest.raises(ValueError, match=named):
        models.build(dict(ENCODERS["vit"], **part), **settings).init(jax.random.key(0), video())

"""What VideoMamba promises beyond the encoders' contract: sizes, directions, positions and initial values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm import models
from vfm.models.alignment import AlignmentDecoder
from vfm.models.classifier import Classifier
from vfm.models.mamba import Mixer
from vfm.ops.positions import interpolate

TINY = dict(name="mamba", width=32, depth=2, frames=4, image_size=16, tubelet=2, patch=4, d_state=4)


def video(batch=1, frames=4, height=16, width=16):
    return jnp.asarray(np.random.default_rng(0).normal(size=(batch, frames, height, width, 3)), jnp.float32)


def initial(seed=0, **changes):
    encoder = models.build(TINY | changes)
    return encoder, jax.jit(encoder.init)(jax.random.key(seed), video())["params"]


@pytest.mark.parametrize(
    ("size", "image", "clip"),
    [("ti", 7_148_008, 7_149_544), ("s", 25_796_584, 25_799_656), ("m", 74_217_448, 74_222_056)],
)
def test_published_parameter_counts(size, image, clip):
    for expected, options in ((image, dict(frames=1, positions="learned")), (clip, dict(frames=8))):
        encoder = models.build(dict(name="mamba", size=size, **options))
        classifier = Classifier(encoder, 1000, pooling="cls", norm=False)
        x = jnp.zeros((1, options["frames"], 224, 224, 3))
        shapes = jax.eval_shape(classifier.init, jax.random.key(0), x)
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def influence(bidirectional):
    """Gradient of the middle token's output by each pixel, summed to tokens."""
    encoder, params = initial(
        bidirectional=bidirectional, positions="none", cls_token=False, tubelet=1, depth=1
    )
    middle = jax.jit(jax.grad(lambda x: encoder.apply({"params": params}, x).tokens[0, 32].sum()))
    return np.abs(middle(video())).reshape(4, 4, 4, 4, 4, 3).sum((2, 4, 5)).reshape(-1)


def test_one_direction_sees_the_past_and_two_see_everything():
    past = influence(bidirectional=False)
    assert past[:33].all() and not past[33:].any()
    assert influence(bidirectional=True).all()


def test_the_backward_direction_is_the_forward_one_on_the_reversed_sequence():
    mixer = Mixer(inner=64, states=4, taps=4, rank=2, layers=1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 32)), jnp.float32)
    params = mixer.init(jax.random.key(0), x)["params"]
    stacked = ("conv", "x_proj", "dt_proj", "A_log", "D", "dt_bias")
    swapped = {k: jax.tree.map(lambda p: p[::-1], v) if k in stacked else v for k, v in params.items()}
    y = mixer.apply({"params": params}, x)
    reversed_y = mixer.apply({"params": swapped}, x[:, ::-1])
    np.testing.assert_allclose(reversed_y[:, ::-1], y, atol=1e-5)
    halved = mixer.clone(divide_out=True).apply({"params": params}, x)
    np.testing.assert_allclose(2 * halved, y, atol=1e-6)


def test_tables_are_interpolated_over_space_and_time_apart():
    encoder, params = initial()
    rng = np.random.default_rng(0)
    params = {**params, "time_pos": jnp.asarray(rng.normal(size=(2, 32)), jnp.float32)}
    params["patch_embed"] = jax.tree.map(jnp.zeros_like, params["patch_embed"])
    apply = functools.partial(encoder.apply, mutable=["intermediates"])
    _, seen = jax.jit(apply)({"params": params}, jnp.zeros((1, 12, 24, 8, 3)))
    embed = seen["intermediates"]["embed"][0][0]
    space = interpolate(params["space_pos"][1:], (1, 4, 4), (1, 6, 2))
    time = interpolate(params["time_pos"], (2, 1, 1), (6, 1, 1))
    np.testing.assert_allclose(embed[1:].reshape(6, 12, 32), time[:, None] + space[None], atol=1e-6)
    np.testing.assert_allclose(embed[0], params["cls_token"][0] + params["space_pos"][0], atol=1e-6)


def test_patches_may_overlap():
    encoder, params = initial(stride=3, tubelet=1)
    assert encoder.grid_of((4, 16, 16, 3)) == (4, 5, 5)
    seen = jax.jit(functools.partial(encoder.apply, mutable=["intermediates"]))({"params": params}, video())[
        1
    ]
    kernel = params["patch_embed"]["kernel"].reshape(1, 4, 4, 3, 32)
    expected = jax.lax.conv_general_dilated(
        video(), kernel, (1, 3, 3), "VALID", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    ).reshape(1, 4, 25, 32)
    space = params["space_pos"][1:] + params["time_pos"][:, None]
    np.testing.assert_allclose(
        seen["intermediates"]["embed"][0][:, 1:].reshape(1, 4, 25, 32), expected + space, atol=1e-5
    )


def test_initial_values_as_executed_and_as_mamba_means_them():
    _, params = initial()
    mixer = params["blocks"]["mixer"]
    np.testing.assert_allclose(np.exp(mixer["A_log"][0, 0, 0]), np.arange(1, 5), rtol=1e-6)
    assert (mixer["D"] == 1).all() and (mixer["dt_bias"] == 0).all()
    assert 0.01 < mixer["x_proj"]["kernel"].std() < 0.03
    assert np.abs(mixer["out_proj"]["kernel"]).max() <= 1 / np.sqrt(64 * 2)
    assert np.abs(mixer["conv"]["kernel"]).max() <= 0.5

    _, params = initial(init="mamba")
    step = jax.nn.softplus(params["blocks"]["mixer"]["dt_bias"])
    assert step.min() >= 0.99e-3 and step.max() <= 0.101 and step.std() > 0.01
    a, b = (np.asarray(params["blocks"]["mixer"]["dt_bias"][0, i]) for i in (0, 1))
    assert not np.array_equal(a, b)  # directions start apart


def test_the_residual_stream_stays_float32_when_activations_are_bfloat16():
    encoder = models.build(TINY, precision="bfloat16")
    params = initial()[1]
    features, seen = jax.eval_shape(
        lambda: encoder.apply({"params": params}, video(), mutable=["intermediates"])
    )
    assert features.tokens.dtype == jnp.bfloat16
    assert seen["intermediates"]["blocks"]["output"][0].dtype == jnp.float32


def test_alignment_projects_each_layer_by_itself_to_unit_length():
    decoder = AlignmentDecoder(features=8, native=(1, 4, 5))
    rng = np.random.default_rng(0)
    layers = jnp.asarray(rng.normal(size=(2, 3, 5, 16)), jnp.float32)
    ids = jnp.asarray(np.sort(rng.permuted(np.tile(np.arange(20), (3, 1)), axis=1)[:, :5]), jnp.int32)
    params = jax.jit(decoder.init)(jax.random.key(0), layers, ids)["params"]
    assert params["projection"]["head"]["kernel"].shape == (2, 16, 8)
    apply = jax.jit(lambda x, ids: decoder.apply({"params": params}, x, ids))
    y = apply(layers, ids)
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), 1, rtol=1e-5)
    changed = apply(layers.at[0].add(1.0), ids)
    assert np.abs(changed[0] - y[0]).max() > 1e-2
    np.testing.assert_array_equal(changed[1], y[1])
    assert np.abs(apply(layers, (ids + 1) % 20) - y).max() > 1e-2  # positions follow ids


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(size="l"), "size 'l'.*ti, s, m, b"),
        (dict(init="mmba"), "init 'mmba'.*did you mean 'mamba'"),
        (dict(positions="rope"), "positions 'rope'"),
        (dict(norm="batchnorm"), "norm 'batchnorm'"),
        (dict(d_stat=3), "'d_stat'.*did you mean 'd_state'"),
    ],
)
def test_a_wrong_key_or_value_is_named(changes, named):
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(models.build(TINY | changes).init, jax.random.key(0), video())

"""Position tables and their resampling equal the originals'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm.interop.golden import read
from vfm.ops import positions
from vfm.ops.resize import linear_rows, matrix, resize


@pytest.fixture(scope="module")
def kernels(shared):
    return read(shared / "golden" / "kernels.positional.safetensors").groups


@pytest.mark.parametrize("length, width", [(18, 48), (25, 48), (64, 48)])
def test_flat_sinusoid_is_videomaes(kernels, length, width):
    expected = kernels["output"][f"videomae_sinusoid/N{length}_D{width}"][0]
    np.testing.assert_allclose(positions.sincos1d(length, width), expected, atol=1e-6)


def test_flat_sinusoid_of_an_odd_width(kernels):
    expected = kernels["output"]["videomae_sinusoid_odd/N5_D49"][0]
    np.testing.assert_allclose(positions.sincos1d(5, 49), expected, atol=1e-6)


@pytest.mark.parametrize("time, side, width", [(1, 5, 48), (2, 3, 48), (2, 3, 60), (4, 4, 48)])
def test_sinusoid_of_three_axes_is_vjepas(kernels, time, side, width):
    expected = kernels["output"][f"jepa_sincos3d_uniform/T{time}_G{side}_D{width}"]
    np.testing.assert_allclose(positions.sincos3d((time, side, side), width), expected, atol=1e-6)


@pytest.mark.parametrize("frames, side", [(12, 6), (16, 5), (4, 7)])
def test_interpolation_is_torchs_bicubic_then_linear(kernels, frames, side):
    expected = kernels["output"][f"umt_sinusoid_interp/frames{frames}_P{side}_D4"][0]
    grid = (len(expected) // side**2, side, side)
    table = positions.interpolate(positions.sincos1d(8 * 14 * 14, 4), (8, 14, 14), grid)
    np.testing.assert_allclose(table, expected, atol=2e-6)


def test_interpolation_of_space_and_time_of_videomae_v2(shared):
    golden = read(shared / "golden" / "videomaev2.pos_interp.safetensors").groups["output"]
    table = golden["table"][0]
    np.testing.assert_allclose(positions.sincos1d(*table.shape), table, atol=1e-6)
    for grid, name in (((8, 9, 9), "after_spatial"), ((6, 9, 9), "after_spatial_and_temporal")):
        ours = positions.interpolate(table, (8, 6, 6), grid)
        np.testing.assert_allclose(ours, golden[name][0], atol=2e-6)


@pytest.mark.parametrize("case, grid", [("0_to_6x8", (6, 8)), ("1_to_3x5", (3, 5)), ("2_to_5x7", (5, 7))])
def test_bicubic_to_other_aspects(kernels, case, grid):
    extra = int(kernels["input"][f"spatial_interp/{case[0]}/G1_extra"][1])
    table = kernels["input"][f"spatial_interp/{case[0]}/pos_embed"][0, extra:]
    expected = kernels["output"][f"spatial_interp_nonsquare/{case}"][0, extra:]
    side = round(len(table) ** 0.5)
    ours = positions.interpolate(table, (1, side, side), (1, *grid))
    np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("time, side", [(1, 5), (2, 3), (4, 4)])
def test_sinusoid_of_a_quarter_for_time_is_internvideo2s(kernels, time, side):
    expected = kernels["output"][f"iv2_sincos3d/T{time}_G{side}_D48"]
    np.testing.assert_allclose(positions.sincos_quarter((time, side, side), 48), expected, atol=1e-6)


@pytest.mark.parametrize("case", "0123")
def test_adapted_tables_are_internvideo2s(kernels, case):
    old, side, new, wider, _ = kernels["input"][f"iv2_interp/{case}/config(T0,G0,T1,G1,extra)"]
    table = kernels["input"][f"iv2_interp/{case}/pos_embed"][0]
    ours = positions.adapt(table, (old, side, side), (new, wider, wider))
    np.testing.assert_allclose(ours, kernels["output"][f"iv2_interp/{case}"][0], atol=2e-6)


def test_nearest_takes_torchs_samples():
    # torch.nn.functional.interpolate(arange(5), size=..., mode="nearest")
    assert (matrix(5, 3, "nearest") @ np.arange(5)).tolist() == [0, 1, 3]
    assert (matrix(3, 7, "nearest") @ np.arange(3)).tolist() == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
def test_resizing_keeps_constants_and_equal_sizes(method):
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    assert resize(x, {0: 4, 1: 6}, method) is x
    np.testing.assert_allclose(resize(np.ones((4, 6)), {0: 7, 1: 2}, method), 1.0)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="bicubic.*nearest, linear, cubic"):
        matrix(3, 4, "bicubic")


@pytest.mark.parametrize("source, size", [(4, 7), (5, 5), (8, 3), (6, 1)])
def test_rows_of_a_length_known_late_are_antialiased_linear_resampling(source, size):
    rows = np.asarray(linear_rows(jnp.arange(size), jnp.full(size, size), source))
    if size >= source:
        np.testing.assert_allclose(rows, matrix(source, size, "linear"), atol=1e-6)
    expected = jax.image.resize(jnp.eye(source), (size, source), "linear")
    np.testing.assert_allclose(rows, expected, atol=1e-6)

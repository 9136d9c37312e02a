"""Contrastive losses give the published numbers, and the same ones in chunks and on any mesh."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scripts.bench.contrast import temporary_bytes
from vfm import similarity_losses
from vfm.contrastive import infonce, sigmoid, unit
from vfm.interop.verify import verify

S = jnp.array([[0.9, 0.2, 0.1], [0.3, 0.5, 0.6], [0.0, 0.4, 0.8]])  # rows texts, columns videos
EYE = jnp.eye(3)
RELEVANCY = jnp.array([[1, 0.5, 0], [0.25, 0.5, 0.75], [0, 0.5, 1]])
VERBS, NOUNS = jnp.array([[1, 0], [1, 0], [0, 1.0]]), jnp.array([[1, 0, 1], [0, 0, 1], [0, 1.0, 0]])


@pytest.mark.parametrize(
    "loss, expected",
    [
        (lambda: infonce(S, EYE, 1 / 0.07)[0], 0.3232923126876012),
        (lambda: infonce(S, EYE, 1 / 0.07, directions="sum")[0], 0.6465846253752024),
        (lambda: infonce(S, EYE, 1 / 0.05, directions="sum")[0], 0.7589037281689949),
        (lambda: similarity_losses.both_directions(S / 0.07), 0.3232923126876012),
        (lambda: sigmoid(S, EYE, 10.0, -10.0)[0], 2.822982111340488),
        (lambda: sigmoid(S, EYE, 10.0, 0.0)[0], 5.736574666934053),
        (lambda: similarity_losses.egonce(S, VERBS, NOUNS), 0.7520261985765311),
        (lambda: similarity_losses.max_margin(S), 0.0333333333),
        (lambda: similarity_losses.max_margin(S, 0.4, jnp.array([1, 0.5, 0.75])), 0.0416666667),
        (lambda: similarity_losses.symmetric_multi_similarity(S, RELEVANCY), 0.0208333333),
        (lambda: similarity_losses.dual_temperature(S, jnp.ones(3, bool), 1 / 0.07, 1.0), 0.3232923126876012),
    ],
)
def test_oracles(loss, expected):
    assert abs(float(loss()) - expected) < 1e-6


def test_the_originals_numbers(shared):
    checks = list(verify(str(shared / "golden" / "objectives.contrastive.safetensors")))
    assert len(checks) >= 66
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


def whole(kind, text, video, scale, bias, ids):
    """The same loss from the whole matrix."""
    logits = scale * text @ video.T
    same = (ids[:, None] == ids).astype(jnp.float32)
    if kind == "sigmoid":
        return -jax.nn.log_sigmoid((2 * same - 1) * (logits + bias)).sum() / len(text)
    targets = same / same.sum(1, keepdims=True)
    sides = [-(targets * jax.nn.log_softmax(x, 1)).sum(1).mean() for x in (logits, logits.T)]
    return sum(sides) / 2


def streamed(kind, chunk, text, video, scale, bias, ids):
    common = dict(ids=ids, chunk=chunk)
    found = (
        sigmoid(text, video, scale, bias, **common)
        if kind == "sigmoid"
        else infonce(text, video, scale, **common)
    )
    return found[0]


def example(rows=12, size=4):
    rng = np.random.default_rng(0)
    text, video = (unit(jnp.asarray(rng.normal(size=(rows, size)))) for _ in range(2))
    return text, video, jnp.float32(7.0), jnp.float32(-3.0), jnp.asarray(rng.integers(0, 8, rows), jnp.int32)


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
@pytest.mark.parametrize("chunk", [0, 4, 5])
def test_chunks_change_neither_values_nor_gradients(kind, chunk):
    expected = jax.value_and_grad(lambda *x: whole(kind, *x), argnums=(0, 1, 2, 3))(*example())
    found = jax.jit(jax.value_and_grad(lambda *x: streamed(kind, chunk, *x), argnums=(0, 1, 2, 3)))(
        *example()
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6), found, expected)


def test_all_equal_similarities_and_nan_show():
    ones = jnp.ones((4, 3)) / np.sqrt(3)
    loss, metrics = infonce(ones, ones, 10.0)
    assert abs(float(loss) - np.log(4)) < 1e-5
    assert (metrics["spread"], metrics["text_to_video"], metrics["video_to_text"]) == (0, 0, 0)
    loss, _ = infonce(ones.at[1, 1].set(jnp.nan), ones, 10.0, chunk=3)
    assert np.isnan(loss)


def test_one_pair_has_no_loss_and_unit_vectors_of_zeros_no_gradient():
    one = jnp.ones((1, 2))
    loss, metrics = infonce(one, one, 3.0)
    assert loss == 0 and metrics["text_to_video"] == 1
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros((2, 3)))).all()


def test_memory_of_a_large_batch_is_linear_in_the_chunk():
    rows, size = 8192, 16
    small, middle, large = (temporary_bytes("infonce", rows, size, chunk) for chunk in (256, 512, 1024))
    assert large < 4 * rows**2 / 3  # a third of the similarity matrix
    np.testing.assert_allclose(large - middle, 2 * (middle - small), rtol=0.1)
    np.testing.assert_allclose(large, 2 * middle, rtol=0.1)


MESHES = """
    import sys
    import jax
    import numpy as np
    sys.path.insert(0, "tests/objectives")
    from test_contrastive_losses import example, streamed
    from vfm.train import sharding

    inputs = example(16)
    shapes = (dict(data=8, fsdp=1, tensor=1), dict(data=2, fsdp=2, tensor=2))
    for kind in ("infonce", "sigmoid"):
        for chunk, shape in zip((0, 3), shapes):
            step = jax.value_and_grad(lambda *x: streamed(kind, chunk, *x), argnums=(0, 1, 2, 3))
            expected = jax.jit(step)(*inputs)
            mesh = sharding.make_mesh(shape)
            with jax.set_mesh(mesh):
                rows = sharding.batch_sharding(mesh)
                placed = [jax.device_put(x, rows) if x.ndim else x for x in inputs]
                compiled = jax.jit(step).lower(*placed).compile()
                found = compiled(*placed)
                assert "all-gather" in compiled.as_text()
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6), found, expected)
    print("equal")
"""


def test_eight_devices_give_the_loss_of_one():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MESHES)], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]

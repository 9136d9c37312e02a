"""Controls change frames and nothing else; class names become prompts; draws belong to clips."""

import types

import jax
import numpy as np
import pytest

from eval.captioning import generate
from eval.controls import apply, shuffled_order
from eval.zero_shot import clean_name, prompts
from vfm.errors import UserError


def test_controls_change_frames_and_nothing_else():
    video = np.arange(2 * 1 * 4 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 1, 4, 2, 2, 3)
    ids = np.array([3, 9])
    shuffled = apply("shuffled", video, ids, 0, (0.5,) * 3)
    np.testing.assert_array_equal(np.sort(shuffled, axis=2), np.sort(video, axis=2))
    assert (shuffled != video).any(axis=(1, 2, 3, 4, 5)).all()
    np.testing.assert_array_equal(shuffled[1:], apply("shuffled", video[1:], ids[1:], 0, (0.5,) * 3))
    assert not np.array_equal(shuffled, apply("shuffled", video, ids, 1, (0.5,) * 3))
    np.testing.assert_array_equal(apply("reversed", video, ids, 0, ())[:, :, 0], video[:, :, 3])
    assert (apply("single_frame", video, ids, 0, ()) == video[:, :, 2:3]).all()
    assert (apply("blind", video, ids, 0, (0.0, 0.5, 1.0)) == np.array([0, 128, 255])).all()
    assert len({tuple(shuffled_order(2, 0, i)) for i in range(5)}) == 1


def test_prompts():
    names = {"digit": ["one", "eight"], "motion": ["grows", "moves up"]}
    assert prompts("digit", names, ("a(n) {digit} {motion}",)) == [
        ["a one grows", "a one moves up"],
        ["an eight grows", "an eight moves up"],
    ]
    assert prompts("motion", names, ("it {}", "{digit}"))[1] == ["it moves up"]
    with pytest.raises(UserError, match="'shape', which is no column"):
        prompts("digit", names, ("a {shape} {digit}",))
    with pytest.raises(UserError, match="none has"):
        prompts("digit", names, ("it {motion}",))
    assert clean_name("ApplyEyeMakeup") == "apply eye makeup"
    assert clean_name("Putting [something] on_top") == "putting something on top"


def test_what_is_drawn_for_a_clip_does_not_depend_on_its_batch():
    class Draws:
        def generate(self, params, video, prompt, *, length, method, rng):
            return jax.vmap(lambda key: jax.random.randint(key, (length,), 0, 1000))(rng)

    model = types.SimpleNamespace(objective=Draws(), params={}, _compiled={})
    options, ids = dict(method="nucleus", length=8), np.array([5, 9, 2])
    said = generate(model, np.zeros((3, 1)), [1], options, 7, ids)
    assert len({tuple(row) for row in said}) == 3
    np.testing.assert_array_equal(generate(model, np.zeros((1, 1)), [1], options, 7, ids[1:2]), said[1:2])

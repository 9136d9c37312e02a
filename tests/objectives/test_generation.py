"""Decoding finds what it should: the greedy way, the likeliest, samples of the nucleus; and ends where it should."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vfm.errors import UserError
from vfm.generation import decode

V, EOS, LENGTH = 5, 0, 4
TABLE = np.random.default_rng(0).normal(size=(V, V)).astype(np.float32) * 1.5
FIRST = np.array([1, 2, 3, 4])


def bias(seen):
    """Logits depend on how many tokens a row has seen, which its cache holds."""
    return 0.7 * np.sin(np.arange(V) + seen)


def step(cache, ids):
    return jnp.asarray(TABLE)[ids] + 0.7 * jnp.sin(jnp.arange(V) + cache["seen"][0][:, None]), {
        "seen": cache["seen"] + 1,
        "shared": cache["shared"] + 1,
    }


AXES = {"seen": 1, "shared": -1}


@functools.partial(
    jax.jit, static_argnames=("method", "beams", "length_penalty", "top_p", "temperature", "length")
)
def run(first, rng=None, length=LENGTH, **options):
    cache = {"seen": jnp.zeros((1, len(first))), "shared": jnp.zeros(())}
    return decode(step, cache, first, length=length, eos=EOS, rng=rng, axes=AXES, **options)


def log_p(first, row):
    """Of a row up to its end."""
    total, last = 0.0, first
    for place, token in enumerate(row):
        logits = TABLE[last] + bias(place)
        total += logits[token] - np.log(np.exp(logits).sum())
        last = token
        if token == EOS:
            break
    return total, place + 1


def possible():
    """All rows: nothing but ends after an end."""
    for row in itertools.product(range(V), repeat=LENGTH):
        end = row.index(EOS) if EOS in row else LENGTH
        if not any(row[end:]):
            yield row


def test_greedy_takes_the_largest_logit_and_stays_at_the_end():
    expected = []
    for last in FIRST:
        row = []
        for place in range(LENGTH):
            last = EOS if row and row[-1] == EOS else (TABLE[last] + bias(place)).argmax()
            row.append(last)
        expected.append(row)
    np.testing.assert_array_equal(run(FIRST), expected)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_that_holds_everything_finds_the_best_row_of_all(penalty):
    found = run(FIRST, method="beam", beams=V**LENGTH, length_penalty=penalty)
    for first, row in zip(FIRST, np.asarray(found), strict=True):

        def worth(row, first=first):
            total, tokens = log_p(first, row)
            return total / tokens**penalty

        assert worth(row) == pytest.approx(max(map(worth, possible())), rel=1e-5)


def test_one_beam_is_greedy_and_a_wider_one_is_no_worse():
    greedy = np.asarray(run(FIRST))
    np.testing.assert_array_equal(run(FIRST, method="beam", beams=1), greedy)
    wide = np.asarray(run(FIRST, method="beam", beams=3))
    for first, one, other in zip(FIRST, greedy, wide, strict=True):
        assert log_p(first, other)[0] >= log_p(first, one)[0] - 1e-6


def test_samples_come_from_the_nucleus_in_its_proportions():
    key, many = jax.random.key(0), np.full(4000, 3)
    drawn = np.asarray(run(many, key, length=1, method="nucleus", top_p=0.6, temperature=0.8))[:, 0]
    logits = (TABLE[3] + bias(0)) / 0.8
    p = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-p)
    nucleus = order[: np.searchsorted(np.cumsum(p[order]), 0.6) + 1]
    assert set(drawn) == set(nucleus) and 1 < len(nucleus) < V
    expected = np.where(np.isin(np.arange(V), nucleus), p, 0)
    found = np.bincount(drawn, minlength=V) / len(drawn)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.04)
    np.testing.assert_array_equal(run(FIRST, key, method="nucleus", top_p=1e-6), run(FIRST))


def test_samples_depend_on_the_key_and_not_on_the_other_rows():
    options = dict(method="nucleus", top_p=1.0, temperature=3.0)
    rows = np.full(64, 2)
    one = np.asarray(run(rows, jax.random.key(0), **options))
    np.testing.assert_array_equal(run(rows, jax.random.key(0), **options), one)
    assert (np.asarray(run(rows, jax.random.key(1), **options)) != one).any()
    assert len(np.unique(one, axis=0)) > 10
    np.testing.assert_array_equal(run(rows[:3], jax.random.key(0), **options), one[:3])
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(np.arange(64))
    np.testing.assert_array_equal(run(rows[:3], keys[10:13], **options), one[10:13])  # a key for each row
    for row in one:
        end = list(row).index(EOS) if EOS in row else LENGTH
        assert not row[end:].any()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(method="gredy"), "greedy"),
        (dict(method="nucleus"), "rng"),
        (dict(method="nucleus", rng=jax.random.key(0), top_p=0.0), "top_p"),
        (dict(method="beam", beams=0), "beams 0"),
        (dict(length=0), "length 0"),
    ],
)
def test_what_cannot_be_decoded_is_named(options, named):
    with pytest.raises(UserError, match=named):
        decode(step, {}, FIRST, **dict(length=2, eos=EOS) | options)

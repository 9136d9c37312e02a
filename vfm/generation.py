"""Decoding: token by token from any model that has a step function and a cache.

`decode` is greedy, a beam search, or samples from the nucleus. It is one compiled loop over static shapes that ends
when every row has ended. After its end-of-sequence token a row holds nothing but that token.

Letters: B batch, K beams, V words of the vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vfm.errors import UserError
from vfm.parts import nearest

Cache = Any
Step = Callable[[Cache, Int[Array, "B"]], tuple[Float[Array, "B V"], Cache]]
METHODS = ("greedy", "beam", "nucleus")


def decode(
    step_fn: Step,
    cache: Cache,
    first_ids: Int[Array, "B"],
    *,
    length: int,
    eos: int,
    method: str = "greedy",
    beams: int = 4,
    length_penalty: float = 0.0,
    top_p: float = 0.9,
    temperature: float = 1.0,
    rng: PRNGKeyArray | None = None,
    axes: Any = 0,
) -> Int[Array, "B length"]:
    """Tokens that follow `first_ids`.

    Args:
      step_fn: `(cache, ids) -> (logits of the next token, cache)`; takes in one token of every row.
      cache: what the model knows of each row before `first_ids`: any tree of arrays.
      first_ids: the last token of each prompt; it is not in the cache yet, and not in the result.
      length: tokens of the result.
      eos: id that ends a row.
      method: greedy | beam (the likeliest of what `beams` hypotheses find) | nucleus (sampling).
      length_penalty: a in `log p / tokens ** a`, by which finished beams are compared; 0 = plain likelihood.
      top_p: the nucleus is the fewest tokens whose probabilities reach this sum.
      temperature: of the sampled distribution.
      rng: for nucleus: one key, from which every row draws by its number, or a key for each row [B].
      axes: the batch axis of the cache's leaves: a number, or a tree of numbers that is a prefix of the cache's;
        -1 = a leaf that all rows share.

    Raises:
      UserError: the method is unknown, or a number is out of its range.
    """
    if method not in METHODS:
        raise UserError(f"method '{method}'{nearest(method, METHODS)}: expected one of {', '.join(METHODS)}")
    for name, value, low in (("length", length, 1), ("beams", beams, 1)):
        if value < low:
            raise UserError(f"{name} {value}: expected at least {low}")
    if method == "beam":
        return _beam(step_fn, cache, first_ids, length, eos, beams, length_penalty, axes)
    pick = _greedy
    if method == "nucleus":
        if rng is None or not 0 < top_p <= 1 or temperature <= 0:
            raise UserError(
                f"method 'nucleus' needs rng, 0 < top_p <= 1 and temperature > 0; found top_p {top_p}, temperature "
                f"{temperature}, rng {'none' if rng is None else 'given'}"
            )
        rows = jnp.arange(len(first_ids))
        keys = rng if rng.ndim else jax.vmap(functools.partial(jax.random.fold_in, rng))(rows)
        pick = functools.partial(_nucleus, keys, top_p, temperature)
    return _sequential(step_fn, cache, first_ids, length, eos, pick)


def _greedy(logits: Float[Array, "B V"], place: Int[Array, ""]) -> Int[Array, "B"]:
    del place
    return logits.argmax(-1)


def _nucleus(keys, top_p, temperature, logits: Float[Array, "B V"], place: Int[Array, ""]) -> Int[Array, "B"]:
    """A draw of each row from the fewest tokens that reach `top_p`."""
    logits = logits.astype(jnp.float32) / temperature
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ordered = jnp.take_along_axis(logits, order, axis=-1)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    # A token belongs to the nucleus if those before it have not reached the sum; so the first always does.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    ordered = jnp.where((before < top_p).at[:, 0].set(True), ordered, -jnp.inf)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, place))(keys)
    drawn = jax.vmap(jax.random.categorical)(keys, ordered)
    return jnp.take_along_axis(order, drawn[:, None], axis=-1)[:, 0]


def _sequential(step_fn, cache, first_ids, length, eos, pick) -> Int[Array, "B length"]:
    def proceed(state):
        place, _, ended, _, _ = state
        return (place < length) & ~ended.all()

    def turn(state):
        place, ids, ended, result, cache = state
        logits, cache = step_fn(cache, ids)
        ids = jnp.where(ended, eos, pick(logits, place)).astype(jnp.int32)
        result = result.at[:, place].set(ids)
        return place + 1, ids, ended | (ids == eos), result, cache

    batch = len(first_ids)
    state = (
        jnp.zeros((), jnp.int32),
        first_ids.astype(jnp.int32),
        jnp.zeros(batch, bool),
        jnp.full((batch, length), eos, jnp.int32),
        cache,
    )
    return jax.lax.while_loop(proceed, turn, state)[3]


class _Beams(NamedTuple):
    place: Int[Array, ""]
    ids: Int[Array, "B K"]  # the newest token of each hypothesis
    scores: Float[Array, "B K"]  # log probability of all its tokens
    tokens: Int[Array, "B K"]  # how many those are, the end included
    ended: Array  # bool [B K]
    result: Int[Array, "B K length"]
    cache: Cache  # batch axes hold B * K rows


def _beam(step_fn, cache, first_ids, length, eos, beams, penalty, axes) -> Int[Array, "B length"]:
    """The best finished or longest hypothesis. A finished one stays in the beam and competes as it is."""
    batch = len(first_ids)

    def turn(state: _Beams) -> _Beams:
        logits, cache = step_fn(state.cache, state.ids.reshape(-1))
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        log_p = rearrange(log_p, "(b k) v -> b k v", k=beams)
        vocabulary = log_p.shape[-1]
        # A finished hypothesis goes on in one way, at no cost.
        stay = jnp.where(jnp.arange(vocabulary) == eos, 0.0, -jnp.inf)
        log_p = jnp.where(state.ended[..., None], stay, log_p)
        tokens = state.tokens + ~state.ended
        ways = state.scores[..., None] + log_p
        ranks = ways / tokens[..., None].astype(jnp.float32) ** penalty
        _, best = jax.lax.top_k(rearrange(ranks, "b k v -> b (k v)"), beams)
        parent, ids = best // vocabulary, (best % vocabulary).astype(jnp.int32)

        def chosen(x):
            return jnp.take_along_axis(x, parent, axis=1)

        rows = (jnp.arange(batch)[:, None] * beams + parent).reshape(-1)
        result = jnp.take_along_axis(state.result, parent[..., None], axis=1)
        return _Beams(
            place=state.place + 1,
            ids=ids,
            scores=jnp.take_along_axis(rearrange(ways, "b k v -> b (k v)"), best, axis=1),
            tokens=chosen(tokens),
            ended=chosen(state.ended) | (ids == eos),
            result=result.at[:, :, state.place].set(ids),
            cache=_on_batch_axes(lambda x, axis: jnp.take(x, rows, axis=axis), axes, cache),
        )

    start = _Beams(
        place=jnp.zeros((), jnp.int32),
        ids=repeat(first_ids.astype(jnp.int32), "b -> b k", k=beams),
        # The beams are equal at first; all but one are ruled out, so that they take different ways.
        scores=jnp.where(jnp.arange(beams) == 0, jnp.zeros((batch, 1)), -jnp.inf),
        tokens=jnp.zeros((batch, beams), jnp.int32),
        ended=jnp.zeros((batch, beams), bool),
        result=jnp.full((batch, beams, length), eos, jnp.int32),
        cache=_on_batch_axes(lambda x, axis: jnp.repeat(x, beams, axis=axis), axes, cache),
    )
    end = jax.lax.while_loop(lambda s: (s.place < length) & ~s.ended.all(), turn, start)
    best = (end.scores / end.tokens.astype(jnp.float32) ** penalty).argmax(-1)
    return jnp.take_along_axis(end.result, best[:, None, None], axis=1)[:, 0]


def _on_batch_axes(change: Callable[[Array, int], Array], axes: Any, cache: Cache) -> Cache:
    return jax.tree.map(
        lambda axis, part: jax.tree.map(lambda x: x if axis == -1 else change(x, axis), part), axes, cache
    )

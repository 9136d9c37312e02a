"""Linear and attentive probes: a grid of learning rate x weight decay x seeds trained in one program.

Axes: S seeds, G grid points, N examples, V views, B batch, C classes. Hyper-parameters are chosen on the
validation split, for each seed by itself; the test split is looked at once, with the chosen head.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from eval.heads import Head, Params
from eval.metrics import classification

CHUNK = 10  # steps of one call: small enough for progress, large enough to hide the call
RESIDENT = 4e9  # bytes of training features that are put on the device whole


@dataclass(frozen=True)
class Split:
    """Features of one split.

    x: [N, V, ...] pooled [D] or tokens [T, D] of each view, any float type, may be memory-mapped.
    labels: int [N], every one a class.
    """

    x: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Outcome:
    """What a probe reached, for each seed: `predictions` int [S, N] on test, and the choice behind them.

    `controlled`: predictions on the test clips under controls, by split ("test/CONTROL").
    """

    predictions: Int[np.ndarray, "S N"]
    accuracy: Float[np.ndarray, " S"]
    validation: Float[np.ndarray, " S"]
    chosen: list[dict]
    controlled: dict[str, Int[np.ndarray, "S N"]] = field(default_factory=dict)


_adam = optax.scale_by_adam(b1=0.9, b2=0.999)


def _over_grid(function: Callable) -> Callable:
    """vmap over [S, G]: trees have both axes, examples only the first, hyper-parameters only the second."""
    return jax.vmap(jax.vmap(function, in_axes=(0, None, None, 0, 0)), in_axes=(0, 0, 0, None, None))


@partial(jax.jit, static_argnames=("head", "total"), donate_argnames="state")
def _train_chunk(state, x, rows, ys, lr, weight_decay, first, head: Head, total: int):
    """Some AdamW steps of all heads on x [N, ...]: rows, ys [steps, S, B], lr and weight_decay [G]."""

    def update(state, x, y, lr, weight_decay, rate):
        params, moments = state

        def loss(params):
            logits = head.apply(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        direction, moments = _adam.update(jax.grad(loss)(params), moments)

        def move(p, u):  # vectors (biases and norms) are not decayed
            return p - lr * rate * (u + weight_decay * p if p.ndim > 1 else u)

        return jax.tree.map(move, params, direction), moments

    def step(carry, batch):
        (state, number), (rows, ys) = carry, batch
        rate = 0.5 * (1 + jnp.cos(jnp.pi * number / total))
        state = _over_grid(partial(update, rate=rate))(state, x[rows], ys, lr, weight_decay)
        return (state, number + 1), None

    return jax.lax.scan(step, (state, first), (rows, ys))[0][0]


@partial(jax.jit, static_argnames="head")
def _logits(params, x, head: Head):
    """Logits [S, P, B*V, C] of heads [S, P] on the same clips x [B*V, ...]."""
    return jax.vmap(jax.vmap(head.apply, in_axes=(0, None)), in_axes=(0, None))(params, x)


def _batch_order(rng: np.random.Generator, examples: np.ndarray, count: int) -> np.ndarray:
    """`count` of the examples: whole shuffled passes, one after the other."""
    passes = math.ceil(count / len(examples))
    return np.concatenate([rng.permutation(examples) for _ in range(passes)])[:count]


def grid_points(lr: tuple[float, ...], weight_decay: tuple[float, ...]) -> list[dict]:
    """All pairs, as dicts `lr`, `weight_decay`."""
    return [{"lr": float(a), "weight_decay": float(b)} for a in lr for b in weight_decay]


def train_heads(
    head: Head,
    train: Split,
    subsets: Int[np.ndarray, "S n"],
    seeds: list[int],
    grid: list[dict],
    classes: int,
    *,
    epochs: float,
    min_steps: int,
    batch_size: int,
    progress: Callable[[float], None] | None = None,
) -> Params:
    """Parameters with leading axes [S, G]: a head for each seed and grid point, trained side by side.

    `subsets` holds the training examples of each seed. A seed sets initialisation and batch order and is the
    same whatever trains beside it. `progress(fraction)` is told how far it is.
    """
    batch = min(batch_size, subsets.shape[1])
    # Whole chunks only: a shorter last one would be compiled for itself.
    total = CHUNK * math.ceil(max(min_steps, epochs * subsets.shape[1] / batch) / CHUNK)
    order = np.stack(
        [
            _batch_order(np.random.default_rng((seed, 1)), rows, total * batch).reshape(total, batch)
            for seed, rows in zip(seeds, subsets, strict=True)
        ],
        axis=1,
    )  # [steps, S, B]
    keys = jnp.stack([jax.random.fold_in(jax.random.key(17), seed) for seed in seeds])
    params = jax.vmap(lambda key: head.init(key, classes))(keys)
    params = jax.tree.map(lambda p: jnp.repeat(p[:, None], len(grid), axis=1), params)
    state = (params, jax.vmap(jax.vmap(_adam.init))(params))
    lr = jnp.asarray([g["lr"] for g in grid], jnp.float32)
    decay = jnp.asarray([g["weight_decay"] for g in grid], jnp.float32)
    resident = train.x.nbytes <= RESIDENT
    x = jnp.asarray(train.x[:, 0]) if resident else None
    for first in range(0, total, CHUNK):
        rows = order[first : first + CHUNK]
        ys = train.labels[rows]
        if not resident:  # a chunk's examples only, read from the memory map
            x, rows = train.x[rows.ravel(), 0], np.arange(rows.size).reshape(rows.shape)
        state = _train_chunk(state, x, rows, ys, lr, decay, jnp.float32(first), head, total)
        if progress:
            progress((first + CHUNK) / total)
    return state[0]


def predict(head: Head, params: Params, split: Split, batch_size: int = 256) -> Float[np.ndarray, "S P N C"]:
    """Probabilities of every head, averaged over views; the last batch is padded and cut again."""
    views = split.x.shape[1]
    rows_of = max(1, batch_size // views)
    out = []
    for first in range(0, len(split), rows_of):
        x = np.asarray(split.x[first : first + rows_of])
        count = len(x)
        x = np.concatenate([x, np.repeat(x[-1:], rows_of - count, axis=0)]) if count < rows_of else x
        logits = np.asarray(_logits(params, x.reshape(-1, *x.shape[2:]), head))
        logits = logits.reshape(*logits.shape[:2], rows_of, views, -1)[:, :, :count]
        out.append(classification.softmax(logits).mean(axis=3))
    return np.concatenate(out, axis=2)


def choose(
    probabilities: Float[np.ndarray, "S G N C"], labels: Int[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray]:
    """Best grid point of each seed on validation and its accuracy; equal counts are settled by the lower loss."""
    correct = (probabilities.argmax(-1) == labels).sum(-1)
    likelihood = np.take_along_axis(probabilities, labels[None, None, :, None], axis=-1)[..., 0]
    loss = -np.log(np.maximum(likelihood, 1e-30)).mean(-1)
    best = np.array([np.lexsort((loss[s], -correct[s]))[0] for s in range(len(correct))])
    return best, correct[np.arange(len(best)), best] / len(labels)


def probe(
    head: Head,
    splits: Mapping[str, Split],
    subsets: Int[np.ndarray, "S n"],
    seeds: list[int],
    settings: Mapping,
    classes: int,
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Train the grid on `train`, choose on `validation`, report on `test` and all splits beside these.

    `settings`: lr, weight_decay (tuples), epochs, min_steps, batch_size.
    """
    grid = grid_points(settings["lr"], settings["weight_decay"])
    schedule = {key: settings[key] for key in ("epochs", "min_steps", "batch_size")}
    params = train_heads(head, splits["train"], subsets, seeds, grid, classes, **schedule, progress=progress)
    best, validation = choose(predict(head, params, splits["validation"]), splits["validation"].labels)
    chosen = jax.tree.map(lambda p: p[np.arange(len(best)), best][:, None], params)
    judged = {
        name: predict(head, chosen, split)[:, 0].argmax(-1)
        for name, split in splits.items()
        if name not in ("train", "validation")
    }
    predictions = judged.pop("test")
    accuracy = (predictions == splits["test"].labels).sum(-1) / len(splits["test"])
    return Outcome(predictions, accuracy, validation, [grid[i] for i in best], judged)

"""The training step: a pure function (state, batch, teachers) -> (state, metrics), and the state that it starts from.

State = {step, params, extra, opt} and, where an average of the parameters is kept, {ema}: nested dicts of plain
arrays. `step` counts batches that were used; it alone decides the randomness and the place in the data.
A micro-batches, B batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from vfm.train.optim import Optimizer, merge
from vfm.train.sharding import BATCH

State = dict[str, Any]
Batch = dict[str, Array]
Pairs = dict[str, tuple[Array, Array]]


def init_state(objective: Any, optimizer: Optimizer, rng: PRNGKeyArray, batch: Batch, ema: bool) -> State:
    """The state before the first step; `batch` may be shapes."""
    params, extra = objective.init(rng, batch)
    state = dict(step=jnp.zeros((), jnp.int32), params=params, extra=extra, opt=optimizer.init(params))
    return state | ({"ema": params} if ema else {})


def make_step(
    objective: Any, optimizer: Optimizer, *, seed: int, accumulate: int, ema: float, mesh: jax.sharding.Mesh
) -> Callable[[State, Batch, dict[str, Any]], tuple[State, Pairs]]:
    """The step, to be compiled with its state donated; `teachers` are frozen parameter trees by name.

    An update whose loss or gradient is not finite is left out whole: parameters, optimiser, average and extra
    state stay as they are, only the step counts. Metrics are (sum, weight) pairs; "skipped" is (1, 1) then.
    """

    def train_step(state: State, batch: Batch, teachers: dict[str, Any]) -> tuple[State, Pairs]:
        step, params = state["step"], state["params"]
        rng = jax.random.fold_in(jax.random.key(seed), step)
        teacher = teachers | ({"ema": state["ema"]} if ema else {})
        learning, frozen = optimizer.split(params)

        def loss_of(learning, extra, micro_batch):
            loss, (metrics, extra) = objective.loss(
                merge(learning, frozen), extra, micro_batch, rng, step, teacher
            )
            metrics = {"loss": (loss, jnp.ones(()))} | metrics
            return loss, (metrics, extra)

        grads, metrics, extra = _gradients(loss_of, learning, state["extra"], batch, accumulate, mesh)
        norm = optax.global_norm(grads)
        learning, opt = optimizer.update(grads, state["opt"], learning, step, norm)
        params = merge(params, learning)
        if hasattr(objective, "after_update"):
            params = objective.after_update(params)
        settle = getattr(objective, "settle", lambda params, extra, teacher: params)
        params = settle(params, extra, teacher)
        new = dict(params=params, extra=extra, opt=opt)
        if ema:
            average = jax.tree.map(lambda old, now: old + (1 - ema) * (now - old), state["ema"], params)
            new["ema"] = settle(average, extra, teacher)
        ok = jnp.isfinite(metrics["loss"][0]) & jnp.isfinite(norm)
        new = {
            part: jax.tree.map(lambda now, old: jnp.where(ok, now, old), tree, state[part])
            for part, tree in new.items()
        }
        one = jnp.ones(())
        metrics |= {"grad_norm": (norm, one), "skipped": (1.0 - ok, one)}
        return new | {"step": step + 1}, metrics

    return train_step


def _gradients(loss_of, learning, extra, batch: Batch, accumulate: int, mesh):
    """Gradients of the mean loss over the batch, summed metrics, and the extra state after the last micro-batch."""
    grad_of = jax.grad(loss_of, has_aux=True)
    if accumulate == 1:
        batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, BATCH))
        grads, (metrics, extra) = grad_of(learning, extra, batch)
        return grads, metrics, extra
    # Every accumulate-th row makes a micro-batch, so that each shard gives rows to each without moving any.
    micro_batches = jax.tree.map(lambda x: rearrange(x, "(b a) ... -> a b ...", a=accumulate), batch)
    micro_batches = jax.lax.with_sharding_constraint(
        micro_batches, NamedSharding(mesh, PartitionSpec(None, *BATCH))
    )

    def add(carry, micro_batch):
        sums, extra = carry
        grads, (metrics, extra) = grad_of(learning, extra, micro_batch)
        # The weight of the loss makes the mean exact where micro-batches count different numbers of things.
        weight = metrics["loss"][1]
        parts = (jax.tree.map(lambda g: g * weight, grads), metrics)
        return (jax.tree.map(jnp.add, sums, parts), extra), None

    first = jax.tree.map(lambda x: x[0], micro_batches)
    shapes = jax.eval_shape(lambda: grad_of(learning, extra, first))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0]))
    ((grads, metrics), extra), _ = jax.lax.scan(add, (zeros, extra), micro_batches)
    return jax.tree.map(lambda g: g / metrics["loss"][1], grads), metrics, extra

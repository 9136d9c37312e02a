"""One chunk of the selective scan, forward and backward: the bodies of the loop over chunks.

Every function takes the decay rates A [P,1,N,D], the loop's carry and a chunk's arrays [c,P,B,...], and returns
the new carry and outputs. `step` are final step sizes; `g` is the gradient of y before gate and skip.
`sequential` goes step by step, `associative` runs a tree of prefix products over the chunk.

With lambda_t = C_t g_t + decay_{t+1} lambda_{t+1}, the gradient of h_t:

    dinput_t = sum_n lambda_t B_t        ddecay_t = sum_n lambda_t decay_t h_{t-1} A
    dB_t = sum_d lambda_t step_t u_t     dC_t = sum_d g_t h_t      dA = sum_t lambda_t decay_t h_{t-1} step_t

of which the gradients of u and step follow as `dinput step` and `ddecay + dinput u`.

Letters: P parameter sets, B batch, c steps of a chunk, D channels, N states.
"""

import jax.numpy as jnp
from jax import lax

UNROLL = 8  # steps in one turn of the loop inside a chunk; a chunk unrolled as a whole is fastest on CPUs


def sequential(A, h, chunk):
    """h -> (h after the chunk, (y [c,P,B,D], h before it))."""

    def one(h, x):
        u, step, B, C = x
        h = _decay(A, step) * h + _drive(u, step, B)
        return h, (h * C[..., None]).sum(-2)

    after, y = lax.scan(one, h, chunk, unroll=min(UNROLL, len(chunk[0])))
    return after, (y, h)


def sequential_backward(A, carry, inputs):
    """(decay lambda of the step after the chunk, sum of dA [P,B,N,D]) -> the same before it, and gradients."""
    chunk, start = inputs
    u, step, B, _, _ = chunk
    unroll = min(UNROLL, len(u))

    def again(h, x):
        u, step, B = x
        return _decay(A, step) * h + _drive(u, step, B), h

    def one(carry, x):
        later, dA = carry
        (u, step, B, C, g), before = x
        lam = C[..., None] * g[..., None, :] + later
        decay = _decay(A, step)
        decayed = decay * before
        h = decayed + _drive(u, step, B)
        ddecay = lam * decayed
        outputs = (
            (lam * B[..., None]).sum(-2),
            (ddecay * A).sum(-2),
            (lam * (step * u)[..., None, :]).sum(-1),
            (h * g[..., None, :]).sum(-1),
        )
        return (decay * lam, dA + ddecay * step[..., None, :]), outputs

    _, before = lax.scan(again, start, (u, step, B), unroll=unroll)
    return lax.scan(one, carry, (chunk, before), reverse=True, unroll=unroll)


def associative(A, h, chunk):
    """As `sequential`."""
    *_, C = chunk
    states, _ = _states(A, h, chunk[:3])
    return states[-1], ((states * C[..., None]).sum(-2), h)


def associative_backward(A, carry, inputs):
    """As `sequential_backward`."""
    (u, step, B, C, g), start = inputs
    later, dA = carry
    states, decay = _states(A, start, (u, step, B))
    before = jnp.concatenate([start[None], states[:-1]])
    following = jnp.concatenate([decay[1:], jnp.ones_like(decay[:1])])
    products, lam = lax.associative_scan(_compose, (following, C[..., None] * g[..., None, :]), reverse=True)
    lam = lam + products * later
    ddecay = lam * decay * before
    outputs = (
        (lam * B[..., None]).sum(-2),
        (ddecay * A).sum(-2),
        (lam * (step * u)[..., None, :]).sum(-1),
        (states * g[..., None, :]).sum(-1),
    )
    return (decay[0] * lam[0], dA + (ddecay * step[..., None, :]).sum(0)), outputs


def _decay(A, step):
    return jnp.exp(step[..., None, :] * A)


def _drive(u, step, B):
    return (step * u)[..., None, :] * B[..., None]


def _compose(first, second):
    """Two steps h -> a h + b as one."""
    (a, b), (later_a, later_b) = first, second
    return later_a * a, later_a * b + later_b


def _states(A, h, chunk):
    """States after each step of a chunk, and the steps' decays, [c,P,B,N,D]."""
    u, step, B = chunk
    decay = _decay(A, step)
    products, states = lax.associative_scan(_compose, (decay, _drive(u, step, B)))
    return states + products * h, decay


FORWARD = {"sequential": sequential, "associative": associative}
BACKWARD = {"sequential": sequential_backward, "associative": associative_backward}

"""The selective scan of Mamba: a diagonal linear recurrence whose step size, input and output weights follow
the data.

For each channel d and state n, with h_0 = 0 and `step = softplus(delta + delta_bias)`:

    h_t = exp(step_t A) h_{t-1} + step_t B_t u_t
    y_t = (sum_n C_t h_t + D u_t) silu(z_t)

Time is cut into chunks. The forward pass keeps the state at the start of each chunk and nothing else of the
states; the backward pass recomputes them chunk by chunk. So memory is linear in the length, with a constant of
a few activations. State and arithmetic are float32 whatever the dtype of the inputs (float64 for float64).

Letters: S stacked parameter sets (such as the two directions of a bidirectional model), B batch, L length,
D channels, N states, G groups of channels. Inside: P = S * G parameter sets, [time, P, B, ...] with channels last,
so that every vector operation runs along channels.

Source: Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces".
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import lax
from jaxtyping import Array, Float

from vfm.errors import UserError
from vfm.ops import selective_scan_chunks as chunks

IMPLS = ("auto", "sequential", "associative")
# Measured on two CPU cores: longer chunks are recomputed out of cache, shorter ones keep more states.
CHUNK = {"sequential": 8, "associative": 64}
# On a CPU the batch is cut into tiles whose state stays in the second-level cache: 2 to 3 times faster.
TILE_BYTES = 256 * 1024


class Plan(NamedTuple):
    """How to compute, decided from shapes and platform."""

    softplus: bool
    impl: str
    length: int
    chunk: int
    tile: int  # samples of one tile of the batch


class Series(NamedTuple):
    """What varies over time, [P, B, L, D or N]."""

    u: Array
    delta: Array
    B: Array
    C: Array
    z: Array | None


class Weights(NamedTuple):
    """What does not: A [P, 1, N, D]; D and bias [P, 1, D]."""

    A: Array
    D: Array | None
    bias: Array | None


def selective_scan(
    u: Float[Array, "*S B L D"],
    delta: Float[Array, "*S B L D"],
    A: Float[Array, "*S D N"],
    B: Float[Array, "*S B L N"] | Float[Array, "*S B L G N"] | Float[Array, "*S D N"],
    C: Float[Array, "*S B L N"] | Float[Array, "*S B L G N"] | Float[Array, "*S D N"],
    D: Float[Array, "*S D"] | None = None,
    z: Float[Array, "*S B L D"] | None = None,
    delta_bias: Float[Array, "*S D"] | None = None,
    *,
    softplus: bool = False,
    return_last_state: bool = False,
    impl: str = "auto",
    chunk: int = 0,
) -> Float[Array, "*S B L D"] | tuple[Float[Array, "*S B L D"], Float[Array, "*S B D N"]]:
    """Scan `u` over its length; differentiable in every array.

    Args:
      u: input; `*S` is nothing or one axis of stacked parameter sets, each with its own A, D and bias.
      delta: step sizes, before the bias and the softplus.
      A: decay rates, negative in Mamba.
      B, C: input and output weights, shared by all channels, or by the channels of one of G equal blocks, or
        constant over time with values for each channel.
      D: direct gain of u; None = no skip.
      z: gate; None = no gate.
      softplus: apply softplus to the step sizes.
      return_last_state: also return h_L.
      impl: sequential (step by step inside a chunk: fastest on CPUs) | associative (a tree inside a chunk, for
        accelerators) | auto (by platform).
      chunk: length of a chunk; 0 = chosen by impl.

    Returns:
      y in u's dtype, and the last state (float32) if asked for.

    Raises:
      UserError: shapes that do not belong together, or an unknown impl.
    """
    if impl not in IMPLS:
        raise UserError(f"selective scan impl '{impl}': expected one of {', '.join(IMPLS)}")
    stacked = u.ndim == 4
    _check(u, delta, A, B, C, D, z, delta_bias)
    if not stacked:
        u, delta, A, B, C, D, z, delta_bias = jax.tree.map(
            lambda x: x[None], (u, delta, A, B, C, D, z, delta_bias)
        )
    sets, batch, length, channels = u.shape
    B, C = _grouped(B, u), _grouped(C, u)
    groups = max(B.shape[3], C.shape[3])
    series = Series(
        *(rearrange(x, "s b l (g d) -> (s g) b l d", g=groups) for x in (u, delta)),
        *(
            rearrange(
                repeat(x, "s b l h n -> s b l (h r) n", r=groups // x.shape[3]), "s b l g n -> (s g) b l n"
            )
            for x in (B, C)
        ),
        None if z is None else rearrange(z, "s b l (g d) -> (s g) b l d", g=groups),
    )
    weights = Weights(
        rearrange(A, "s (g d) n -> (s g) 1 n d", g=groups),
        *(None if x is None else rearrange(x, "s (g d) -> (s g) 1 d", g=groups) for x in (D, delta_bias)),
    )
    weights = jax.tree.map(lambda x: x.astype(_wide(u)), weights)
    state_bytes = 4 * sets * channels * A.shape[-1]
    y, last = _scan(_plan(softplus, impl, length, chunk, batch, state_bytes), series, weights)
    y = rearrange(y, "(s g) b l d -> s b l (g d)", g=groups)
    last = rearrange(last, "(s g) b n d -> s b (g d) n", g=groups)
    if not stacked:
        y, last = y[0], last[0]
    return (y, last) if return_last_state else y


def _check(u, delta, A, B, C, D, z, delta_bias) -> None:
    """UserError for shapes that do not belong together."""
    if u.ndim not in (3, 4):
        raise UserError(f"selective scan: u has shape {u.shape}; expected [B,L,D] or [S,B,L,D]")
    sets, (batch, length, channels), states = u.shape[:-3], u.shape[-3:], A.shape[-1]
    varying = {(*sets, batch, length, states), (*sets, channels, states)}
    grouped = (*sets, batch, length)
    for name, x, shapes in (
        ("delta", delta, {u.shape}),
        ("z", z, {u.shape}),
        ("A", A, {(*sets, channels, states)}),
        ("D", D, {(*sets, channels)}),
        ("delta_bias", delta_bias, {(*sets, channels)}),
        ("B", B, varying),
        ("C", C, varying),
    ):
        if x is None or x.shape in shapes:
            continue
        if name in "BC" and x.ndim == u.ndim + 1 and x.shape[:-2] == grouped and x.shape[-1] == states:
            if channels % x.shape[-2] == 0:
                continue
            raise UserError(
                f"selective scan: {channels} channels are not divided by {x.shape[-2]} groups of {name}"
            )
        expected = " or ".join(str(list(s)) for s in sorted(shapes))
        raise UserError(f"selective scan: {name} has shape {list(x.shape)}; expected {expected}")


def _grouped(x: Array, u: Array) -> Float[Array, "S B L G N"]:
    """B or C in its most general form: shared weights are one group, constant ones a group for each channel."""
    if x.ndim == u.ndim:
        return x[:, :, :, None]
    if x.ndim == u.ndim + 1:
        return x
    return jnp.broadcast_to(x[:, None, None], (*u.shape[:3], *x.shape[1:]))


def _plan(softplus: bool, impl: str, length: int, chunk: int, batch: int, state_bytes: int) -> Plan:
    on_cpu = jax.default_backend() == "cpu"
    if impl == "auto":
        impl = "sequential" if on_cpu else "associative"
    count = -(-length // (chunk or CHUNK[impl]))
    tile = batch
    if on_cpu and impl == "sequential":
        fitting = max(1, TILE_BYTES // state_bytes)
        tile = max(n for n in range(1, min(batch, fitting) + 1) if batch % n == 0)
    return Plan(softplus, impl, length, -(-length // count), tile)


# The operation with its own gradient ---------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(plan: Plan, series: Series, weights: Weights) -> tuple[Array, Array]:
    """y [P,B,L,D] and the last state [P,B,N,D]."""
    return _forward(plan, series, weights)[0]


def _forward(plan: Plan, series: Series, weights: Weights):
    wide = _wide(series.u)

    def tile(x: Series):
        step = _steps(plan, x.delta, weights.bias)
        zero = jnp.zeros((*x.u.shape[2:4], *weights.A.shape[2:]), wide)
        last, (y, starts) = lax.scan(
            functools.partial(chunks.FORWARD[plan.impl], weights.A), zero, (x.u, step, x.B, x.C)
        )
        out = y if weights.D is None else y + weights.D * x.u
        if x.z is None:
            return out, last, starts, None
        return out * jax.nn.silu(x.z), last, starts, y

    y, last, starts, plain = lax.map(tile, _split(plan, series, wide))
    out = _join(plan, y).astype(series.u.dtype), rearrange(last, "k p t n d -> p (t k) n d")
    return out, (series, weights, starts, plain)


def _backward(plan: Plan, kept, cotangents):
    series, weights, starts, plain = kept
    wide = _wide(series.u)
    dy, dlast = cotangents
    dlast = rearrange(dlast, "p (t k) n d -> k p t n d", t=plan.tile)

    def tile(sums, inputs):
        x, dy, dlast, starts, plain = inputs
        step = _steps(plan, x.delta, weights.bias)
        dz = None
        if x.z is not None:
            gate = jax.nn.sigmoid(x.z)
            skipped = plain if weights.D is None else plain + weights.D * x.u
            dz = dy * skipped * gate * (1 + x.z * (1 - gate))
            dy = dy * x.z * gate
        (_, dA), (dinput, ddecay, dB, dC) = lax.scan(
            functools.partial(chunks.BACKWARD[plan.impl], weights.A),
            (dlast, jnp.zeros_like(dlast)),
            ((x.u, step, x.B, x.C, dy), starts),
            reverse=True,
        )
        du, dstep, dD, dbias = dinput * step, ddecay + dinput * x.u, None, None
        if weights.D is not None:
            du, dD = du + weights.D * dy, _total(dy * x.u)
        if plan.softplus:
            raw = x.delta if weights.bias is None else x.delta + weights.bias
            dstep = dstep * jax.nn.sigmoid(raw)
        dstep = _valid(plan, dstep)
        if weights.bias is not None:
            dbias = _total(dstep)
        more = Weights(dA.sum(1, keepdims=True), dD, dbias)
        return jax.tree.map(jnp.add, sums, more), Series(du, dstep, dB, dC, dz)

    inputs = (_split(plan, series, wide), *_split(plan, (dy,), wide), dlast, starts, plain)
    dweights, dseries = lax.scan(tile, jax.tree.map(jnp.zeros_like, weights), inputs)
    dseries = jax.tree.map(lambda dx, x: _join(plan, dx).astype(x.dtype), dseries, series)
    return dseries, dweights


_scan.defvjp(_forward, _backward)


def _wide(x: Array) -> jnp.dtype:
    """The dtype to compute in."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _steps(plan: Plan, delta: Array, bias: Array | None) -> Array:
    """Step sizes; 0 after the end, where the state then stays as it is."""
    step = delta if bias is None else delta + bias
    if plan.softplus:
        # torch's softplus is the identity above 20; there log1p(exp(-x)) < 3e-9 is below float32 rounding.
        step = jnp.maximum(step, 0) + jnp.log1p(jnp.exp(-jnp.abs(step)))
    return _valid(plan, step)


def _valid(plan: Plan, x: Array) -> Array:
    """`x` [count, chunk, ...] with zeros after the end of the sequence."""
    total = x.shape[0] * x.shape[1]
    if total == plan.length:
        return x
    time = jnp.arange(total).reshape(x.shape[0], x.shape[1], *(1,) * (x.ndim - 2))
    return jnp.where(time < plan.length, x, 0)


def _total(x: Array) -> Float[Array, "P 1 D"]:
    """Sum of a tile's [count, chunk, P, tile, D] over time and samples."""
    return x.sum((0, 1, 3))[:, None]


def _split(plan: Plan, tree, dtype: jnp.dtype):
    """[P,B,L,W] arrays to [tiles, chunks, chunk, P, tile, W], padded at the end of time.

    A tile takes every k-th sample: where the batch is sharded over devices, each still has its part of a tile.
    """

    def split(x):
        padding = -x.shape[2] % plan.chunk
        x = jnp.pad(x.astype(dtype), ((0, 0), (0, 0), (0, padding), (0, 0)))
        return rearrange(x, "p (t k) (n c) w -> k n c p t w", t=plan.tile, c=plan.chunk)

    return jax.tree.map(split, tree)


def _join(plan: Plan, x: Array) -> Array:
    """Inverse of `_split` for one array."""
    return rearrange(x, "k n c p t w -> p (t k) (n c) w")[:, :, : plan.length]

"""Speed and temporary memory of the selective scan beside a plain step-by-step scan that keeps every state.

    python -m scripts.bench.selective_scan [--lengths 784,1568,3136 --channels 384]

Prints a table in Markdown: one direction, forward, and forward with the gradient of every input; median of the rounds.
B batch, L tokens, D channels, N states.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from vfm.ops.selective_scan import selective_scan


def plain(u, delta, A, B, C):
    """The recurrence as it is written down: h = exp(delta A) h + delta B u, y = C h."""

    def step(state, inputs):
        u, delta, B, C = inputs  # [B D], [B D], [B N], [B N]
        state = jnp.exp(delta[..., None] * A) * state + (delta * u)[..., None] * B[:, None]
        return state, jnp.einsum("bdn,bn->bd", state, C)

    state = jnp.zeros((*u[:, 0].shape, A.shape[-1]))
    _, y = jax.lax.scan(step, state, [jnp.swapaxes(x, 0, 1) for x in (u, delta, B, C)])
    return jnp.swapaxes(y, 0, 1)


def inputs(batch: int, length: int, channels: int, states: int) -> list[jax.Array]:
    """u, delta, A, B, C of the sizes that a VideoMamba layer has after its projections."""
    keys = jax.random.split(jax.random.key(0), 4)
    u, delta = (jax.random.normal(key, (batch, length, channels)) for key in keys[:2])
    B, C = (jax.random.normal(key, (batch, length, states)) for key in keys[2:])
    A = -jnp.broadcast_to(jnp.arange(1.0, states + 1), (channels, states))
    return [u, jax.nn.softplus(delta - 4), A, B, C]


def measure(scan, arrays: list[jax.Array], rounds: int) -> tuple[list[float], int]:
    """Seconds forward and with gradients, and bytes of temporary memory with gradients."""

    def loss(arrays):
        return scan(*arrays).sum()

    programs = [jax.jit(function).lower(arrays).compile() for function in (loss, jax.value_and_grad(loss))]
    seconds = [[], []]
    for _ in range(rounds + 1):  # the first is not counted
        for times, program in zip(seconds, programs, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(program(arrays))
            times.append(time.perf_counter() - began)
    medians = [statistics.median(times[1:]) for times in seconds]
    return medians, programs[1].memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.selective_scan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=2, help="sequences (%(default)s)")
    parser.add_argument("--lengths", default="784,1568,3136", help="tokens (%(default)s)")
    parser.add_argument("--channels", type=int, default=384, help="of the inner width (%(default)s)")
    parser.add_argument("--states", type=int, default=16, help="of each channel (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs (%(default)s)")
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    print(
        "| batch x tokens x channels x states | scan | forward, ms | forward and backward, ms | temporary, MiB |"
    )
    print("| --- | --- | --- | --- | --- |")
    for length in map(int, options.lengths.split(",")):
        arrays = inputs(options.batch, length, options.channels, options.states)
        for name, scan in (("ours", selective_scan), ("plain", plain)):
            (forward, both), memory = measure(scan, arrays, options.rounds)
            sizes = f"{options.batch} x {length:,} x {options.channels} x {options.states}"
            print(
                f"| {sizes} | {name} | {forward * 1e3:.0f} | {both * 1e3:.0f} | {memory / 2**20:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

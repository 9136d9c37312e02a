"""FLOPs counted on the traced program, against numbers worked out by hand."""

import jax
import jax.numpy as jnp

from vfm.train import flops

M, K, N = 3, 5, 7
A, B = jnp.ones((M, K)), jnp.ones((K, N))


def count(function, *arguments):
    return flops.count(jax.make_jaxpr(function)(*arguments))


def test_a_matrix_product_is_two_flops_for_each_multiply_and_add():
    assert count(jnp.matmul, A, B) == 2 * M * K * N
    assert (
        count(
            lambda a, b: jnp.einsum("bmk,bkn->bmn", a, b),
            A[None] * jnp.ones((4, 1, 1)),
            B[None] * jnp.ones((4, 1, 1)),
        )
        == 4 * 2 * M * K * N
    )


def test_the_backward_pass_counts_twice_the_forward_pass():
    both = count(jax.grad(lambda a, b: (a @ b).sum(), argnums=(0, 1)), A, B)
    # The forward product of a sum is not needed by its gradient and is traced all the same.
    assert both == 3 * 2 * M * K * N


def test_passes_of_a_scan_and_calls_are_all_counted():
    def scanned(a, stack):
        return jax.lax.scan(lambda x, w: (jax.jit(jnp.matmul)(x, w), None), a, stack)[0]

    stack = jnp.ones((6, K, K))
    assert count(scanned, A, stack) == 6 * 2 * M * K * K
    remat = count(jax.grad(lambda s: jax.checkpoint(scanned)(A, s).sum()), stack)
    assert remat > 3 * 6 * 2 * M * K * K  # a program with remat shows its recomputation


def test_a_convolution_counts_its_window():
    image, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert count(convolve, image, kernel) == 2 * (2 * 6 * 6 * 6) * (3 * 3 * 4)


def test_a_branch_counts_as_its_dearest():
    def either(flag, a, b):
        return jax.lax.cond(flag, lambda: a @ b, lambda: (a @ b) + (a @ b * 2) @ (b.T @ b))

    products = 2 * M * K * N
    assert count(either, True, A, B) == 2 * products + 2 * N * K * N + 2 * M * N * N


def test_the_peak_of_a_cpu_is_measured_and_said_to_be():
    peak, source = flops.peak(jax.devices("cpu")[0])
    assert peak > 1e8 and "measured" in source

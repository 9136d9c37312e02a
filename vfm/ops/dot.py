"""Matrix products under a named precision; every dense layer goes through `matmul`.

float32: operands and results in float32, on every platform (no TF32, no bfloat16 passes).
bfloat16: operands and result in bfloat16, accumulated in float32 by the hardware: for GPU and TPU.
bfloat16_dots: activations stay float32; the operands of the product *and* the cotangent of its backward
products are cast to bfloat16, with float32 results. On CPUs with bfloat16 units this is 1.4 times faster than
float32, where bfloat16 activations everywhere are slower than float32.

Letters: ... any leading axes, I inputs, O outputs.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vfm.errors import UserError
from vfm.parts import nearest

PRECISIONS = ("float32", "bfloat16", "bfloat16_dots")


def resolve_precision(name: str) -> str:
    """One of `PRECISIONS`; "auto" is bfloat16 on GPU and TPU and float32 on CPU.

    Raises:
      UserError: `name` is none of these.
    """
    if name == "auto":
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in PRECISIONS:
        known = ("auto", *PRECISIONS)
        raise UserError(f"precision '{name}'{nearest(name, known)}: expected one of {', '.join(known)}")
    return name


def activation_dtype(precision: str) -> jnp.dtype:
    """The dtype of tokens between layers under a resolved precision."""
    return jnp.dtype(jnp.bfloat16 if precision == "bfloat16" else jnp.float32)


def matmul(x: Float[Array, "... I"], kernel: Float[Array, "I O"], precision: str) -> Float[Array, "... O"]:
    """`x @ kernel` under a resolved precision; the result has that precision's activation dtype."""
    if precision == "bfloat16":
        return _contract(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), jnp.bfloat16)
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    if precision == "bfloat16_dots":
        return _bfloat16_operands(x, kernel)
    return _contract(x, kernel, jnp.float32)


def _contract(x, kernel, dtype):
    return lax.dot_general(
        x,
        kernel,
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        preferred_element_type=dtype,
    )


def _narrow(a, b, contracting):
    """A product of bfloat16 operands with a float32 result."""
    return lax.dot_general(
        a.astype(jnp.bfloat16),
        b.astype(jnp.bfloat16),
        (contracting, ((), ())),
        preferred_element_type=jnp.float32,
    )


@jax.custom_vjp
def _bfloat16_operands(x, kernel):
    return _narrow(x, kernel, ((x.ndim - 1,), (0,)))


def _forward(x, kernel):
    # The narrow copies are kept for the backward pass: half the memory, and no second cast.
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return _narrow(x, kernel, ((x.ndim - 1,), (0,))), (x, kernel)


def _backward(kept, cotangent):
    x, kernel = kept
    cotangent = cotangent.astype(jnp.bfloat16)
    leading = tuple(range(x.ndim - 1))
    dx = _narrow(cotangent, kernel, ((x.ndim - 1,), (1,)))
    dkernel = _narrow(x, cotangent, (leading, leading))
    # The barrier keeps XLA from folding a transposed kernel's transpose into the product: on CPUs it has no code for
    # the narrow product that comes of it.
    return dx, lax.optimization_barrier(dkernel)


_bfloat16_operands.defvjp(_forward, _backward)

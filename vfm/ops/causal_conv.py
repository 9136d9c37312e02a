"""Causal depthwise convolution over time: each channel sees its own last W samples.

Letters: S stacked parameter sets, B batch, L length, D channels, W taps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vfm.errors import UserError
from vfm.parts import nearest

ACTIVATIONS = {"none": lambda x: x, "silu": jax.nn.silu}


def causal_conv1d(
    x: Float[Array, "*S B L D"],
    kernel: Float[Array, "*S W D"],
    bias: Float[Array, "*S D"] | None = None,
    activation: str = "none",
) -> Float[Array, "*S B L D"]:
    """y_t = activation(sum_k kernel[k] x_{t-W+1+k} + bias), with zeros before the start.

    The last tap multiplies the current sample (torch's cross-correlation with W - 1 zeros on the left). Computed
    in float32, returned in x's dtype.

    Args:
      x: `*S` is nothing or one axis of stacked parameter sets, each with its own kernel and bias.
      activation: none | silu.

    Raises:
      UserError: shapes that do not belong together, or an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise UserError(
            f"causal convolution: activation '{activation}'{nearest(activation, ACTIVATIONS)}; "
            f"expected one of {', '.join(ACTIVATIONS)}"
        )
    sets, (length, channels) = x.shape[:-3], x.shape[-2:]
    if kernel.ndim != len(sets) + 2 or (*kernel.shape[:-2], kernel.shape[-1]) != (*sets, channels):
        raise UserError(
            f"causal convolution: kernel has shape {list(kernel.shape)}, x {list(x.shape)}; "
            f"expected a kernel of {[*sets, 'taps', channels]}"
        )
    taps, wide = kernel.shape[-2], jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x.astype(wide), (*[(0, 0)] * (x.ndim - 2), (taps - 1, 0), (0, 0)))
    # A sum of shifted products is one fused loop; XLA's depthwise convolution is slow on CPUs.
    y = sum(
        padded[..., k : k + length, :] * kernel[..., None, k : k + 1, :].astype(wide) for k in range(taps)
    )
    if bias is not None:
        y += bias[..., None, None, :].astype(wide)
    return ACTIVATIONS[activation](y).astype(x.dtype)

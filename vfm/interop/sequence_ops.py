"""Single operations on sequences, `selective_scan` and `causal_conv1d`, against the originals' numbers.

The originals have channels before time; gradients are taken through the change of layout. Files hold float64
references too, which float32 meets to 1e-5 of scale.

Letters: B batch, D channels, L length, N states, G groups, W taps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vfm.errors import UserError
from vfm.interop.golden import Golden, keyed
from vfm.ops.causal_conv import causal_conv1d
from vfm.ops.selective_scan import selective_scan

FAMILIES = ("selective_scan", "causal_conv1d")
TOLERANCE = 1e-5
WEIGHT_LAYOUTS = {2: "d n -> d n", 3: "b n l -> b l n", 4: "b g n l -> b l g n"}


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs and gradients of our operation on a golden file's inputs."""
    cotangents = {name: value for name, value in golden.inputs.items() if name.startswith("cot_")}
    inputs = {name: value for name, value in golden.inputs.items() if name not in cotangents}
    for name, value in golden.inputs.items():
        if not np.issubdtype(value.dtype, np.floating):
            raise UserError(f"input '{name}' of dtype {value.dtype} is not supported: expected real numbers")
    run = _scan if golden.family == "selective_scan" else _conv
    return jax.jit(lambda x: run(golden.config, x, cotangents))(inputs)


def _scan(config: dict[str, Any], inputs: dict[str, Any], cotangents: dict[str, Any]) -> dict[str, Any]:
    softplus = bool(config.get("delta_softplus", False))

    def run(inputs):
        x = {n: rearrange(v, "b d l -> b l d") for n, v in inputs.items() if n in ("u", "delta", "z")}
        x |= {n: rearrange(inputs[n], WEIGHT_LAYOUTS[inputs[n].ndim]) for n in "BC"}
        y, last = selective_scan(**{**inputs, **x}, softplus=softplus, return_last_state=True)
        return {"y": rearrange(y, "b l d -> b d l"), "last_state": last}

    outputs, pull = jax.vjp(run, inputs)
    zeros = jax.tree.map(jnp.zeros_like, outputs)
    (of_y,) = pull({**zeros, "y": cotangents["cot_y"]})
    (of_last,) = pull({**zeros, "last_state": cotangents["cot_last"]})
    return keyed(output=outputs, output64=outputs, grad=of_y, grad64=of_y, grad_last64=of_last)


def _conv(config: dict[str, Any], inputs: dict[str, Any], cotangents: dict[str, Any]) -> dict[str, Any]:
    del config  # sizes, which the inputs have

    def run(inputs, activation):
        x, kernel = rearrange(inputs["x"], "b d l -> b l d"), rearrange(inputs["weight"], "d w -> w d")
        return rearrange(causal_conv1d(x, kernel, inputs.get("bias"), activation), "b l d -> b d l")

    y, pull = jax.vjp(lambda x: run(x, "silu"), inputs)
    (gradients,) = pull(cotangents["cot_y"])
    return keyed(output={"y_silu": y, "y_no_act": run(inputs, "none")}, grad=gradients)

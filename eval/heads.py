"""Probe heads as pure functions on parameter dicts, so that a grid of them can be vmapped.

Axes: B clips, N tokens, D width, C classes.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vfm.models.poolers import AttentivePooler

Params = dict[str, Any]
NORMAL = jax.nn.initializers.truncated_normal(0.02)


@dataclass(frozen=True)
class Head:
    """A probe's head; hashable, so that programs are compiled once for each.

    kind: linear (on pooled features [B,D]) or attentive (on tokens [B,N,D]: one learned query, one cross-attention
      block with an MLP, as V-JEPA probes; keys and values are never made for each token, see `AttentivePooler`).
    heads: of the attention; 0 = by width.
    """

    kind: str
    width: int
    heads: int = 0
    mlp_ratio: float = 4.0

    @property
    def pooler(self) -> AttentivePooler:
        return AttentivePooler(heads=self.heads, mlp_ratio=self.mlp_ratio)

    def init(self, key: Array, classes: int) -> Params:
        """Random parameters; small noise rather than zeros in the last layer, so that seeds differ."""
        for_pooler, for_head = jax.random.split(key)
        params = {
            "head": {"kernel": NORMAL(for_head, (self.width, classes)), "bias": jnp.zeros(classes)},
        }
        if self.kind == "attentive":
            params["pooler"] = self.pooler.init(for_pooler, jnp.zeros((1, 1, self.width)))["params"]
        return params

    def apply(self, params: Params, x: Float[Array, "B ..."]) -> Float[Array, "B C"]:
        """Logits."""
        if self.kind == "attentive":
            x = self.pooler.apply({"params": params["pooler"]}, x)[:, 0]
        return x @ params["head"]["kernel"] + params["head"]["bias"]

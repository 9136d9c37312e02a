"""AdamW by rules: which parameters decay, which learn at what rate, which not at all.

Parameters are nested dicts; the optimiser sees only those that learn (rate above 0), so that a frozen encoder
costs neither moments nor a backward pass of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from vfm import rules
from vfm.errors import UserError

Tree = dict[str, Any]
EMBEDDINGS = ("patch_embed", "pos", "space_pos", "time_pos", "cls_token", "registers", "mask_token")


def select(tree: Tree, keep: Tree) -> Tree:
    """The part of a nested dict whose leaves are true in `keep`; branches that become empty are left out."""
    chosen = {}
    for key, value in tree.items():
        if not isinstance(value, dict):
            if keep[key]:
                chosen[key] = value
        elif branch := select(value, keep[key]):
            chosen[key] = branch
    return chosen


def merge(first: Tree, second: Tree) -> Tree:
    """Two nested dicts as one; where both have a leaf, the second's."""
    merged = dict(first)
    for key, value in second.items():
        merged[key] = merge(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def layer_rates(params: Tree, decay: float) -> Tree:
    """decay ** (layers + 1 - i) for each parameter of the encoder in layer i, 1 outside the encoder.

    Embeddings are layer 0, blocks 1 to `layers`, what follows them layers + 1. A stacked parameter [L, ...] gets
    one rate for each of its layers, shaped [L, 1, ...] (BEiT's rule, as VideoMAE fine-tunes with it).
    """
    depths = {
        leaf.shape[0] for path, leaf in rules.flatten(params).items() if path.startswith("encoder/blocks/")
    }
    if decay != 1 and len(depths) != 1:
        raise UserError(
            f"config.optim.layer_decay={decay} needs an encoder with one stack of layers under 'encoder/blocks', "
            f"found depths {sorted(depths) or 'none'}; set it to 1"
        )
    layers = depths.pop() if len(depths) == 1 else 0

    def rate(path, leaf):
        part, *rest = rules.path_name(path).split("/")
        if decay == 1 or part != "encoder":
            return 1.0
        if rest[0] == "blocks":
            powers = decay ** np.arange(layers, 0, -1, dtype=np.float32)
            return powers.reshape(-1, *(1,) * (leaf.ndim - 1))
        return decay ** (layers + 1) if rest[0].startswith(EMBEDDINGS) else 1.0

    return jax.tree_util.tree_map_with_path(rate, params)


@dataclass(frozen=True)
class Optimizer:
    """AdamW on the parameters that learn.

    Attributes:
      schedule: step -> learning rate.
      rates: for each learning parameter a factor on the learning rate, a number or an array that broadcasts.
      decays: for each learning parameter its weight decay.
      learns: True for each parameter that learns.
      clip: largest global norm of the gradient; 0 = off.
    """

    adam: optax.GradientTransformation
    schedule: Callable[[Array], Array]
    rates: Tree
    decays: Tree
    learns: Tree
    clip: float

    def split(self, params: Tree) -> tuple[Tree, Tree]:
        """(learning, frozen) parts of the parameters."""
        return select(params, self.learns), select(
            params, jax.tree.map(lambda learns: not learns, self.learns)
        )

    def init(self, params: Tree) -> Tree:
        """{count, mu, nu} of plain arrays."""
        return self.adam.init(self.split(params)[0])._asdict()

    def update(
        self, grads: Tree, opt: Tree, params: Tree, step: Array, norm: Float[Array, ""]
    ) -> tuple[Tree, Tree]:
        """New learning parameters and optimiser state; `norm` is the global norm of `grads`."""
        if self.clip:
            shrink = jnp.minimum(1.0, self.clip / (norm + 1e-6))
            grads = jax.tree.map(lambda g: g * shrink, grads)
        directions, moments = self.adam.update(grads, optax.ScaleByAdamState(**opt), params)
        lr = self.schedule(step)

        def move(param, direction, rate, decay):
            return param - lr * rate * (direction + decay * param)

        return jax.tree.map(move, params, directions, self.rates, self.decays), moments._asdict()


def build(config: ConfigDict, params: Tree, schedule: Callable[[Array], Array]) -> Optimizer:
    """The optimiser that `config.optim` describes, for parameters (or shapes of them) `params`.

    Raises:
      UserError: a rule list leaves a parameter out, has a rule that decides none, or freezes everything.
    """
    optim = config.optim
    factors = rules.match(optim.lr_rules, params, "config.optim.lr_rules")
    decays = rules.match(optim.decay_rules, params, "config.optim.decay_rules")
    learns = jax.tree.map(lambda factor: factor > 0, factors)
    if not any(jax.tree.leaves(learns)):
        raise UserError("config.optim.lr_rules gives every parameter the rate 0: nothing would learn")
    rates = jax.tree.map(
        lambda factor, layer: factor * layer, factors, layer_rates(params, optim.layer_decay)
    )
    return Optimizer(
        adam=optax.scale_by_adam(optim.b1, optim.b2, optim.eps),
        schedule=schedule,
        rates=select(rates, learns),
        decays=select(jax.tree.map(lambda factor: factor * optim.weight_decay, decays), learns),
        learns=learns,
        clip=optim.clip,
    )

"""Several objectives at once: a weighted sum of their losses on the same batch, over one set of parameters.

Parts of the parameters with the same top-level name are the same parameters: two objectives with an "encoder" teach
one encoder, which each of them runs by itself, under masks of its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray
from ml_collections import ConfigDict

from vfm import parts, rules
from vfm.errors import UserError


class together:  # noqa: N801 - parts are named as configs write them
    """A sum of objectives, built from a run config.

    `config.objective.parts` is {name: keys of an objective, and its "weight"}; everything else of the config holds for
    all of them. Metrics of a part are called "name/metric".
    """

    def __init__(self, config: Any):
        if not config.objective.parts:
            raise UserError(
                "config.objective.parts is empty: objective 'together' adds up the objectives named there"
            )
        self.weights, self.objectives = {}, {}
        for name in sorted(config.objective.parts):
            part = config.objective.parts[name]
            if "name" not in part or part.get("weight", 0) <= 0:
                given = ", ".join(f"{k}={part[k]}" for k in ("name", "weight") if k in part)
                raise UserError(
                    f"config.objective.parts.{name}: expected the keys of an objective with its 'name', and a 'weight' "
                    f"above 0; found {given or 'neither'}"
                )
            values = config.to_dict()
            values["objective"] = {key: value for key, value in part.to_dict().items() if key != "weight"}
            self.weights[name] = float(part.weight)
            self.objectives[name] = parts.resolve(part.name, "vfm.objectives")(ConfigDict(values))

    @property
    def contrasts(self) -> bool:
        """Whether one of them compares the samples of a batch with each other."""
        return any(getattr(objective, "contrasts", False) for objective in self.objectives.values())

    @property
    def images(self) -> bool:
        """Whether one of them learns from images beside the videos."""
        return any(getattr(objective, "images", False) for objective in self.objectives.values())

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters of all objectives, shared ones as the first makes them; extra state by objective.

        Raises:
          UserError: objectives differ about what a part that they share looks like.
        """
        params, extra, owner = {}, {}, {}
        for index, (name, objective) in enumerate(self.objectives.items()):
            own, extra[name] = objective.init(jax.random.fold_in(rng, index), batch)
            for part, tree in own.items():
                first = owner.setdefault(part, name)
                if first != name:
                    _check_equal(part, first, params[part], name, tree)
            params = own | params
        return params, extra

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Weighted sum of the losses; metrics {"loss", "name/metric"}."""
        total, metrics, new = 0.0, {}, {}
        for index, (name, objective) in enumerate(self.objectives.items()):
            own = jax.random.fold_in(rng, index)
            loss, (found, new[name]) = objective.loss(params, extra[name], batch, own, step, teacher)
            total += self.weights[name] * loss
            metrics |= {f"{name}/{key}": pair for key, pair in found.items()}
        rows = float(len(batch["id"]))
        return total, (metrics | {"loss": (total * rows, jnp.full((), rows))}, new)

    def after_update(self, params: dict) -> dict:
        """What the objectives do after an update, one after the other."""
        for objective in self.objectives.values():
            if hasattr(objective, "after_update"):
                params = objective.after_update(params)
        return params


def _check_equal(part: str, first: str, theirs: Any, second: str, ours: Any) -> None:
    trees = [{path: leaf.shape for path, leaf in rules.flatten(tree).items()} for tree in (theirs, ours)]
    different = sorted(
        path for path in trees[0].keys() | trees[1].keys() if trees[0].get(path) != trees[1].get(path)
    )
    if different:
        path = different[0]
        raise UserError(
            f"config.objective.parts: '{first}' and '{second}' share '{part}', but '{part}/{path}' is "
            f"{trees[0].get(path, 'not there')} in one and {trees[1].get(path, 'not there')} in the other; make their "
            "keys agree"
        )

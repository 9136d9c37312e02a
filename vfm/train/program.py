"""A run as one compiled program: what follows from a config, a mesh and the shapes of a batch, before any data."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vfm import objectives
from vfm.errors import UserError
from vfm.train import flops, optim, schedules, sharding, teachers
from vfm.train.step import State, init_state, make_step


class Program:
    """The training step on a mesh.

    Attributes:
      objective: what is learned.
      schedule: step -> learning rate.
      new: makes the state before the first step, placed on the mesh.
      like: shapes and shardings of the state.
      teachers: shapes and shardings of the frozen teachers' parameters, by name.
      flops: model FLOPs of one step on the whole mesh.
    """

    def __init__(
        self,
        config: ConfigDict,
        mesh: Mesh,
        batch: dict[str, jax.ShapeDtypeStruct],
        total: int,
        examples: int | None,
        objective: Any = None,
    ):
        self.objective = objective or objectives.build(config)
        _check_accumulation(config, self.objective)
        if "image" in batch and not getattr(self.objective, "images", False):
            raise UserError(
                f"config.data.images='{config.data.images}': objective '{config.objective.name}' learns from videos "
                f"only; leave data.images and data.image_batch out"
            )
        self.schedule = schedules.build(config, total, examples)
        rng = jax.random.key(config.seed)
        params, _ = jax.eval_shape(self.objective.init, rng, batch)
        optimizer = optim.build(config, params, self.schedule)

        def new(rng) -> State:
            return init_state(self.objective, optimizer, rng, batch, config.ema > 0)

        shapes = jax.eval_shape(new, rng)
        # Teachers lie on the mesh by the same rules, under "teachers/NAME/...".
        frozen = teachers.shapes(config, batch)
        everything = shapes | {"params": shapes["params"] | {"teachers": frozen}}
        places = sharding.state_shardings(config.sharding_rules, everything, mesh)
        frozen_places = places["params"].pop("teachers")
        rows = sharding.batch_sharding(mesh)
        self.new: Callable[[], State] = lambda: jax.jit(new, out_shardings=places)(rng)

        def placed(shapes, places):
            return jax.tree.map(
                lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places
            )

        self.like, self.teachers = placed(shapes, places), placed(frozen, frozen_places)
        self._batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=rows) for k, v in batch.items()}

        def step_of(objective):
            return make_step(
                objective,
                optimizer,
                seed=config.seed,
                accumulate=config.accumulate,
                ema=config.ema,
                mesh=mesh,
            )

        self._traced = jax.jit(
            step_of(self.objective),
            donate_argnums=0,
            in_shardings=(places, rows, frozen_places),
            out_shardings=(places, NamedSharding(mesh, PartitionSpec())),
        ).trace(self.like, self._batch, self.teachers)
        counted = self._traced.jaxpr
        chunks = config.objective.get("chunks", 1)
        if (config.remat != "none" or chunks > 1) and objective is None:
            # What is computed a second time to save memory is no work of the model.
            plain = ConfigDict(config.to_dict() | {"remat": "none"})
            if chunks > 1:
                plain.objective.chunks = 1
            counted = jax.make_jaxpr(step_of(objectives.build(plain)))(self.like, self._batch, self.teachers)
        self.flops = flops.count(counted)

    def compile(self) -> Callable[[State, dict[str, jax.Array], dict[str, Any]], tuple[State, dict]]:
        """(state, batch, teachers) -> (state, metrics), with the state donated."""
        return self._traced.lower().compile()


def _check_accumulation(config: ConfigDict, objective: Any) -> None:
    """A contrast over micro-batches is another loss than one over the batch: it has fewer negatives."""
    if config.accumulate == 1 or not getattr(objective, "contrasts", False):
        return
    instead = (
        f"config.objective.chunks={config.accumulate}, which needs as little memory"
        if "chunks" in config.objective
        else "more devices or config.remat=full, which save memory too (this objective has no chunks)"
    )
    raise UserError(
        f"config.accumulate={config.accumulate}: the contrast would be among the "
        f"{config.batch_size // config.accumulate} pairs of a micro-batch, not the batch's {config.batch_size}; set "
        f"config.accumulate=1 and {instead}"
    )

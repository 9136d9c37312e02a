"""Parameters of frozen teachers: loaded once from their runs, placed on the mesh, never trained or saved.

WORKDIR/teachers.json says which checkpoint each was taken from, so that a resumed run has the same teachers even where
theirs went on meanwhile.
"""

import json
import logging
import zlib
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vfm import rules
from vfm.errors import UserError
from vfm.objectives import teachers
from vfm.train import checkpoint
from vfm.train import config as configs
from vfm.train.handover import check_same_encoder, nested, newest, resampled

log = logging.getLogger(__name__)
Tree = dict[str, Any]
FILE = "teachers.json"
UNUSED = ("encoder/image_pos",)  # a table for single frames, which a teacher of clips may leave unused


def check(config: ConfigDict) -> None:
    """UserError that names a teacher whose run is not set, or has no checkpoint; "" stands for an untrained teacher."""
    for name, part in config.get("teachers", {}).items():
        if part.run is None:
            raise UserError(
                f"config.teachers.{name}.run is not set: it is the folder of the run whose parameters teach; add "
                f"--config.teachers.{name}.run=DIR, or take the teacher and what learns from it out of the config"
            )
        if part.run:
            newest(part.run, f"config.teachers.{name}.run")


def shapes(config: ConfigDict, batch: Tree) -> Tree:
    """{name: shapes of its parameters}, without any memory."""
    rng = jax.random.key(config.seed)
    built = teachers.build(config)
    return {name: jax.eval_shape(lambda t=t: t.init(rng, batch)) for name, t in built.items()}


def load(config: ConfigDict, workdir: str | Path, batch: Tree, like: Tree) -> Tree:
    """{name: parameters}, placed as the shapes with shardings `like` say.

    Raises:
      UserError: a teacher's run is not set, has no such checkpoint, or holds another network.
    """
    check(config)
    file = Path(workdir) / FILE
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    trees, used = {}, {}
    for name, teacher in teachers.build(config).items():
        run = config.teachers[name].run
        if not run:
            # The name's checksum rather than its hash, which differs from one process to the next.
            rng = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode()))
            places = jax.tree.map(lambda leaf: leaf.sharding, like[name])
            trees[name] = jax.jit(lambda rng, t=teacher: t.init(rng, batch), out_shardings=places)(rng)
            log.info(f"teacher {name}: untrained, from the seed")
            continue
        before = recorded.get(name, {})
        step = before["step"] if before.get("run") == run else newest(run, f"config.teachers.{name}.run")
        trees[name] = _take(config, name, run, step, like[name])
        used[name] = dict(run=run, step=step)
    if used and jax.process_index() == 0:
        configs.write_json(file, used)
    return trees


def _take(config: ConfigDict, name: str, run: str, step: int, like: Tree) -> Tree:
    """A teacher's parts from a checkpoint; all that it needs must be there, and be all of these parts."""
    key = f"config.teachers.{name}.run='{run}'"
    there, here = configs.load_config(run).model.encoder, config.teachers[name].encoder
    check_same_encoder(key, there, here)
    stored, _ = checkpoint.restore_params(run, step)
    source = rules.flatten({part: stored[part] for part in like if part in stored})
    target = rules.flatten(like)
    source = {path: leaf for path, leaf in source.items() if path in target or path not in UNUSED}
    source = resampled(source, target, there, here)
    strange = sorted(source.keys() ^ target.keys())
    strange += [path for path in target if path in source and source[path].shape != target[path].shape]
    if strange:
        theirs, ours = (tuple(t[strange[0]].shape) if strange[0] in t else "none" for t in (source, target))
        raise UserError(
            f"{key}: {len(strange)} parameters do not fit, first '{strange[0]}', shape {theirs} there and {ours} here; "
            f"make config.teachers.{name} agree with that run's config.json"
        )
    count = sum(leaf.size for leaf in source.values())
    log.info(f"teacher {name}: {count:,} frozen parameters from step {step:,} of '{run}'")
    return nested({path: jax.device_put(source[path], target[path].sharding) for path in target})

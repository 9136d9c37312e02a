"""Learning rates as functions of the step: a linear warmup from 0, then one of three shapes."""

import logging

import optax
from ml_collections import ConfigDict

from vfm.errors import UserError
from vfm.parts import nearest
from vfm.train.config import duration

log = logging.getLogger(__name__)
SHAPES = ("cosine", "constant", "linear_cooldown")


def peak(config: ConfigDict) -> float:
    """The highest learning rate: `optim.lr`, times batch_size / 256 where `optim.lr_scaling`."""
    return config.optim.lr * _scale(config)


def build(config: ConfigDict, total: int, examples: int | None) -> optax.Schedule:
    """step -> learning rate, for a run of `total` steps and epochs of `examples`.

    cosine: from the end of the warmup down to min_lr at `total` (VideoMAE's recipe).
    constant: stays at its peak. linear_cooldown: constant, then linear to min_lr over the last `optim.cooldown`.
    """
    optim = config.optim
    if optim.schedule not in SHAPES:
        raise UserError(
            f"config.optim.schedule='{optim.schedule}'{nearest(optim.schedule, SHAPES)}; "
            f"expected one of {', '.join(SHAPES)}"
        )
    units = dict(total_steps=total, batch_size=config.batch_size, examples=examples)
    highest, lowest = peak(config), optim.min_lr * _scale(config)
    warmup = duration(optim.warmup, key="config.optim.warmup", **units)
    if warmup >= total:
        log.info(
            f"note: config.optim.warmup='{optim.warmup}' ({warmup:,} steps) fills the whole run of {total:,} steps"
        )
        return optax.linear_schedule(0.0, highest * total / warmup, total)
    if optim.schedule == "cosine":
        rest = optax.cosine_decay_schedule(
            highest, total - warmup, alpha=lowest / highest if highest else 0.0
        )
    elif optim.schedule == "constant":
        rest = optax.constant_schedule(highest)
    else:
        cooldown = duration(optim.cooldown, key="config.optim.cooldown", **units)
        if not 0 < cooldown <= total - warmup:
            raise UserError(
                f"config.optim.cooldown='{optim.cooldown}' is {cooldown:,} steps: expected 1 to "
                f"{total - warmup:,}, the run of {total:,} steps without its warmup of {warmup:,}"
            )
        rest = optax.linear_schedule(highest, lowest, cooldown, transition_begin=total - warmup - cooldown)
    return optax.join_schedules([optax.linear_schedule(0.0, highest, warmup), rest], [warmup])


def _scale(config: ConfigDict) -> float:
    return config.batch_size / 256 if config.optim.lr_scaling else 1.0

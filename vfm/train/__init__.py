"""Training: the loop, the step, the optimiser, where arrays lie, checkpoints, logs, preemption."""

from vfm.train.loop import train
from vfm.train.rehearsal import dry_run, virtual_devices

__all__ = ["dry_run", "train", "virtual_devices"]

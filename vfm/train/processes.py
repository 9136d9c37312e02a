"""Several processes as one run, and leaving in order when a machine is taken away."""

import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from vfm.errors import UserError

# Variables by which launchers and clusters that jax can ask for the rest show that there are several processes.
SEVERAL = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
PRESENT = ("MEGASCALE_COORDINATOR_ADDRESS",)
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def initialize() -> None:
    """Join the other processes of the run, if there are any. Call it before anything uses a device.

    Either JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say who is who, or a cluster does (Slurm,
    Open MPI, TPU pods). CPUs talk through gloo, jax's default.
    """
    if ADDRESS in os.environ:
        try:
            count, index = int(os.environ[COUNT]), int(os.environ[INDEX])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{ADDRESS} is set: {COUNT} and {INDEX} must be numbers as well, found "
                f"{os.environ.get(COUNT)!r} and {os.environ.get(INDEX)!r}"
            ) from error
        jax.distributed.initialize(os.environ[ADDRESS], count, index)
    elif (
        any(int(os.environ.get(name) or 1) > 1 for name in SEVERAL)
        or any(name in os.environ for name in PRESENT)
        or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    ):
        jax.distributed.initialize()


def from_first(compute: Callable[[], np.ndarray], count: int) -> np.ndarray:
    """What `compute` gives in the first process, a bool [count], in all of them; the others do not compute it.

    Raises:
      UserError: what `compute` raised; in the other processes, that it did.
    """
    if jax.process_count() == 1:
        return compute()
    found, failure = np.zeros(count + 1, bool), None
    if jax.process_index() == 0:
        try:
            found[:count] = compute()
        except UserError as error:
            found[count], failure = True, error
    found = np.asarray(multihost_utils.broadcast_one_to_all(found))
    if failure is not None:
        raise failure
    if found[count]:
        raise UserError("the first process cannot use the data; what it printed says why")
    return found[:count]


@contextlib.contextmanager
def alone_in(workdir: str | Path) -> Iterator[None]:
    """Keep other runs out of a folder; the system lets go of it however this one ends.

    Raises:
      UserError: another run is at work there.
    """
    if jax.process_index() > 0:  # the first process stands for the whole run
        yield
        return
    new = not Path(workdir).exists()
    Path(workdir).mkdir(parents=True, exist_ok=True)
    lock = Path(workdir, ".lock")
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another run is training in '{workdir}'; wait for it, stop it, or use another --workdir"
            ) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # somebody else removed it
                # A mistake was found before there was anything to keep.
                if new and os.listdir(workdir) == [lock.name]:
                    lock.unlink()
                    Path(workdir).rmdir()


class Preemption:
    """Turns SIGTERM, and the first Ctrl-C, into a question that the loop asks after each step.

    Make it after the backend is up: loading libtpu installs a handler of its own. Of several processes jax's
    preemption service hears the signal, and all of them agree on the step.
    """

    def __init__(self):
        self.received: str | None = None
        self._several = jax.process_count() > 1
        self._old = {}
        if not self._several and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._receive)

    def reached(self, step: int) -> bool:
        """Whether to save and leave after `step`, the same answer in all processes."""
        if self._several:
            if multihost_utils.reached_preemption_sync_point(step):
                self.received = "SIGTERM"
        return self.received is not None

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _receive(self, number, frame) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        again = "; a second Ctrl-C leaves at once and saves nothing" if number == signal.SIGINT else ""
        # Compiling, or opening the data, may take minutes before the loop asks.
        os.write(2, f"\n{self.received}: saving after the next step, then leaving{again}\n".encode())

"""Batches from the host onto the devices, a few ahead of the step that needs them."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from vfm.errors import UserError


class Feed:
    """Iterator of (batch on the devices, ids of this process's rows), filled by a thread.

    Attributes:
      waited: seconds that `next` has waited for data so far.
    """

    def __init__(
        self, batches: Iterator[dict[str, np.ndarray]], sharding: NamedSharding, size: int, depth: int
    ):
        self.waited = 0.0
        self._batches, self._sharding, self._size = batches, sharding, size
        self._ready: queue.Queue = queue.Queue(maxsize=max(1, depth))
        self._stop = threading.Event()
        self._peeked: list[Any] = []
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)
        self._thread.start()

    def peek(self) -> dict[str, jax.Array]:
        """The next batch, which stays the next."""
        if not self._peeked:
            self._peeked.append(next(self))
        return self._peeked[0][0]

    def __iter__(self):
        return self

    def __next__(self) -> tuple[dict[str, jax.Array], np.ndarray | None]:
        if self._peeked:
            return self._peeked.pop()
        start = time.perf_counter()
        item = self._ready.get()
        self.waited += time.perf_counter() - start
        if isinstance(item, BaseException):
            self._ready.put(item)  # whoever asks again hears the same
            raise item
        return item

    def close(self) -> None:
        """Stop the thread, then the source."""
        self._stop.set()
        if hasattr(self._batches, "interrupt"):  # the thread may wait for a file that takes for ever
            self._batches.interrupt()
        self._thread.join()
        if hasattr(self._batches, "close"):
            self._batches.close()

    def _fill(self) -> None:
        try:
            for batch in self._batches:
                if self._stop.is_set() or not self._put((self._to_devices(batch), batch.get("id"))):
                    return
            self._put(UserError("the training data ended before the run did; a source must repeat for ever"))
        except Exception as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _to_devices(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        rows = len(next(iter(batch.values())))  # of a second medium there are more or fewer
        return {
            name: jax.make_array_from_process_local_data(
                self._sharding, array, (len(array) * self._size // rows, *array.shape[1:])
            )
            for name, array in batch.items()
        }

"""Processes that read items, given out in order, through memory that they share with this one.

An item is what `items[index]` gives: a dictionary whose large arrays travel through shared memory, packed one behind
the other into a slot that was made once and is used again, and whose other values travel through a pipe.

A process is a Python of its own that imports nothing but what `items` needs: no accelerator library, and not the
program's main file. The shared memory has no name, and a process ends when its pipe does, so that nothing is left over
however the program ends. Each process reads one item at a time and writes down which file it is at; when it dies
or is stopped, the file is known, another process takes its place, and the item is read again without that file.
"""

import contextlib
import itertools
import logging
import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from typing import Any, NamedTuple, Protocol, Self

from input_pipeline.shared_memory import NOTE, Note, Packed, Reading, nameless_file, pack
from vfm.errors import UserError

log = logging.getLogger(__name__)

_QUEUED = 2  # items that a process has been asked for: the one it reads and the next
_TRIES = 2  # deaths at one file before it counts as bad
_READY = b"ready"  # a process's first answer
_ASKED_TO_END = (-signal.SIGTERM, -signal.SIGINT)  # exit codes of one that was just about to ignore them
_START = "from input_pipeline.workers import serve; serve()"


class Items(Protocol):
    """What processes read."""

    def __getitem__(self, index: int) -> Any: ...

    def avoid(self, source: int, name: str, reason: str) -> None:
        """Takes a file for bad from now on."""


class Lost(NamedTuple):
    """What stands in for an item at which its process died or was stopped, and why; where `items` cannot `avoid`."""

    reason: str


# In the process


def serve() -> None:
    """What a process does: reads the items that it is asked for, until nobody asks any more."""
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # a cluster and a terminal send them to all processes of a job
        signal.signal(number, signal.SIG_IGN)
    pipe, memory = connection.Connection(int(sys.argv[1])), mmap.mmap(int(sys.argv[2]), 0)
    with contextlib.suppress(EOFError, OSError):  # the other end is gone: there is nobody to work for
        place, size = pipe.recv()
        items, note = pipe.recv(), Note(memory, place)
        if hasattr(items, "note"):
            items.note = note.write
        pipe.send_bytes(_READY)
        while True:
            index, offset, avoided = pipe.recv()
            for entry in avoided:
                items.avoid(*entry)
            try:
                answer = pickle.dumps(pack(items[index], memory, offset, size), pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                answer = _pickled(error)
            note.clear()
            pipe.send_bytes(answer)
            del answer


def _pickled(error: Exception) -> bytes:
    try:
        pickle.loads(answer := pickle.dumps(error))
    except Exception:  # an error of some library's own kind
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return answer


# Here


class _Process:
    """One process and what it has been asked for."""

    def __init__(self, memory: int, place: int):
        self.place, self.since, self.told, self.ready = place, time.monotonic(), 0, False
        self.asked: list[tuple[int, int]] = []  # index and slot of items, the one at work first
        self.pipe, theirs = connection.Pipe()
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), str(memory)],
                pass_fds=(theirs.fileno(), memory),
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
            )

    def begin(self, items: bytes, size: int) -> None:
        """Sends what is to be read; that can be much, and the process takes it only when it has started."""
        with contextlib.suppress(OSError):  # it has died, which is noticed where answers are read
            self.pipe.send((self.place, size))
            self.pipe.send_bytes(items)

    def ask(self, index: int, offset: int, avoided: list) -> None:
        if not self.asked:
            self.since = time.monotonic()
        self.asked.append((index, offset))
        told, self.told = self.told, len(avoided)
        with contextlib.suppress(OSError):  # it has died, which is noticed where answers are read
            self.pipe.send((index, offset, avoided[told:]))

    def end(self) -> str:
        """Ends it, if it has not ended by itself; gives the reason in the latter case."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # its pipe closes a moment before it is gone
            self.process.wait(1.0)
        code = self.process.poll()
        self.process.kill()
        self.process.wait()
        self.pipe.close()
        if code is None:
            return "stopped"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class Workers:
    """Iterator over items in the order of `indices`, which processes read ahead.

    Args:
      items: what is read; has to be picklable.
      count: processes.
      ahead: items that may be read in advance, those at work not counted.
      slot: bytes of an item's arrays in shared memory; what does not fit is sent instead.
      limit: seconds that an item may take before its process is stopped; 0 = for ever.
      indices: of the items; all from 0 on if not given.
    """

    def __init__(
        self,
        items: Any,
        count: int,
        ahead: int = 0,
        slot: int = 0,
        limit: float = 0.0,
        indices: Iterable[int] | None = None,
    ):
        self._items, self._indices = (
            pickle.dumps(items),
            iter(itertools.count() if indices is None else indices),
        )
        self._mends = hasattr(items, "avoid")
        self._limit, self._slot = limit, -(-slot // mmap.PAGESIZE) * mmap.PAGESIZE
        slots = max(ahead, 1) + _QUEUED * count
        start = -(-count * NOTE // mmap.PAGESIZE) * mmap.PAGESIZE
        self._file = nameless_file(start + slots * self._slot)
        self._memory = mmap.mmap(self._file, 0)
        self._free = [start + i * self._slot for i in range(slots)]
        self._order: list[int] = []  # of items that were asked for and not taken
        self._again: list[int] = []  # items whose process died
        self._deaths: dict[tuple[int, str], int] = {}  # at each file
        self._done: dict[int, tuple[Any, int | None]] = {}
        self._avoided: list[tuple[int, str, str]] = []
        self._new_avoided: list[tuple[int, str, str]] = []
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._ended = self._closed = False
        self._wake, self._woken = connection.Pipe()
        self._processes = [self._start(place) for place in range(count)]
        for process in self._processes:  # all of them import what they need meanwhile
            process.begin(self._items, self._slot)
        self._thread = threading.Thread(target=self._run, name="workers", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __next__(self) -> Any:
        """The next item; its large arrays are good until the next one is asked for."""
        with self._changed:
            self._give_back()
            while True:
                if self._failure is not None:
                    raise self._failure
                if self._order and self._order[0] in self._done:
                    break
                if self._closed or (self._ended and not self._order):
                    raise StopIteration
                self._changed.wait()
            item, self._held = self._done.pop(self._order.pop(0))
        if isinstance(item, Exception):
            raise item
        if isinstance(item, dict):
            return {k: v.view(self._memory) if isinstance(v, Packed) else v for k, v in item.items()}
        return item

    def avoided(self) -> list[tuple[int, str, str]]:
        """Files at which processes died since this was last asked: (source, name, reason)."""
        with self._changed:
            new, self._new_avoided = self._new_avoided, []
        return new

    def reading(self) -> list[Reading]:
        """The files that processes are at."""
        return [note for p in range(len(self._processes)) if (note := Note(self._memory, p).read())]

    def processes(self) -> list[int]:
        """Their numbers."""
        return [process.process.pid for process in self._processes]

    def close(self) -> None:
        """Ends the processes at once; an iteration that waits for an item ends."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._wake.send_bytes(b".")
        self._thread.join()
        for process in self._processes:
            process.process.kill()
        for process in self._processes:
            process.end()
        self._wake.close()
        self._woken.close()
        os.close(self._file)

    # The thread that gives out and collects

    _held: int | None = None  # the slot of the item that was taken last

    def _give_back(self) -> None:
        if self._held is not None and not self._closed:
            self._free.append(self._held)
            self._held = None
            self._wake.send_bytes(b".")

    def _start(self, place: int) -> _Process:
        Note(self._memory, place).clear()
        return _Process(self._file, place)

    def _run(self) -> None:
        try:
            while not self._closed:
                self._give_out()
                pipes = {process.pipe: process for process in self._processes}
                for pipe in connection.wait([*pipes, self._woken], timeout=0.2 if self._limit else None):
                    if pipe is self._woken:
                        pipe.recv_bytes()
                        continue
                    try:
                        self._collect(pipes[pipe], pipe.recv_bytes())
                    except (EOFError, OSError):
                        self._replace(pipes[pipe], "")
                for process in list(self._processes) if self._limit else ():
                    late = time.monotonic() - process.since > self._limit
                    if process.ready and process.asked and late:
                        process.process.kill()
                        self._replace(process, f"no answer within {self._limit:g} s")
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _give_out(self) -> None:
        with self._changed:
            while self._free and not self._closed:
                process = min(self._processes, key=lambda p: len(p.asked))
                if len(process.asked) >= _QUEUED:
                    return
                if self._again:
                    index = self._again.pop(0)
                else:
                    index = next(self._indices, None)
                    if index is None:
                        self._ended = True
                        self._changed.notify_all()
                        return
                    self._order.append(index)
                process.ask(index, self._free.pop(), self._avoided)

    def _collect(self, process: _Process, answer: bytes) -> None:
        with self._changed:
            process.since = time.monotonic()
            if answer == _READY:
                process.ready = True
                return
            index, offset = process.asked.pop(0)
            self._done[index] = pickle.loads(answer), offset
            self._changed.notify_all()

    def _replace(self, process: _Process, why: str) -> None:
        """Another process for one that died or was stopped; its items are read again."""
        note = Note(self._memory, process.place).read()
        ended = process.end()
        why = why or f"the process that read it died: {ended}"
        if not process.ready and process.process.returncode not in _ASKED_TO_END:
            raise UserError(f"a process that reads data did not start ({ended}); what it printed says why")
        if self._mends and not self._closed:
            perhaps = " (perhaps memory ran out)" if ended == "signal SIGKILL" else ""
            log.warning(
                f"'{note.name if note else 'no file'}': {why}{perhaps}; another process takes its place"
            )
        with self._changed:
            asked, process.asked = process.asked, []
            if asked and process.ready and not self._mends:
                index, offset = asked.pop(0)
                self._done[index] = Lost(why), offset
            elif note is not None:
                key = note.source, note.name
                self._deaths[key] = self._deaths.get(key, 0) + 1
                if self._deaths[key] == _TRIES:
                    self._avoided.append((*key, why))
                    self._new_avoided.append((*key, why))
            self._free += [offset for _, offset in asked]
            self._again = sorted([*self._again, *(index for index, _ in asked)])
            self._changed.notify_all()
        if not self._closed:
            new = self._processes[self._processes.index(process)] = self._start(process.place)
            new.begin(self._items, self._slot)

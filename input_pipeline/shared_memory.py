"""Memory that processes share: where large arrays travel, and where each process writes down which file it is at."""

import mmap
import os
import struct
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

NOTE = 2**12  # bytes in which a process writes down what it is at
_LARGE = 2**12  # bytes of an array that is sooner shared than sent
_ALIGNED = 64  # bytes, of arrays in a slot


class Reading(NamedTuple):
    """A file that is being read: which source it belongs to, its name, and since when (`time.monotonic`)."""

    source: int
    name: str
    since: float


class Note:
    """Where one process writes down which file it is at, and another reads it."""

    def __init__(self, memory: mmap.mmap, place: int):
        self._memory, self._at = memory, place * NOTE

    def write(self, source: int, name: str) -> None:
        text = name.encode("utf-8", "surrogateescape")[-(NOTE - 20) :]
        self._memory[self._at : self._at + 4] = b"\0\0\0\0"
        end = self._at + 20 + len(text)
        self._memory[self._at + 4 : end] = struct.pack("<id4x", source, time.monotonic()) + text
        self._memory[self._at : self._at + 4] = struct.pack("<i", len(text))

    def clear(self) -> None:
        self._memory[self._at : self._at + 4] = b"\0\0\0\0"

    def read(self) -> Reading | None:
        length, source, since = struct.unpack_from("<iid4x", self._memory, self._at)
        if not length:
            return None
        text = self._memory[self._at + 20 : self._at + 20 + length]
        return Reading(source, text.decode("utf-8", "surrogateescape"), since)


class Packed(NamedTuple):
    """An array's place in the shared memory."""

    offset: int
    shape: tuple[int, ...]
    kind: np.dtype

    def view(self, memory: mmap.mmap) -> np.ndarray:
        return np.ndarray(self.shape, self.kind, memory, self.offset)


def pack(item: Any, memory: mmap.mmap, offset: int, size: int) -> Any:
    """The item with its large arrays moved to memory[offset : offset + size], as far as they fit."""
    if not isinstance(item, dict):
        return item
    moved, end = {}, offset + size
    for name, value in item.items():
        if isinstance(value, np.ndarray) and value.nbytes > _LARGE and offset + value.nbytes <= end:
            moved[name] = Packed(offset, value.shape, value.dtype)
            moved[name].view(memory)[...] = value
            offset += -(-value.nbytes // _ALIGNED) * _ALIGNED
    return item | moved


def nameless_file(size: int) -> int:
    """A file in memory that no other process can find and that is gone with the last that has it open."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("batches")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, max(size, mmap.PAGESIZE))
    return file

"""Files and folders that appear under their names when they are complete, and only then.

Until then they have a hidden name of their own beside the place where they will be, so that no reader takes a half for
a whole, whenever the writer is killed, and writers on any number of machines never meet in one file.
"""

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_STALE_SECONDS = 24 * 3600  # after which what nobody wrote to any more was left behind


@contextlib.contextmanager
def appearing(path: str | os.PathLike, durable: bool = False) -> Iterator[Path]:
    """Gives a place to write a file (or make a folder) at, which becomes `path` when the block ends without an error.

    Args:
      path: what it will be called; a file there is replaced. Its folder has to exist.
      durable: wait until it is on the disk, so that a crash of the machine does not leave less under that name.

    Raises:
      OSError: it cannot be written, or `path` is a folder that is not empty; nothing is left behind.
    """
    partial = partial_of(path)
    try:
        yield partial
        publish(partial, path, durable)
    finally:
        remove(partial)


def partial_of(path: str | os.PathLike) -> Path:
    """Where a file or folder is made that will be called `path`: another place at each call."""
    path = Path(path)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def publish(partial: Path, path: str | os.PathLike, durable: bool = False) -> None:
    """Gives what was made at a place of `partial_of` its name; see `appearing`."""
    if durable:
        _flush(partial)
    os.replace(partial, path)
    if durable:
        _flush(Path(path).parent)


def remove(partial: Path) -> None:
    """Removes what was made so far, if anything was; an error of the system in doing so is no error."""
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(OSError):
        partial.unlink()


def is_partial(name: str) -> bool:
    """Whether a file is called as if it was still being made."""
    return bool(re.fullmatch(r"\..*\.[0-9a-f]{8}\.partial", name))


def remove_stale(folder: Path, begin: str) -> None:
    """Removes what writers that were killed left behind in a folder, of what would be called `begin...`."""
    for name in os.listdir(folder):
        if is_partial(name) and name.startswith(f".{begin}"):
            with contextlib.suppress(OSError):  # somebody else may be removing it too
                if time.time() - (folder / name).stat().st_mtime > _STALE_SECONDS:
                    remove(folder / name)


def _flush(place: Path) -> None:
    """Waits until a file, or which names a folder holds, is on the disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

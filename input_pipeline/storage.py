"""Bytes of files, on this machine or elsewhere: whole, in part, listed, or found by patterns.

Everything with `://` in its name goes through fsspec (`gs://`, `s3://`, `hf://`, `http(s)://`, `memory://`), which
takes its settings and credentials from the environment and from `~/.config/fsspec`. Nothing stays open between calls,
so that what is built on this can be pickled and used in any thread.
"""

import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from input_pipeline.atomic import appearing
from input_pipeline.remote import RemoteFile, Section, attempt, filesystem
from vfm.errors import UserError

WHOLE = 2**26  # bytes up to which a remote file, or a part of a file, is read at once
_BLOCK = 2**22  # bytes that larger remote files are read by
_STATE = frozenset(
    "size created mtime updated last_modified lastmodified etag md5 md5hash checksum generation blob_id".split()
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_STARS = re.compile(r"[*?\[]")

log = logging.getLogger(__name__)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is an address of something that is not a file of this machine."""
    return "://" in os.fspath(path)


def join(root: str | os.PathLike, path: str) -> str:
    """`path` below `root`, unless it says itself where it is; both may be remote."""
    if is_remote(path):
        return path
    root = os.fspath(root)
    return f"{root.rstrip('/')}/{path}" if is_remote(root) else os.path.join(root, os.path.expanduser(path))


def place(path: str | os.PathLike) -> "Path | RemotePath":
    """A path as an object; of `file://` addresses the local path."""
    path = os.fspath(path)
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    return RemotePath(path) if is_remote(path) else Path(path).expanduser()


class RemotePath:
    """The part of `pathlib.Path` that reading lists takes, for addresses."""

    def __init__(self, url: str):
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"

    def __fspath__(self) -> str:
        return self._url

    def __truediv__(self, name: str | os.PathLike) -> "Path | RemotePath":
        return place(join(self._url, os.fspath(name)))

    @property
    def name(self) -> str:
        return PurePosixPath(self._url.partition("://")[2].partition("?")[0]).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self._url.rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.parent}/{name}")

    def expanduser(self) -> "RemotePath":
        return self

    def exists(self) -> bool:
        return self._kind() != ""

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def _kind(self) -> str:
        """ "file", "directory", or "" where there is nothing."""
        system, path = filesystem(self._url)
        # Web servers do not tell: a page of links is a folder, unless it is called as files are.
        if self._url.startswith("http") and not self.suffix[1:2].isalpha():
            with contextlib.suppress(FileNotFoundError):
                if attempt(lambda: system.ls(path, detail=False)):
                    return "directory"
        try:
            return attempt(lambda: system.info(path))["type"]
        except FileNotFoundError:
            return ""

    def iterdir(self) -> Iterator["RemotePath"]:
        system, path = filesystem(self._url)
        for name in attempt(lambda: system.ls(path, detail=False)):
            yield RemotePath(system.unstrip_protocol(name))

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        return map(RemotePath, expand(f"{self._url}/{pattern}"))

    def read_bytes(self) -> bytes:
        return read(self._url)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def open(self, mode: str = "rb") -> io.BytesIO:
        return io.BytesIO(self.read_bytes())


def size_of(path: str) -> int | None:
    """Bytes of a file; None where a server does not say."""
    if not is_remote(path):
        return os.path.getsize(path)
    system, name = filesystem(path)
    return attempt(lambda: system.info(name)).get("size")


def stamp(path: str) -> str:
    """Changes when a file does: size and time, or what else its place tells; "" where there is none."""
    try:
        if is_remote(path):
            system, name = filesystem(path)
            info = attempt(lambda: system.info(name))
            state = {key: value for key, value in info.items() if key.lower() in _STATE}
            return json.dumps(state, sort_keys=True, default=str)
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def read(path: str, start: int = 0, size: int | None = None) -> bytes:
    """`size` bytes of a file from `start` on (fewer where it ends); without `size` all of them.

    Raises:
      OSError: it cannot be read.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(-1 if size is None else size)
    system, name = filesystem(path)
    if size is None:
        return attempt(lambda: system.cat_file(name))[start:]
    data = attempt(lambda: system.cat_file(name, start, start + size))
    return data if len(data) <= size else data[start : start + size]  # a server that knows no ranges


def open_binary(path: str, block: int = _BLOCK) -> BinaryIO:
    """A file open for reading that can seek; remote ones are read by `block` bytes ahead.

    Raises:
      OSError: it cannot be opened.
    """
    if not is_remote(path):
        return open(path, "rb")
    size = size_of(path)
    return io.BytesIO(read(path)) if size is None else io.BufferedReader(RemoteFile(path, size), block)


def content(path: str, start: int = 0, size: int | None = None) -> bytes | BinaryIO:
    """A file, or a part of it, as a video is opened from: its bytes where it is small, else an open file.

    Raises:
      OSError: it cannot be read.
    """
    if size is None:
        size = size_of(path)
    if size is None or size <= WHOLE:
        return read(path, start, size)
    return io.BufferedReader(Section(open_binary(path), start, size), 2**18)


def has_pattern(path: str | os.PathLike) -> bool:
    """Whether a path may stand for several: `{000..003}`, `{a,b}`, `*`, `?`, `[...]`, and is not the name of one."""
    path = os.fspath(path)
    if not (_RANGE.search(path) or _CHOICE.search(path) or _stars(path)):
        return False
    return is_remote(path) or not os.path.exists(path)


def _stars(path: str) -> bool:
    # In addresses, `?` and `[` are rather part of a query.
    return "*" in path if is_remote(path) else bool(_STARS.search(path))


def expand(path: str | os.PathLike) -> list[str]:
    """The files that a pattern stands for: those of braces in their order, those of stars sorted.

    Raises:
      UserError: a pattern with stars finds nothing, or a range goes downwards.
    """
    path = os.fspath(path)
    if not has_pattern(path):
        return [path]
    if match := _RANGE.search(path):
        first, last = match[1], match[2]
        if int(last) < int(first):
            raise UserError(f"'{path}': the range {match[0]} ends before it begins")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        values = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    elif match := _CHOICE.search(path):
        values = match[1].split(",")
    else:
        return _find(path)
    return [f for value in values for f in expand(f"{path[: match.start()]}{value}{path[match.end() :]}")]


def above_pattern(path: str) -> str:
    """The folder that all files lie in which a pattern stands for; a path that is no pattern as it is."""
    if not has_pattern(path):
        return path
    found = [pattern.search(path) for pattern in (_RANGE, _CHOICE, _STARS)]
    return os.path.dirname(path[: min(match.start() for match in found if match)]) or os.curdir


def first_of(path: str) -> str:
    """A pattern with the first choice for each of its braces: how the files that it stands for end."""
    path = _RANGE.sub(lambda match: match[1], path)
    return _CHOICE.sub(lambda match: match[1].split(",")[0], path)


def _find(pattern: str) -> list[str]:
    if is_remote(pattern):
        system, name = filesystem(pattern)
        # Written as the pattern is: some file systems give their names with another number of slashes.
        begin = pattern.removesuffix(name.lstrip("/"))
        found = [begin + path.lstrip("/") for path in attempt(lambda: system.glob(name))]
    else:
        import glob

        found = glob.glob(os.path.expanduser(pattern), recursive=True)
    if not found:
        raise UserError(f"'{pattern}': no file is called like this; check the folder and the pattern")
    return sorted(found)


def files_below(folder: str | os.PathLike) -> list[str]:
    """All files in a folder and its folders, sorted, without hidden ones."""
    folder = os.fspath(folder)
    if is_remote(folder):
        system, name = filesystem(folder)
        top = name.rstrip("/")
        below = _walk(system, name) if folder.startswith("http") else attempt(lambda: system.find(name))
        found = [f"{folder.rstrip('/')}{path[len(top) :]}" for path in below]
    else:
        found = list(_below(folder))
    return sorted(path for path in found if "/." not in path[len(folder) :])


def _below(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Files below a local folder; links are followed unless they lead to a folder that they lie in."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError:
        if not above:
            raise
        return  # such as lost+found
    for entry in entries:
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False
        if not is_folder:
            yield entry.path
        elif not entry.name.startswith("."):
            yield from _below(entry.path, above | {real})


def _walk(system: Any, folder: str) -> Iterator[str]:
    """Files below a page of links, each page asked for on its own."""
    for entry in attempt(lambda: system.ls(folder, detail=True)):
        if entry["name"].rstrip("/") == folder.rstrip("/"):
            continue
        if entry["type"] == "directory":
            yield from _walk(system, entry["name"])
        else:
            yield entry["name"]


def digest(value: Any) -> str:
    """SHA-256 of a value that JSON can hold: what files are called that keep what was made of it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "vfm"


@functools.lru_cache(maxsize=4096)
def local_copy(path: str) -> str:
    """The path of a copy of a remote file on this machine, for readers that take nothing else.

    It stays in the user's cache folder, under a name that changes when the file does.

    Raises:
      OSError: it cannot be copied.
    """
    if not is_remote(path):
        return path
    key = hashlib.sha256(f"{path}\0{stamp(path)}".encode()).hexdigest()[:20]
    target = cache_folder() / "remote" / f"{key}-{RemotePath(path).name}"
    if not target.is_file():
        log.info("copying %s to %s", path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with appearing(target) as partial, open_binary(path) as source, open(partial, "wb") as file:
            shutil.copyfileobj(source, file, 2**20)
    return str(target)

"""fsspec: file systems by address, asked again where a network fails, and their files as files that can seek."""

import io
import os
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from vfm.errors import UserError

_ATTEMPTS = 3  # at something remote
_PACKAGES = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "s3": "s3fs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
    "az": "adlfs",
    "abfs": "adlfs",
    "ssh": "paramiko",
    "sftp": "paramiko",
}


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises:
      UserError: nothing is known about addresses of this kind, or its package is missing.
    """
    import fsspec

    scheme = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        advice = f"pip install {package}" if package else str(error)
        raise UserError(
            f"{url}: reading {scheme}:// takes a package that is not installed: {advice}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{url}: nothing is known about {scheme}://; expected a local path, gs://, s3://, hf:// or http(s)://"
        ) from error


def attempt(action: Callable[[], Any]) -> Any:
    """What `action` gives, tried again where a network might be to blame.

    Raises:
      OSError: it fails; FileNotFoundError where there is nothing.
    """
    for left in reversed(range(_ATTEMPTS)):
        try:
            return action()
        except (PermissionError, UserError):
            raise
        except Exception as error:  # every file system has errors of its own
            if isinstance(error, FileNotFoundError) and getattr(error.__cause__, "status", 404) < 500:
                raise  # not one of a server that says to try later
            if not left:
                raise OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(0.2 * 2 ** (_ATTEMPTS - 1 - left))


class _Raw(io.RawIOBase):
    """A file of `size` bytes that subclasses fetch."""

    def __init__(self, size: int):
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(self._size - self._at, 0))
        data = self._fetch(self._at, wanted) if wanted else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _fetch(self, start: int, size: int) -> bytes:
        raise NotImplementedError


class RemoteFile(_Raw):
    """A remote file, each part of which is asked for anew where that fails."""

    def __init__(self, path: str, size: int):
        super().__init__(size)
        self._system, self._name = filesystem(path)
        self._whole = b""  # of a server that knows no ranges

    def _fetch(self, start: int, size: int) -> bytes:
        if not self._whole:
            data = attempt(lambda: self._part(start, size))
            if len(data) == size:
                return data
            self._whole = data
        return self._whole[start : start + size]

    def _part(self, start: int, size: int) -> bytes:
        data = self._system.cat_file(self._name, start, start + size)
        if len(data) < size:  # taken for the end of the file, a copy would stay without its rest
            raise OSError(f"{self._name} ends after {start + len(data)} of {self._size} bytes")
        return data


class Section(_Raw):
    """A part of an open file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        super().__init__(size)
        self._file, self._start = file, start

    def _fetch(self, start: int, size: int) -> bytes:
        self._file.seek(self._start + start)
        return self._file.read(size)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

"""Skip lists: samples that are known to be bad, as `python -m scripts.validate_data` writes them.

A CSV with the columns `path` and `reason` (the latter may be missing). A path is the sample's name: of its file as the
source has it, relative to data.root, or relative to the skip list's own folder; parts of files may be named as
`file.mp4#t=2,7.5`. Samples that are skipped keep their ids.
"""

import os
from collections.abc import Iterable

from input_pipeline import storage
from input_pipeline.formats.base import Document
from vfm.errors import UserError


def read_skips(file: str | os.PathLike) -> dict[str, str]:
    """{path: reason} of a skip list.

    Raises:
      UserError: there is no such file, or it has no column `path`.
    """
    path = storage.place(file)
    if not path.is_file():
        raise UserError(f"data.skip='{file}': no such file; expected a CSV with the columns path,reason")
    document = Document(path)
    if not document.text.strip():
        raise UserError(f"data.skip='{file}': is empty; expected a CSV with the columns path,reason")
    if "path" not in document.header:
        raise UserError(
            f"data.skip='{file}': its columns are {', '.join(document.header)}; expected path,reason"
        )
    if len(document.lines) == 1:
        return {}
    _, columns = document.rows()
    reasons = columns.get("reason", [""] * len(columns["path"]))
    return {
        name: reason or "left out by data.skip" for name, reason in zip(columns["path"], reasons, strict=True)
    }


def skipped(names: Iterable[tuple[str, ...]], file: str | os.PathLike, root: str = "") -> dict[int, str]:
    """{index: reason} of the samples that a skip list names.

    Args:
      names: what each sample may be called, its path first.
      file: the skip list.
      root: what relative paths in it are relative to, besides the working folder and its own.
    """
    given = read_skips(file)
    folders = ["", str(storage.place(file).parent), *([root] if root else [])]
    reasons = {_plain(storage.join(folder, name)): why for name, why in given.items() for folder in folders}
    reasons |= given
    found = {}
    for index, some in enumerate(names):
        reason = next((reasons[n] for name in some for n in (name, _plain(name)) if n in reasons), None)
        if reason is not None:
            found[index] = reason
    return found


def _plain(name: str) -> str:
    """An absolute path without detours; names of other kinds (URLs, members of shards) stay as they are."""
    return name if "://" in name or "::" in name else os.path.abspath(name)

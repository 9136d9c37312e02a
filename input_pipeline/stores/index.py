"""What was read from shards once, kept: a second run need not read them through again.

One JSON file for each shard, in `.vfm_cache` beside it or, where that cannot be written or the shard is remote, in the
user's cache folder. It is named after the shard's address, size and time, so that a changed shard is read again.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from input_pipeline import storage
from input_pipeline.atomic import appearing

_THREADS = 16  # shards read at once: mostly waiting


def read_shards(
    shards: Sequence[str], kind: str, make: Callable[[str], Any], unit: str = " shards"
) -> list[tuple[str, Any]]:
    """(stamp, what `make` found in it) of each shard, from an earlier run or read now.

    Args:
      shards: local or remote files.
      kind: of what is found, with its version.
      make: gives something that JSON holds.
    """

    def one(shard: str) -> tuple[str, Any]:
        stamp = storage.stamp(shard)
        return stamp, _kept(shard, kind, stamp, lambda: make(shard))

    if len(shards) == 1:
        return [one(shards[0])]
    with ThreadPoolExecutor(min(_THREADS, len(shards)), thread_name_prefix="index") as pool:
        found = pool.map(one, shards)
        return list(tqdm(found, "reading shards", len(shards), unit=unit, disable=_quiet(), leave=False))


def _quiet() -> bool | None:
    return None if sys.stderr.isatty() else True


def _kept(shard: str, kind: str, stamp: str, make: Callable[[], Any]) -> Any:
    name = shard if storage.is_remote(shard) else os.path.abspath(shard)
    digest = hashlib.sha256(f"{kind}\0{name}\0{stamp}".encode("utf-8", "surrogateescape")).hexdigest()[:20]
    places = [folder / f"{digest}.json" for folder in _folders(shard)]
    for file in places if stamp else ():
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # not there, or damaged: made again
    found = make()
    text = json.dumps(found)
    for file in places if stamp else ():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with appearing(file) as partial:
                partial.write_text(text, encoding="utf-8")
            break
        except OSError:
            continue
    return json.loads(text)  # as a later run sees it


def _folders(shard: str) -> list[Path]:
    user = storage.cache_folder() / "shards"
    return [user] if storage.is_remote(shard) else [Path(shard).parent / ".vfm_cache" / "shards", user]

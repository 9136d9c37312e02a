"""Stores: where videos lie together with what is known about them, one module for each kind.

A store is a module with `OPTIONS` (what a source's config may set for it, with defaults), `detect(path)` (whether a
path, a pattern or a folder is unmistakably one) and `read(request)`, which gives a `Table` and the `Media` that opens
its videos. A new one is a file beside these and a line in `STORES`.
"""

from types import ModuleType

from input_pipeline.formats.base import Table, complete
from input_pipeline.media import Media
from input_pipeline.stores import array_record, frames, images, parquet, prepared, tfds, webdataset
from input_pipeline.stores.base import Request
from vfm.errors import UserError

STORES: dict[str, ModuleType] = {
    "array_record": array_record,
    "frames": frames,
    "images": images,
    "parquet": parquet,
    "prepared": prepared,
    "tfds": tfds,
    "webdataset": webdataset,
}


def find(path: str, name: str = "auto") -> str:
    """The name of the store that a path is, "" if it is none.

    Raises:
      UserError: it may be one of several.
    """
    if name != "auto":
        return name if name in STORES else ""
    for known in ("prepared", "tfds"):  # whose shards may pass for those of other stores
        if STORES[known].detect(path):
            return known
    found = [name for name, module in STORES.items() if module.detect(path)]
    if len(found) > 1:
        raise UserError(f"'{path}': may be {' or '.join(found)}; say which with format=NAME")
    return found[0] if found else ""


def read(name: str, request: Request) -> tuple[Table, Media]:
    """What the store `name` holds.

    Raises:
      UserError: it has no such option, or its contents are not understood.
    """
    where = f"{request.key}='{request.path}'"
    options = complete(STORES[name].OPTIONS, request.options, name, where)
    return STORES[name].read(request._replace(options=options))

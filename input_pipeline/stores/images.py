"""Images, read as videos of one frame: a folder (of classes), a pattern, or one file."""

from input_pipeline import storage
from input_pipeline.folders import read_folder
from input_pipeline.formats.base import Table
from input_pipeline.media import Files
from input_pipeline.stores.base import Request

OPTIONS = {"labels": ""}  # class names


def detect(path: str) -> bool:
    return False  # where images are expected, folders of them are found without this


def read(request: Request) -> tuple[Table, Files]:
    place = storage.place(request.path)
    if not storage.has_pattern(request.path) and place.is_dir():
        table = read_folder(place, request.key, "image", str(request.options["labels"]))
        table.paths = [storage.join("", path) for path in table.paths]
    else:
        table = Table(storage.expand(request.path))
    return table, Files(table.paths)

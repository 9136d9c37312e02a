"""Folders of frames: every folder that holds images is a video, its images in the order of their numbers.

  set/class/video/img_00001.jpg ...    classes are the first of several folders above the images
  set/video/00001.png ...              no labels

Lists of such folders (mmaction2 and the TSN family: folder, first frame, number of frames, label; or any list whose
paths are folders) say so by `filename_tmpl`, which also leaves out images of another kind, such as flow beside frames.
"""

import os
import re
from collections.abc import Iterable, Sequence

from input_pipeline import storage
from input_pipeline.decode import BadVideo
from input_pipeline.formats.base import Table
from input_pipeline.frames import StoredFrames
from input_pipeline.stores.base import Request, tabulate
from input_pipeline.suffixes import IMAGE_SUFFIXES
from vfm.errors import UserError

# `filename_tmpl`: names of the images, e.g. "img_{:05}.jpg"; `fps`: frames a second, 0 = not known.
FRAME_OPTIONS = {"filename_tmpl": "", "fps": 0.0}
OPTIONS = {**FRAME_OPTIONS, "label": "label", "labels": ""}
_FIELD = re.compile(r"\{:?[^{}]*\}|%0?\d*d")
_NUMBER = re.compile(r"(\d+)")


def detect(path: str) -> bool:
    return False  # a folder of images may as well be one of single images: the config has to say


def read(request: Request) -> tuple[Table, "FrameFolders"]:
    top = str(storage.place(request.path))
    matches = _pattern(request.options["filename_tmpl"])
    folders = {
        os.path.dirname(file): None for file in storage.files_below(top) if matches(os.path.basename(file))
    }
    found = sorted(folders, key=_in_order)
    if not found:
        raise UserError(
            f"{request.key}='{request.path}': no folder in it holds images "
            f"{request.options['filename_tmpl'] or ' '.join(sorted(IMAGE_SUFFIXES))}; expected folders of frames"
        )
    parts = [folder[len(top) :].strip("/").split("/") for folder in found]
    columns = {"id": [part[-1] for part in parts]}
    if all(len(part) > 1 for part in parts):
        columns["label"] = [part[0] for part in parts]
    media = FrameFolders(found, **{name: request.options[name] for name in FRAME_OPTIONS})
    return tabulate(
        request._replace(column="caption"), found, columns
    ), media  # folders have no columns of texts


class FrameFolders:
    """Videos that are folders of images.

    Args:
      folders: local or remote.
      parts: (first frame, number of frames) of each, counted from 0; () = all that there are.
      filename_tmpl: names of the images; "" = every image.
      fps: frames a second, 0 = not known.
    """

    def __init__(
        self,
        folders: Sequence[str],
        parts: Sequence[tuple[int, int]] = (),
        filename_tmpl: str = "",
        fps: float = 0.0,
    ):
        self._folders, self._parts, self._template, self._fps = folders, parts, filename_tmpl, float(fps)
        _pattern(filename_tmpl)

    def __len__(self) -> int:
        return len(self._folders)

    def open(self, index: int) -> StoredFrames:
        folder, name = self._folders[index], self.name(index)
        matches = _pattern(self._template)
        try:
            images = sorted((file for file in _list(folder) if matches(file)), key=_in_order)
        except FileNotFoundError as error:
            raise BadVideo(name, "no such folder") from error
        except OSError as error:
            raise BadVideo(name, f"cannot be read ({error.strerror or error})") from error
        damage = ""
        if self._parts:
            first, count = self._parts[index]
            chosen = images[first : first + count]
            if len(chosen) < count:
                damage = f"the folder holds {len(chosen)} of the {count} frames from {first} on"
            images = chosen
        if not images:
            kind = f"called {self._template}" if self._template else "that are images"
            raise BadVideo(name, damage or f"the folder holds no files {kind}")

        def load(place: int) -> str | bytes:
            path = storage.join(folder, images[place])
            return storage.read(path) if storage.is_remote(path) else path

        return StoredFrames(name, load, len(images), self._fps, damage)

    def missing(self, indices: Iterable[int]) -> dict[int, str]:
        local = ((i, self._folders[i]) for i in indices)
        return {
            i: "no such folder"
            for i, folder in local
            if not storage.is_remote(folder) and not os.path.isdir(folder)
        }

    def name(self, index: int) -> str:
        folder = self._folders[index]
        if not self._parts or self._parts[index][0] == 0:
            return folder
        first, count = self._parts[index]
        return f"{folder}::frames {first}-{first + count - 1}"

    def stamp(self, index: int) -> str:
        return "" if storage.is_remote(self._folders[index]) else storage.stamp(self._folders[index])


def _list(folder: str) -> list[str]:
    if not storage.is_remote(folder):
        return os.listdir(folder)
    system, path = storage.filesystem(folder)
    return [os.path.basename(name) for name in storage.attempt(lambda: system.ls(path, detail=False))]


def _pattern(template: str):
    """Whether a file's name fits a template such as "img_{:05}.jpg" or "img_%05d.jpg"; without one: is an image's.

    Raises:
      UserError: there is no place for a number in it.
    """
    if not template:
        return lambda name: os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
    around = _FIELD.split(template)
    if len(around) != 2:
        raise UserError(f"filename_tmpl='{template}': expected one number in it, e.g. img_{{:05}}.jpg")
    return re.compile(rf"{re.escape(around[0])}\d+{re.escape(around[1])}").fullmatch


def _in_order(name: str) -> list[tuple[int, int, str]]:
    """Sorts names as people do: img_9 before img_10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _NUMBER.split(name) if part]

"""A small set of real mp4 files."""

from pathlib import Path

import numpy as np
import pytest

from configs.common import get_config
from input_pipeline import write_mp4

COUNT, FRAMES, HEIGHT, WIDTH = 12, 10, 24, 32


def pixels(index: int, frames: int = FRAMES) -> np.ndarray:
    """Frame t of video `index` is a ramp whose brightness tells index and t."""
    ramp = np.linspace(0, 60, WIDTH)[None, None, :, None]
    level = 10 * index + 5 * np.arange(frames)[:, None, None, None]
    return np.broadcast_to(ramp + level, (frames, HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.fixture(scope="session")
def video_set(tmp_path_factory) -> Path:
    """Folder with 0.mp4 ... 11.mp4 and train.csv (path, digit, motion, caption)."""
    folder = tmp_path_factory.mktemp("set of videos")
    rows = ["path,digit,motion,caption"]
    for i in range(COUNT):
        write_mp4(folder / f"{i}.mp4", pixels(i), 8, 12)
        rows.append(f'{i}.mp4,{i % 10},{i % 3},"number {i}, moving"')
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def data(video_set):
    """The configuration's `data`, for clips of 4 frames of 16 x 16 pixels."""
    data = get_config().data
    data.train = str(video_set / "train.csv")
    data.frames, data.stride, data.size, data.workers = 4, 2, 16, 0
    return data


@pytest.fixture(scope="session")
def annotations(shared) -> Path:
    """The folder of published annotation files."""
    return shared / "data" / "annotations"

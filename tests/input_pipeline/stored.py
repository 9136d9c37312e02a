"""Sets of videos in the stores that people have, made of the mp4 files of `video_set`."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from input_pipeline import read_frames
from input_pipeline.sources import Source


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_tar(path: Path, folder: Path, videos: list[int], form: int = tarfile.USTAR_FORMAT) -> None:
    """A WebDataset shard: number.mp4 and number.json of each video."""
    with tarfile.open(path, "w", format=form) as tar:
        for i in videos:
            fields = {"caption": f"number {i}", "label": i % 3, "duration": 1.25}
            add_member(tar, f"clips/{i:04d}.json", json.dumps(fields).encode())
            add_member(tar, f"clips/{i:04d}.mp4", (folder / f"{i}.mp4").read_bytes())


def frames_of(source: Source, index: int) -> np.ndarray:
    with source.open(index) as video:
        return video.read(range(video.num_frames))


def same_frames(source: Source, folder: Path, videos: list[int]) -> bool:
    """Whether the samples, read in a jumbled order, are the files `videos` of the folder, frame by frame."""
    assert len(source) == len(videos)
    order = np.random.default_rng(0).permutation(len(videos))
    return all(
        np.array_equal(frames_of(source, i), read_frames(folder / f"{videos[i]}.mp4", range(10)))
        for i in order
    )

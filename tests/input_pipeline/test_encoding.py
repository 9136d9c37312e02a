"""Encoding: the same frames give the same bytes, whatever the process did before."""

import numpy as np
import pytest

from input_pipeline import write_mp4
from input_pipeline.decode import Video
from input_pipeline.encode import Encoding, encode_stream

from .odd import make, moving


def disturb(folder, number: int) -> None:
    """Leaves another picture in the memory that encoders are given next."""
    path = make(
        folder / "other.mkv",
        count=8 + number % 3,
        options={"crf": str(10 + 3 * number), "mbtree": "1"},
        clock=25,
    )
    with Video(path) as video:
        video.read(range(video.num_frames))


@pytest.mark.parametrize("size", [(48, 64), (64, 64), (112, 112)])
@pytest.mark.parametrize("codec", ["written", "h264", "hevc", "mjpeg"])
def test_the_same_frames_give_the_same_bytes(tmp_path, codec, size):
    frames, found = moving(24, *size), set()
    for number in range(8):
        disturb(tmp_path, number)
        if codec == "written":
            write_mp4(tmp_path / "a.mp4", frames)
            found.add((tmp_path / "a.mp4").read_bytes())
        else:
            found.add(encode_stream([frames], np.arange(24) / 25, Encoding(codec=codec))[0])
    assert len(found) == 1

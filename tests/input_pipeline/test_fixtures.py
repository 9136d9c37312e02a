"""Frames, times and sound equal what other decoders made of the same files."""

import io
import json
import pickle
import zipfile

import av
import numpy as np
import pytest

from input_pipeline import read_frames
from input_pipeline.decode import Video


class _Tensors(pickle.Unpickler):
    """Of a file that torch saved, how its one uint8 tensor lies in which storage: no other thing can be named."""

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if (module, name) in (("torch", "ByteStorage"), ("collections", "OrderedDict")):
            return dict
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, place):
        return place[2]  # ("storage", type, key, device, size)


def tensor(path) -> np.ndarray:
    """A uint8 tensor [H, W, 3] as torch.save wrote it."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        storage, offset, shape, strides = _Tensors(io.BytesIO(archive.read(names["data.pkl"]))).load()
        assert (offset, strides) == (0, (shape[1] * 3, 3, 1))
        return np.frombuffer(archive.read(names[f"data/{storage}"]), np.uint8).reshape(shape)


@pytest.mark.parametrize(
    ("file", "stream", "index"),
    [
        ("nasa_13013.mp4", 0, 0),
        ("nasa_13013.mp4", 0, 9),
        ("nasa_13013.mp4", 0, 35),
        ("nasa_13013.mp4", 3, 0),
        ("nasa_13013.mp4", 3, 35),
        ("nasa_13013.mp4", 3, 389),
        ("h265_video.mp4", 0, 5),
        ("av1_video.mkv", 0, 10),
    ],
)
def test_frames_equal_those_of_torchcodec(shared, file, stream, index):
    folder = shared / "data" / "torchcodec"
    expected = tensor(folder / "fixtures" / f"{file}.stream{stream}.frame{index:06d}.pt")
    with Video(
        folder / file, stream=min(stream, 1)
    ) as video:  # the file's stream 3 is its second of pictures
        assert np.array_equal(video.read([index])[0], expected)
        assert np.array_equal(video.read([index, 2, 300])[0], expected)  # however it is come by


def test_the_frame_at_a_time_equals_that_of_torchcodec(shared):
    """The fixture is the first frame that begins at 6 s or later; at 6 s the one before is still shown."""
    folder = shared / "data" / "torchcodec"
    expected = tensor(folder / "fixtures" / "nasa_13013.mp4.time6.000000.pt")
    with Video(folder / "nasa_13013.mp4", stream=1) as video:
        index = int(np.searchsorted(video.times, 6.0))
        begins, ends = video.times[index : index + 2]
        assert 6.0 < begins < 6.04
        for seconds in (begins, (begins + ends) / 2, ends - 1e-4):
            assert np.array_equal(video.read_times([seconds])[0], expected)
        before = video.read([index - 1])
        assert np.array_equal(video.read_times([6.0]), before) and not np.array_equal(before[0], expected)
        assert np.array_equal(video.read_times([-1.0, 1e9]), video.read([0, video.num_frames - 1]))


@pytest.mark.parametrize("stream", [0, 3])
def test_times_equal_those_of_torchcodec(shared, stream):
    folder = shared / "data" / "torchcodec"
    rows = json.loads(
        (folder / "fixtures" / f"nasa_13013.mp4.stream{stream}.all_frames_info.json").read_text()
    )
    expected = np.array([float(row["pts_time"]) for row in rows])
    with Video(folder / "nasa_13013.mp4", stream=min(stream, 1)) as video:
        assert np.allclose(video.times, expected - expected[0], atol=1e-6)
        assert video.frames_between(1.0, 2.0) == (
            int(np.sum(video.times < 1 - 1e-6)),
            int(np.sum(video.times < 2 - 1e-6)),
        )


def test_the_first_frame_equals_that_of_pims(shared):
    folder = shared / "data" / "pims"
    expected = np.load(folder / "fixtures" / "bulk-water_frame0.npy")
    assert np.array_equal(read_frames(folder / "bulk-water.mov", [0])[0], expected)


@pytest.mark.parametrize("file", ["h264_10bits.mp4", "h265_10bits.mp4"])
def test_ten_bits_are_reduced_within_one(shared, file):
    """Against the formula of BT.601 (which these files do not deny) in float64, where colour is even."""
    path = shared / "data" / "torchcodec" / file
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert frame.format.name == "yuv420p10le"
    y, u, v = (
        np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width].astype(np.float64)
        for plane in frame.planes
    )
    even = np.ones(u.shape, bool)
    for c in (u, v):
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            even &= c == np.roll(c, shift, axis)
    even = np.kron(even, np.ones((2, 2), bool)).astype(bool)
    y = (y / 4 - 16) * 255 / 219
    u, v = ((np.kron(c, np.ones((2, 2))) / 4 - 128) * 255 / 224 for c in (u, v))
    red, blue = y + 1.402 * v, y + 1.772 * u
    green = y - 0.114 * 1.772 / 0.587 * u - 0.299 * 1.402 / 0.587 * v
    expected = np.clip(np.stack([red, green, blue], -1), 0, 255)
    error = np.abs(read_frames(path, [0])[0] - expected)[even]
    assert len(error) > 5_000 and error.max() <= 1

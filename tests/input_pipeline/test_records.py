"""Records of prepared sets: what is written is what is read, and what is damaged is noticed."""

import errno
import json
import os
import pickle
import resource
import signal

import numpy as np
import pytest

from input_pipeline import BadVideo
from input_pipeline.decode import Video
from input_pipeline.encode import Encoding, encode_stream
from input_pipeline.packets import PacketVideo
from input_pipeline.records import Record, pack, read_record, unpack, write_shard
from input_pipeline.transforms import Window, whole_window
from tests.input_pipeline.conftest import pixels
from vfm.errors import UserError


def moving(frames: int = 30, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth pattern that moves, with noise that no encoder can leave out."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([128 + 80 * np.sin((x + 2 * t) / 9 + y / 13) for t in range(frames)])
    noisy = waves[..., None] + rng.normal(0, 4, (frames, height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def encoded(frames: np.ndarray, times=None, **settings) -> tuple[bytes, PacketVideo]:
    times = np.arange(len(frames)) / 25 if times is None else times
    data, stream = encode_stream([frames[:7], frames[7:]], times, Encoding(**settings))
    return data, PacketVideo(data, stream, "clip")


@pytest.mark.parametrize(
    ("codec", "crf", "shape"), [("h264", 18, (48, 64)), ("hevc", 20, (47, 65)), ("mjpeg", 3, (48, 64))]
)
def test_packets_give_the_pixels_that_the_file_gives(codec, crf, shape):
    frames = moving()[:, : shape[0], : shape[1]]
    frames = np.pad(
        frames, [(0, 0), (0, shape[0] - frames.shape[1]), (0, shape[1] - frames.shape[2]), (0, 0)], "edge"
    )
    data, video = encoded(frames, codec=codec, crf=crf, gop=8)
    with video, Video(data) as file:
        whole = video.read(range(30))
        assert video.num_frames == file.num_frames == 30 and video.size == shape
        np.testing.assert_array_equal(whole, file.read(range(30)))
        error = np.abs(whole.astype(int) - frames).mean()
        assert error < 6, f"mean error {error}"
        # Any order, repeats, seeking over groups, beyond the end.
        np.testing.assert_array_equal(video.read([29, 3, 3, 17, 99]), whole[[29, 3, 3, 17, 29]])


def test_frames_are_resized_and_cut_as_the_decoder_of_files_does():
    data, video = encoded(moving())

    def window_of(height: int, width: int) -> Window:
        return Window(height // 2, width // 2, 3, 5, 16, 20)

    with video, Video(data) as file:
        np.testing.assert_array_equal(video.read([4, 20], window_of), file.read([4, 20], window_of))


def test_only_packets_from_the_last_key_frame_on_are_decoded():
    data, video = encoded(moving(), gop=5)
    read = []
    packet = video._packet
    video._packet = lambda index: read.append(index) or packet(index)
    video.read([2, 13, 14, 27])
    assert read == [0, 1, 2, 10, 11, 12, 13, 14, 25, 26, 27]


def test_uneven_times_are_kept():
    times = np.array([0, 0.1, 0.15, 0.4, 1.0])
    _, video = encoded(moving(5), times)
    np.testing.assert_allclose(video.times, times, atol=1e-5)
    assert video.frames_between(0.1, 0.4) == (1, 3)
    assert video.fps == pytest.approx(4) and video.duration == pytest.approx(1.25)
    np.testing.assert_array_equal(video.read_times([0.12, 0.39, 5]), video.read([1, 2, 4]))
    with pytest.raises(BadVideo, match=r"ends after 1\.25 s, before start_time=2"):
        video.frames_between(2, 3)


def test_smaller_groups_and_larger_factors_change_the_bytes_as_they_should():
    still = moving(1).repeat(30, axis=0)
    sizes = {s: len(encoded(still, gop=s[0], crf=s[1])[0]) for s in ((1, 18), (8, 18), (8, 30))}
    assert sizes[1, 18] > sizes[8, 18] > sizes[8, 30]
    assert encoded(moving())[0] == encoded(moving())[0]


@pytest.mark.parametrize(
    "settings", [dict(codec="vp9"), dict(gop=0), dict(crf=60), dict(codec="mjpeg", crf=40)]
)
def test_impossible_encodings_are_the_users_errors(settings):
    with pytest.raises(UserError, match="expected"):
        Encoding(**settings)


def record() -> Record:
    data, stream = encode_stream([moving(9)], np.arange(9) / 8, Encoding(gop=4))
    samples = [{"id": 3, "labels": {"label": 1}, "captions": ["a wave\u2028", "ein Ö"]}]
    return Record("waves/1.mp4", samples, data, stream, span=(1.5, None), damage="cut off")


def test_a_record_gives_back_what_went_in():
    found = unpack(pack(record()))
    assert (found.name, found.samples, found.span, found.damage) == (
        "waves/1.mp4",
        record().samples,
        (1.5, None),
        "cut off",
    )
    assert bytes(found.data) == record().data and pack(found) == pack(record())
    with found.open() as video:
        assert video.damage == "cut off" and video.num_frames == 9
        np.testing.assert_array_equal(video.read([8]), record().open().read([8]))


@pytest.mark.parametrize("place", [1, 40, 90, -100])
def test_a_changed_byte_is_noticed(place):
    data = bytearray(pack(record()))
    data[place] ^= 1
    with pytest.raises(BadVideo, match="checksum|no record"):
        unpack(bytes(data), "x")


def test_files_that_are_packed_as_they_are_are_not_listed_again(video_set):
    """What the record says about its frames counts, even where it says that there is one less."""
    with Video(video_set / "3.mp4") as video:
        listing, expected = video.listing, video.read([0, 7])
        assert video.content() == (video_set / "3.mp4").read_bytes()
        short = listing._replace(times=listing.times[:-1], num_frames=9)
        packed = pack(Record("3.mp4", [], video.content(), short))
    with unpack(packed).open() as video:
        assert video.num_frames == 9
        np.testing.assert_array_equal(video.read([0, 7]), expected)


def test_shards_are_read_by_number_and_damage_is_named(tmp_path):
    path = tmp_path / "a.array_record"
    written = [pack(Record(f"{i}", [{"id": i}], bytes([i]) * 200_000, record().video)) for i in range(5)]
    write_shard(path, iter(written))
    assert [read_record(path, i).samples[0]["id"] for i in (4, 0, 2)] == [4, 0, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.array_record"]
    with pytest.raises(BadVideo, match="record 5 of"):
        read_record(path, 5)
    damaged = bytearray(path.read_bytes())
    damaged[500_000] ^= 255
    (tmp_path / "b.array_record").write_bytes(damaged)
    reasons = []
    for i in range(5):
        try:
            read_record(tmp_path / "b.array_record", i, f"clip {i}")
        except BadVideo as error:
            reasons.append(str(error))
    assert len(reasons) == 1 and reasons[0].startswith("clip 2: record 2 of")
    with pytest.raises(BadVideo, match="no such file"):
        read_record(tmp_path / "none.array_record", 0)


def test_a_shard_that_cannot_be_finished_leaves_nothing(tmp_path):
    def broken():
        yield b"first"
        raise UserError("no more")

    with pytest.raises(UserError):
        write_shard(tmp_path / "a.array_record", broken())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError) as raised:
            write_shard(tmp_path / "a.array_record", (os.urandom(50_000) for _ in range(40)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG and raised.value.filename.endswith("a.array_record")
    assert not list(tmp_path.iterdir())


def test_readers_are_not_part_of_what_is_pickled(tmp_path):
    from input_pipeline.stores.prepared import Records

    write_shard(tmp_path / "a.array_record", iter([pack(record())]))
    media = Records([str(tmp_path / "a.array_record")], ["w", "x"], np.array([[0, 0], [-1, -1]]), {1: "gone"})
    with media.open(0) as video:
        expected = video.read([3], lambda h, w: whole_window(12, 12))
    copy = pickle.loads(pickle.dumps(media))
    with copy.open(0) as video:
        np.testing.assert_array_equal(video.read([3], lambda h, w: whole_window(12, 12)), expected)
    assert copy.missing([0, 1]) == {1: "gone"} and copy.stamp(0) and json.dumps(copy.name(0)) == '"w"'
    with pytest.raises(BadVideo, match="gone"):
        copy.open(1)


def test_pixels_of_the_set_survive(video_set):
    """The level of each frame of the small set, which tells which frame it is."""
    frames = np.repeat(np.repeat(pixels(2), 2, 1), 2, 2)
    _, video = encoded(frames)
    levels = video.read(range(len(frames))).mean((1, 2, 3))
    np.testing.assert_allclose(levels, frames.mean((1, 2, 3)), atol=1.5)

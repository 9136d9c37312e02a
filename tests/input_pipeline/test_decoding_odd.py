"""Videos that were cut, trimmed or put together oddly: every frame is the one that decoding from the start gives."""

import io

import av
import numpy as np
import pytest

from input_pipeline import BadVideo
from input_pipeline.backends import _Frames
from input_pipeline.clips import Part
from input_pipeline.container import Container
from input_pipeline.decode import FewerFrames, Video

from .odd import STEP, decoded, hidden, make, moving, remux

B_FRAMES = {"g": "10", "bf": "3"}
OPEN_GROUPS = {"x265-params": "keyint=10:open-gop=1:bframes=3:cutree=0:log-level=none"}


def check_all(path, expected=None) -> Video:
    """Frames read at once and one by one, each by a new reader, and their times, are those of decoding it all."""
    frames, times = decoded(path)
    frames = frames if expected is None else expected
    with Video(path) as video:
        assert video.num_frames == len(frames) and not video.damage
        assert np.array_equal(video.read(range(len(frames))), frames)
        if None not in times and (np.diff(times) > 0).all():
            assert np.allclose(video.times, np.array(times) - times[0], atol=1e-3)
    for i in (*range(0, len(frames), 7), len(frames) - 1):
        with Video(path) as video:
            assert np.array_equal(video.read([i])[0], frames[i]), f"frame {i}"
    return video


@pytest.mark.parametrize("kind", ["ts", "mkv", "mp4"])
@pytest.mark.parametrize(
    ("codec", "options", "dropped"), [("libx264", B_FRAMES, 4), ("libx265", OPEN_GROUPS, 10)]
)
def test_films_cut_where_no_frame_can_be_decoded_alone_begin_with_the_first_that_decodes(
    tmp_path, kind, codec, options, dropped
):
    """Recordings of television begin anywhere; cut by key frames, HEVC's open groups lose their leading frames."""
    whole = make(tmp_path / "whole.mp4", codec, options=options)
    path = remux(whole, tmp_path / f"cut.{kind}", lambda i, packet: packet if i >= dropped else None)
    check_all(path)


def test_program_streams_that_begin_anywhere(tmp_path):
    whole = make(tmp_path / "whole.mpg", "mpeg2video", options={"g": "10", "bf": "2"}, clock=25).read_bytes()
    (tmp_path / "cut.mpg").write_bytes(whole[len(whole) // 7 :])
    check_all(tmp_path / "cut.mpg")


@pytest.mark.parametrize(("kind", "codec"), [("ts", "libx264"), ("mpg", "mpeg2video"), ("flv", "libx264")])
def test_seeking_works_in_containers_that_find_decoding_times(tmp_path, monkeypatch, kind, codec):
    path = make(tmp_path / f"a.{kind}", codec, 200, options={"g": "10", "bf": "2"}, clock=25)
    every, _ = decoded(path)
    seen = []
    frames = Container.frames
    monkeypatch.setattr(
        Container, "frames", lambda self, wanted=None: (seen.append(f) or f for f in frames(self, wanted))
    )
    with Video(path) as video:
        assert np.array_equal(video.read([195, 111]), every[[195, 111]])
    assert len(seen) < 90  # of 200, most of which lie before the two


def test_avi_has_no_times_of_presentation(tmp_path):
    expected, _ = decoded(make(tmp_path / "a.mkv", options=B_FRAMES, clock=25))
    check_all(make(tmp_path / "a.avi", options=B_FRAMES, clock=25), expected)
    with Video(make(tmp_path / "xvid.avi", "mpeg4", options={"g": "10", "bf": "2"}, clock=25)) as video:
        assert video.listing.times is not None  # of these FFmpeg finds them: they can be sought
    check_all(tmp_path / "xvid.avi")


def test_times_may_begin_below_zero(tmp_path):
    options, kept = {"g": "5", "bf": "0"}, {"avoid_negative_ts": "disabled"}
    path = make(tmp_path / "a.mkv", count=30, first=-500, options=options, container=kept)
    assert len(decoded(path)[0]) == 30
    check_all(path)


def test_a_film_that_an_edit_list_trims_is_not_damaged(tmp_path):
    """As telephones trim: the frames before stay in the file."""
    kept = {"avoid_negative_ts": "disabled"}
    path = make(tmp_path / "a.mp4", count=30, first=-500, options={"g": "5"}, container=kept)
    assert len(decoded(path)[0]) == 17
    check_all(path)


def test_packets_without_a_frame_are_found_out(tmp_path):
    whole = make(tmp_path / "whole.webm", "libvpx", options={"g": "9"})
    path = remux(whole, tmp_path / "a.mkv", hidden)
    every, times = decoded(path)
    assert len(every) == 58
    with Video(path) as video:
        with pytest.raises(FewerFrames, match="only 58 of 60 frames decode"):
            video.read([0, 21, 30])
        assert video.num_frames == 58 and np.allclose(video.times, np.array(times) - times[0], atol=1e-3)
        for wanted in ([25], [0, 20, 57], range(58)):
            assert np.array_equal(video.read(wanted), every[list(wanted)])
    with Part(Video(path), 0.7, 2.0) as part:
        assert part.num_frames == 32
        with pytest.raises(FewerFrames):
            part.read(range(part.num_frames))
        first, stop = np.searchsorted(times, [0.7, 2.0])
        assert part.num_frames == 30
        assert np.array_equal(part.read(range(30)), every[first:stop])


def test_times_that_go_backwards_change_no_order(tmp_path):
    def swapped(i: int, packet: av.Packet) -> av.Packet:
        packet.pts, packet.dts = {3: 5, 4: 3, 5: 4}.get(i, i) * STEP, i
        return packet

    path = remux(make(tmp_path / "a.webm", "libvpx", 12), tmp_path / "a.mkv", swapped)
    assert [round(1000 * time) for time in decoded(path)[1]][:7] == [0, 40, 80, 200, 120, 160, 240]
    check_all(path)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.gif", "gif", "rgb8"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.mov", "qtrle", "rgb24"),
        ("a.avi", "mjpeg", "yuvj420p"),  # of whose 800 places most say that nothing has changed
    ],
)
def test_other_kinds_of_files(tmp_path, name, codec, pixels):
    check_all(make(tmp_path / name, codec, 20, pixels=pixels))


@pytest.mark.parametrize("full", [False, True])
def test_colours_follow_the_matrix_and_range_of_the_file(tmp_path, full):
    """Against the formula of BT.709 in float64, where colour is even."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 2 if full else 1
        planes = np.stack([np.full((48, 64), value, np.uint8) for value in (120, 90, 170)])
        file.mux(stream.encode(av.VideoFrame.from_ndarray(planes, "yuv444p")))
        file.mux(stream.encode(None))
    y, u, v = (
        (120, 90 - 128, 170 - 128) if full else ((120 - 16) * 255 / 219, -38 * 255 / 224, 42 * 255 / 224)
    )
    red, blue = y + 1.5748 * v, y + 1.8556 * u
    expected = red, (y - 0.2126 * red - 0.0722 * blue) / 0.7152, blue
    with Video(path) as video:
        assert np.abs(video.read([0])[0] - np.array(expected)).max() <= 1.5


def test_pictures_attached_to_a_film_are_not_the_film(tmp_path):
    with av.open(str(make(tmp_path / "a.mp4", count=8))) as old, av.open(str(tmp_path / "b.mp4"), "w") as new:
        film = old.streams.video[0]
        cover = new.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt, cover.disposition = 48, 64, "yuvj420p", 0x400
        copied = new.add_stream_from_template(film)
        new.mux(cover.encode(av.VideoFrame.from_ndarray(moving(9)[-1], "rgb24")) + cover.encode(None))
        for packet in old.demux(film):
            if packet.size:
                packet.stream = copied
                new.mux(packet)
    with Video(tmp_path / "b.mp4") as video:
        assert np.array_equal(video.read(range(8)), decoded(tmp_path / "a.mp4")[0])


class _Failing(io.BytesIO):
    """A file that cannot be read any more after so many bytes."""

    left = 0

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        self.left -= len(data)
        if self.left < 0:
            raise OSError("the server is gone")
        return data

    def readinto(self, buffer) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def test_a_file_that_cannot_be_read_on_is_a_bad_video(tmp_path):
    whole = make(tmp_path / "a.mp4", options={"g": "10"}).read_bytes()
    for left in (0, 100, len(whole) + 10):
        file = _Failing(whole)
        file.left = left
        with pytest.raises(BadVideo, match="row 3: "):
            with Video(file, "row 3") as video:
                video.read([video.num_frames - 1])
    file.close()
    with pytest.raises(BadVideo, match="row 3: cannot be read"):
        Video(file, "row 3")


def test_reasons_of_other_decoders_are_not_wrapped(tmp_path):
    class Other(_Frames):
        def _decode(self, indices):
            raise BadVideo(self.path, "counts other frames; use pyav")

    with Other(make(tmp_path / "a.mp4", count=4)) as video:
        with pytest.raises(BadVideo) as raised:
            video.read([0])
    assert raised.value.reason == "counts other frames; use pyav"

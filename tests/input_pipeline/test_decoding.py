"""Real files give the frames that they hold, upright; broken ones a reason."""

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import BadVideo, read_frames, write_mp4
from input_pipeline.clips import Recipe, evaluation_views, training_clips
from input_pipeline.decode import FewerFrames, Video
from input_pipeline.transforms import Window

from .conftest import FRAMES, HEIGHT, WIDTH, pixels


def level(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1).mean(1)


def test_written_files_are_read_back_the_same_every_time(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, pixels(3), fps=8, crf=10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with Video(tmp_path / "a.mp4") as video:
        assert video.num_frames == FRAMES and video.fps == 8
        assert np.abs(video.read(range(FRAMES)).astype(int) - pixels(3)).max() <= 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (31, 33), (16, 30)])
def test_tiny_and_odd_sizes_can_be_written(tmp_path, shape):
    write_mp4(tmp_path / "a.mp4", np.full((3, *shape, 3), 90, np.uint8))
    frames = read_frames(tmp_path / "a.mp4", [0, 1, 2])
    assert frames.shape == (3, *shape, 3) and np.abs(frames.astype(int) - 90).max() <= 3


def test_what_is_no_clip_cannot_be_written(tmp_path):
    for frames in (np.zeros((2, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            write_mp4(tmp_path / "a.mp4", frames)
    assert not list(tmp_path.iterdir())


def test_frames_come_in_the_order_asked_for_across_key_frames(tmp_path):
    frames = pixels(0, 40)
    write_mp4(tmp_path / "a.mp4", frames, crf=10, keyframe_interval=8)
    with Video(tmp_path / "a.mp4") as video:
        every = video.read(range(40))
        for wanted in ([39], [0], [20, 3, 3, 39, 21], [16, 8, 0], [7, 30]):
            assert (video.read(wanted) == every[wanted]).all()
        assert (video.read([-5, 45]) == every[[0, 39]]).all()  # clamped
    assert np.abs(level(every) - level(frames)).max() < 3


def test_bytes_and_open_files_give_the_same_frames(tmp_path):
    write_mp4(tmp_path / "a.mp4", pixels(1, 20), keyframe_interval=4)
    expected = read_frames(tmp_path / "a.mp4", [19, 0, 7])
    whole = (tmp_path / "a.mp4").read_bytes()
    with Video(whole, "shard.tar::a.mp4") as video:
        assert video.path == "shard.tar::a.mp4" and (video.read([19, 0, 7]) == expected).all()
    with open(tmp_path / "a.mp4", "rb") as file:
        file.seek(100)  # wherever it stands
        with Video(file) as video:
            assert video.path == str(tmp_path / "a.mp4") and (video.read([19, 0, 7]) == expected).all()
        assert not file.closed
    for damaged, reason in ((b"", "the file is empty"), (b"no video" * 99, "cannot be opened as a video")):
        with pytest.raises(BadVideo, match=f"row 3: {reason}"):
            Video(damaged, "row 3")


def test_the_decoder_resizes_and_cuts(tmp_path):
    write_mp4(tmp_path / "a.mp4", pixels(5), crf=10)
    seen = []

    def window_of(height, width):
        seen.append((height, width))
        return Window(12, 16, 2, 4, 8, 6)

    frames = read_frames(tmp_path / "a.mp4", [0, 4], window_of)
    assert seen == [(HEIGHT, WIDTH)] and frames.shape == (2, 8, 6, 3)
    assert np.abs(level(frames) - level(pixels(5)[[0, 4], :, 8:20])).max() < 5


def test_files_that_are_no_video_give_a_reason(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    for name, reason in [
        ("none.mp4", "no such file"),
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "cannot be opened as a video"),
        (".", "not a file"),
    ]:
        with pytest.raises(BadVideo, match=reason):
            read_frames(tmp_path / name, [0])


def test_a_cut_off_file_gives_what_is_there_and_says_so(tmp_path, data):
    rng = np.random.default_rng(0)
    write_mp4(tmp_path / "a.mp4", rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), keyframe_interval=1)
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with Video(tmp_path / "half.mp4") as video:
        assert 15 < video.num_frames < 25
        assert training_clips(video, Recipe.from_config(data), [rng])[0].shape == (4, 16, 16, 3)
        assert video.damage.startswith(f"the file ends after {video.num_frames} of 40 frames")
    frames = read_frames(tmp_path / "half.mp4", [38, 39])
    assert (frames[0] == frames[1]).all()  # the last that is there


def test_reasons_travel_between_processes():
    error = pickle.loads(pickle.dumps(BadVideo("a.mp4", "is broken")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "is broken", "a.mp4: is broken")


# Real files


def real_files(shared: Path) -> list[dict[str, str]]:
    with open(shared / "data" / "clips.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_real_file_gives_its_frames_or_a_reason(shared, data):
    """Frame counts, sizes and rotation as stated; clips and views of each; the malformed say why."""
    with data.unlocked():
        data.size = 32
    recipe = Recipe.from_config(data)
    readable, reasons = 0, {}
    for row in real_files(shared):
        try:
            with Video(shared / "data" / row["file"]) as video:
                height_width = []

                def window_of(height, width, seen=height_width):
                    seen.append((height, width))
                    return recipe.evaluation_windows(height, width, 1)[0]

                assert video.read([0], window_of).shape == (1, 32, 32, 3)
                clip = training_clips(video, recipe, [np.random.default_rng(0)])[0]
                assert clip.shape == (4, 32, 32, 3) and clip.dtype == np.uint8
                shape, rotation = video.size, video.rotation
                if video.num_frames < 64:
                    assert evaluation_views(video, recipe, 2, 3).shape == (6, 4, 32, 32, 3)
                count = video.num_frames
        except BadVideo as error:
            reasons[row["file"]] = error.reason
            continue
        readable += 1
        if row["frames_decoded"] != "28":  # damaged in the middle: 28 of 50
            assert count == int(row["frames_decoded"]), row["file"]
        if row["width"] not in ("", "-"):
            size = int(row["height"]), int(row["width"])
            turned = abs(int(row["rotation"] or 0)) == 90
            assert height_width[0] == shape == (size[::-1] if turned else size), row["file"]
            assert rotation == int(row["rotation"] or 0) % 360, row["file"]
    assert readable == sum(row["frames_decoded"] not in ("", "0") for row in real_files(shared))
    assert set(reasons) == {row["file"] for row in real_files(shared) if row["frames_decoded"] == "0"}
    assert "12336x12336" in reasons["malformed/libwebm/invalid_vp9_bitstream-bug_1416.webm"]
    assert reasons["malformed/androidx_media/sample_audio_only.mp4"] == "has no video stream"
    assert "although there is no error" in reasons["malformed/libwebm/fixed_lacing_bad_lace_size.mkv"]


def test_a_file_damaged_in_the_middle_gives_what_decodes_and_says_so(shared, data):
    with Video(shared / "data/malformed/decord/corrupted.mp4") as video:
        assert (video.num_frames, video.damage) == (50, "")  # what its packets promise
        with pytest.raises(FewerFrames, match="only 28 of 50 frames decode"):
            video.read(range(50))
        assert video.num_frames == 28 and video.read(range(28)).shape[0] == 28
        assert "only 28 of 50 frames decode (Invalid data" in video.damage


def test_rotated_files_come_out_upright(shared):
    stored = {}
    for angle in (0, 90, 180, 270):
        stored[angle] = read_frames(shared / "data/decord" / f"video_{angle}.mov", [0])[0].shape[:2]
    assert stored == {0: (320, 568), 90: (568, 320), 180: (320, 568), 270: (568, 320)}


@pytest.mark.parametrize("name", ["sample.flv", "sample.mkv"])
def test_a_rate_that_is_that_of_the_clock_is_taken_from_the_frames(shared, name):
    """FFmpeg says 1000 a second of files of 30, whose times are in milliseconds."""
    with Video(shared / "data" / "androidx_media" / name) as video:
        assert video.fps == pytest.approx(30, rel=0.005)
        assert video.fps == pytest.approx(video.num_frames / video.duration)

"""Batch k is a function of seed and k: whatever the hosts, workers, restarts, cache and broken files."""

import hashlib
import os
import resource

import numpy as np
import pytest

from input_pipeline import batch_shapes, eval_batches, train_batches, write_mp4
from input_pipeline import cache as cache_module
from vfm.errors import UserError

from .conftest import COUNT, pixels


def take(data, count, rows=None, batch_size=8, seed=3, start=0) -> list[dict[str, np.ndarray]]:
    with train_batches(data, batch_size=batch_size, seed=seed, start_step=start, rows=rows) as batches:
        return [next(batches) for _ in range(count)]


def fingerprint(batch: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(batch):
        digest.update(f"{name} {batch[name].dtype} {batch[name].shape}".encode() + batch[name].tobytes())
    return digest.hexdigest()


def joined(parts: list[list[dict[str, np.ndarray]]]) -> list[str]:
    """Fingerprints of global batches put together from those of hosts."""
    return [
        fingerprint({name: np.concatenate([part[name] for part in step]) for name in step[0]})
        for step in zip(*parts, strict=True)
    ]


def broken(data, video_set, tmp_path, places) -> None:
    """Points `data` at the same list with some files replaced by text."""
    lines = (video_set / "train.csv").read_text().splitlines()
    for i in range(COUNT):
        if i in places:
            (tmp_path / f"{i}.mp4").write_text("no video")
        else:
            os.symlink(video_set / f"{i}.mp4", tmp_path / f"{i}.mp4")
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    data.train = str(tmp_path / "train.csv")


def test_a_batch_holds_what_it_says(data):
    batch = take(data, 1)[0]
    assert batch["video"].shape == (8, 4, 16, 16, 3) and batch["video"].dtype == np.uint8
    assert {name: (a.shape, a.dtype) for name, a in batch.items() if name != "video"} == {
        name: ((8,), np.dtype(np.int32)) for name in ("label", "digit", "motion", "id")
    }
    assert (batch["label"] == batch["id"] % 10).all() and (batch["motion"] == batch["id"] % 3).all()
    for video, i in zip(batch["video"], batch["id"], strict=True):  # the pixels are those of the file
        first = video[0].mean() - pixels(i)[0].mean()
        assert -25 < first < 60


def hosts_of(data, hosts, count, start=0) -> list[str]:
    """Fingerprints of global batches that so many hosts read."""
    size = 8 // hosts
    return joined([take(data, count, slice(h * size, (h + 1) * size), start=start) for h in range(hosts)])


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_global_batches_depend_neither_on_hosts_nor_workers_nor_where_a_run_resumes(data, hosts, workers):
    data.flip, data.crop = True, "multiscale"
    expected = [fingerprint(batch) for batch in take(data, 6)]
    data.workers = workers
    stop = int(np.random.default_rng((hosts, workers)).integers(1, 5))
    assert hosts_of(data, hosts, stop) == expected[:stop]
    data.workers = 0
    assert hosts_of(data, {1: 2, 2: 4, 4: 1}[hosts], 6 - stop, stop) == expected[stop:]


@pytest.mark.parametrize("cache", [False, True])
def test_starting_at_a_step_equals_going_there(data, cache):
    data.cache = cache
    whole = take(data, 7)
    assert [fingerprint(b) for b in take(data, 3, start=4)] == [fingerprint(b) for b in whole[4:]]
    far = take(data, 1, start=10**9)
    assert fingerprint(far[0]) == fingerprint(take(data, 1, start=10**9)[0])


def test_every_video_is_shown_once_an_epoch_in_a_new_order(data):
    ids = np.concatenate([batch["id"] for batch in take(data, 3 * COUNT // 8 + 1, batch_size=8)])
    epochs = ids[: 3 * COUNT].reshape(3, COUNT)
    assert (np.sort(epochs, 1) == np.arange(COUNT)).all()
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    other = np.concatenate([batch["id"] for batch in take(data, 2, seed=4)])
    assert (other != ids[: len(other)]).any()


@pytest.mark.parametrize("rows", [slice(0, 8), slice(2, 6), slice(3, 4)])
def test_several_clips_of_a_video_stand_beside_each_other_and_differ(data, rows):
    data.clips_per_video = 2
    with train_batches(data, batch_size=8, seed=3) as batches:
        assert batches.num_examples == 2 * COUNT
        first = next(batches)
    assert (first["id"][::2] == first["id"][1::2]).all() and len(set(first["id"].tolist())) == 4
    assert (first["video"][::2] != first["video"][1::2]).any()
    assert first["clip"].tolist() == [0, 1] * 4
    shapes = {name: (array.shape, array.dtype) for name, array in first.items()}
    assert batch_shapes(data, 8).items() <= shapes.items() and "clip" in batch_shapes(data, 8)
    part = take(data, 1, rows)[0]
    assert all((part[name] == first[name][rows]).all() for name in first)


@pytest.mark.parametrize("workers", [0, 2])
def test_videos_that_break_later_are_replaced_the_same_way_everywhere_and_named(
    data, video_set, tmp_path, workers
):
    broken(data, video_set, tmp_path, {1, 5})
    data.max_bad_fraction, data.check = 0.5, False
    expected = take(data, 4)
    data.workers = workers
    with train_batches(data, batch_size=8, seed=3, start_step=0, rows=slice(4, 8)) as batches:
        half = [next(batches) for _ in range(4)]
        named = {os.path.basename(entry["path"]): entry["reason"] for entry in batches.bad_files}
    assert set(named) <= {"1.mp4", "5.mp4"} and named
    assert all("cannot be opened as a video" in reason for reason in named.values())
    for whole, part in zip(expected, half, strict=True):
        assert fingerprint({name: array[4:] for name, array in whole.items()}) == fingerprint(part)
    ids = np.concatenate([batch["id"] for batch in expected])
    assert not {1, 5} & set(ids.tolist())
    intact = {int(i) for i in range(COUNT)} - {1, 5}
    assert intact <= set(ids.tolist())


@pytest.mark.parametrize(
    ("workers", "cache", "check"), [(0, False, False), (1, False, False), (0, True, False), (0, False, True)]
)
def test_too_many_broken_videos_end_the_run(data, video_set, tmp_path, workers, cache, check):
    broken(data, video_set, tmp_path, {1, 5})
    data.workers, data.cache, data.check = workers, cache, check
    with pytest.raises(UserError) as error:
        take(data, 4)
    text = str(error.value)
    assert "of 12 files give no frames, data.max_bad_fraction=0.01 allows 0" in text
    assert "1.mp4: cannot be opened" in text or "5.mp4: cannot be opened" in text
    assert "train.csv line " in text


@pytest.mark.parametrize("cache", [False, True])
def test_a_file_that_decodes_in_part_is_used_and_named(data, video_set, tmp_path, cache):
    broken(data, video_set, tmp_path, ())
    (tmp_path / "4.mp4").unlink()
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 32, 3), dtype=np.uint8)
    write_mp4(tmp_path / "whole.mp4", noise, keyframe_interval=1)
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "4.mp4").write_bytes(content[: len(content) // 2])
    data.cache = cache
    with train_batches(data, batch_size=COUNT, seed=3) as batches:
        assert 4 in next(batches)["id"]
        ((path, reason),) = [(entry["path"], entry["reason"]) for entry in batches.bad_files]
    assert (
        os.path.basename(path) == "4.mp4" and "of 20 frames" in reason and reason.endswith("; used in part")
    )


def test_one_broken_file_alone_is_an_error(data, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    data.train = str(tmp_path / "a.mp4")
    with pytest.raises(UserError, match="1 of 1 files give no frames"):
        take(data, 1)
    data.max_bad_fraction = 1.0
    with pytest.raises(UserError, match="nothing is left to train on of 1 samples .1 cannot be read."):
        take(data, 1)
    data.check = False
    with pytest.raises(UserError, match="videos tried gives frames"):
        take(data, 1)


def test_missing_files_are_named_before_the_first_batch(data, tmp_path):
    (tmp_path / "train.csv").write_text("path,label\nnot there.mp4,1\n")
    data.train = str(tmp_path / "train.csv")
    with pytest.raises(UserError, match=r"not there\.mp4: no such file .*train\.csv line 2\).*data\.root"):
        train_batches(data, batch_size=8, seed=0)


def test_rows_must_be_a_slice_of_the_batch(data):
    for rows in (slice(0, 8, 2), slice(8, 12), slice(4, 4)):
        with pytest.raises(ValueError, match="expected a slice"):
            train_batches(data, batch_size=8, seed=0, rows=rows)


# The cache


def test_cached_whole_videos_are_the_files_frames(data):
    data.cache, data.cache_size, data.frames, data.stride, data.size, data.crop = (
        True,
        16,
        10,
        1,
        16,
        "resize",
    )
    data.train = data.train.replace("train.csv", "")  # the folder: another list of the same files
    with train_batches(data, batch_size=6, seed=3) as batches:
        batch = next(batches)
    data.cache = False
    with train_batches(data, batch_size=6, seed=3) as batches:
        decoded = next(batches)
    assert (batch["id"] == decoded["id"]).all() and (batch["label"] == -1).all()
    assert np.abs(batch["video"].astype(int) - decoded["video"]).mean() < 4  # two ways to resize


def test_a_second_run_decodes_nothing_and_a_changed_video_is_decoded_again(data, video_set, tmp_path):
    broken(data, video_set, tmp_path, ())
    data.cache = True
    expected = [fingerprint(b) for b in take(data, 2)]
    (folder,) = (tmp_path / ".vfm_cache").iterdir()
    made = (folder / "frames.bin").stat().st_mtime_ns
    assert [fingerprint(b) for b in take(data, 2)] == expected
    assert (folder / "frames.bin").stat().st_mtime_ns == made
    (tmp_path / "0.mp4").unlink()
    (tmp_path / "0.mp4").write_bytes((video_set / "7.mp4").read_bytes())
    assert [fingerprint(b) for b in take(data, 2)] != expected
    assert folder not in list((tmp_path / ".vfm_cache").iterdir())  # the stale one is gone


def test_a_half_written_cache_is_not_used(data, video_set, tmp_path):
    broken(data, video_set, tmp_path, ())
    data.cache = True
    expected = [fingerprint(b) for b in take(data, 2)]
    (folder,) = (tmp_path / ".vfm_cache").iterdir()
    (folder / "index.npz").write_bytes((folder / "index.npz").read_bytes()[:50])
    assert [fingerprint(b) for b in take(data, 2)] == expected


def test_a_cache_that_cannot_be_written_stays_in_memory_and_says_so(
    data, video_set, tmp_path, monkeypatch, caplog
):
    broken(data, video_set, tmp_path, ())
    data.cache = True
    expected = [fingerprint(b) for b in take(data, 2)]
    for folder in (tmp_path / ".vfm_cache").iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    (tmp_path / ".vfm_cache").rmdir()
    (tmp_path / ".vfm_cache").write_text("a file where the folder should be")
    (tmp_path / "home").write_text("and another")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert [fingerprint(b) for b in take(data, 2)] == expected
    assert "they stay in memory" in caplog.text


def test_a_cache_that_outgrows_the_disk_goes_on_in_memory(data, video_set, tmp_path, caplog):
    broken(data, video_set, tmp_path, ())
    expected = [fingerprint(b) for b in take(data, 2)]
    data.cache = True
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # of 276,480 bytes
    try:
        in_memory = [fingerprint(b) for b in take(data, 2)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "they stay in memory" in caplog.text
    assert not list((tmp_path / ".vfm_cache").glob("train*"))
    assert in_memory == [fingerprint(b) for b in take(data, 2)] != expected  # numpy resizes, not the decoder


def test_a_set_that_does_not_fit_into_memory_is_refused(data, video_set, tmp_path, monkeypatch):
    broken(data, video_set, tmp_path, ())
    data.cache = True
    monkeypatch.setattr(cache_module, "_MEMORY_SHARE", 1e-9)
    with pytest.raises(UserError, match=r"data\.cache=True: the 12 videos .* data\.cache_size to a smaller"):
        take(data, 1)
    assert not list((tmp_path / ".vfm_cache").iterdir())


# Evaluation


@pytest.mark.parametrize(("workers", "cache"), [(0, False), (1, False), (0, True)])
def test_evaluation_shows_every_sample_once_in_order_and_pads(data, workers, cache):
    data.workers, data.cache = workers, cache
    with eval_batches(data, data.train, batch_size=5, views=(2, 3)) as batches:
        assert (len(batches), batches.num_examples) == (3, COUNT)
        first, second = [list(batches) for _ in range(2)]
    assert [fingerprint(b) for b in first] == [fingerprint(b) for b in second]
    assert all(b["video"].shape == (5, 6, 4, 16, 16, 3) for b in first)
    mask = np.concatenate([b["mask"] for b in first])
    assert mask.dtype == np.float32 and mask.tolist() == [1] * COUNT + [0] * 3
    assert np.concatenate([b["id"] for b in first])[:COUNT].tolist() == list(range(COUNT))


def test_views_are_ordered_by_clip_then_crop(data):
    with eval_batches(data, data.train, batch_size=1, views=(2, 3)) as batches:
        views = next(iter(batches))["video"][0].astype(float)
    means = views.mean((1, 2, 3, 4)).reshape(2, 3)
    assert (np.diff(means, axis=1) > 2).all()  # brighter to the right
    assert (np.diff(means, axis=0) > 2).all()  # and later
    with eval_batches(data, data.train, batch_size=1, views=(1, 1)) as batches:
        one = next(iter(batches))["video"][0, 0].astype(float)
    assert means[0, 1] < one.mean() < means[1, 1]


def test_broken_videos_are_masked_in_an_evaluation(data, video_set, tmp_path):
    broken(data, video_set, tmp_path, {2})
    data.max_bad_fraction = 0.1
    with eval_batches(data, data.train, batch_size=12) as batches:
        batch = next(iter(batches))
        assert [os.path.basename(entry["path"]) for entry in batches.bad_files] == ["2.mp4"]
    assert batch["mask"].tolist() == [0 if i == 2 else 1 for i in range(COUNT)]
    assert batch["id"].tolist() == list(range(COUNT))


def test_a_whole_frame_has_one_crop(data):
    data.crop = "resize"
    with (
        eval_batches(data, data.train, batch_size=4, views=(1, 3)) as batches,
        pytest.raises(UserError, match="one crop"),
    ):
        next(iter(batches))

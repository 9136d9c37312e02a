"""The loader at its edges: files that break, hang and crash, processes that have to go, what is told of all that."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from input_pipeline import batch_shapes, chunks, train_batches, workers, write_mp4
from input_pipeline.sources import Source
from input_pipeline.telemetry import Telemetry
from input_pipeline.workers import Workers
from vfm.errors import UserError

from .conftest import COUNT, pixels
from .test_batches import broken, fingerprint, take
from .troubled import Troubled


@pytest.fixture
def third_damaged(tmp_path, data):
    """20 videos of which 6 are damaged in ways that opening and the first frame tell."""
    for i in range(20):
        write_mp4(tmp_path / f"{i}.mp4", pixels(i % COUNT), 8, 12)
    for i, kind in enumerate(("text", "empty", "head", "text", "missing", "head")):
        file = tmp_path / f"{3 * i + 1}.mp4"
        content = {"text": b"no video", "empty": b"", "head": file.read_bytes()[:60], "missing": b""}[kind]
        file.write_bytes(content)
        if kind == "missing":
            file.unlink()
    (tmp_path / "train.csv").write_text("path\n" + "".join(f"{i}.mp4\n" for i in range(20)))
    data.train, data.max_bad_fraction = str(tmp_path / "train.csv"), 0.4
    return data


def test_of_a_set_with_damaged_files_every_good_sample_is_shown_as_often_as_planned(third_damaged):
    bad = {1, 4, 7, 10, 13, 16}
    with train_batches(third_damaged, batch_size=7, seed=1) as batches:
        assert batches.num_examples == 14
        counts = Counter(np.concatenate([next(batches)["id"] for _ in range(2 * 5)]).tolist())
        account = batches.account.until(10)
        named = {os.path.basename(entry["path"]): entry["reason"] for entry in batches.bad_files}
    assert counts == {i: 5 for i in range(20) if i not in bad}
    assert set(named) == {f"{i}.mp4" for i in bad}
    assert (
        named["13.mp4"] == "no such file"
        and "0 bytes" in named["4.mp4"]
        and "cannot be opened" in named["1.mp4"]
    )
    (source,) = account["sources"]
    assert (source["listed"], source["planned"], source["times"]) == (20, 14, [5, 5])
    assert source["left_out"] == {"cannot be read": 6}
    assert account["clips"] == 70 and account["replaced"] == {} and account["steps"] == [0, 10]


def test_a_file_that_breaks_later_is_replaced_and_counted_apart(third_damaged, tmp_path):
    with train_batches(third_damaged, batch_size=7, seed=1) as batches:
        (tmp_path / "0.mp4").write_text("no video any more")
        shown = np.concatenate([next(batches)["id"] for _ in range(10)])
        account, told = batches.account.until(10), batches.telemetry()
    assert account["replaced"] == {str(tmp_path / "0.mp4"): 5} and not (shown == 0).any()
    assert told["bad_clips"] == 5 and account["sources"][0]["left_out"] == {"cannot be read": 6}


def test_files_found_good_are_not_opened_again_and_bad_ones_are(third_damaged, tmp_path, monkeypatch):
    from input_pipeline import check as checking

    opened = []
    real = checking.check

    def counting(source, **options):
        opened.append(options["indices"])
        return real(source, **options)

    monkeypatch.setattr(checking, "check", counting)
    for _ in range(2):
        train_batches(third_damaged, batch_size=7, seed=1).close()
    write_mp4(tmp_path / "1.mp4", pixels(1), 8, 12)  # mended
    with train_batches(third_damaged, batch_size=7, seed=1) as batches:
        assert batches.num_examples == 15
    assert [len(some) for some in opened] == [19, 5, 5]


def test_samples_of_a_skip_list_are_left_out_and_named(data, tmp_path):
    (tmp_path / "bad.csv").write_text("path,reason\n3.mp4,too dark\n")
    data.skip = str(tmp_path / "bad.csv")
    data.root = os.path.dirname(data.train)
    with train_batches(data, batch_size=COUNT - 1, seed=0) as batches:
        assert sorted(next(batches)["id"].tolist()) == [i for i in range(COUNT) if i != 3]
        assert [entry["reason"] for entry in batches.bad_files] == ["left out by data.skip: too dark"]
        assert batches.account.until(1)["sources"][0]["left_out"] == {"left out by data.skip": 1}


def test_bad_files_of_a_skip_list_count_as_skipped_not_as_bad(third_damaged, tmp_path):
    bad = (1, 4, 7, 10, 13, 16)
    third_damaged.max_bad_fraction = 0.01
    with pytest.raises(
        UserError, match=r"at least 1 of 20 files .* data.skip \(python -m scripts.validate_data"
    ):
        train_batches(third_damaged, batch_size=7, seed=1)
    third_damaged.skip = str(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text("path,reason\n" + "".join(f"{i}.mp4,damaged\n" for i in bad))
    with train_batches(third_damaged, batch_size=7, seed=1) as batches:
        assert batches.num_examples == 14
        assert {entry["reason"] for entry in batches.bad_files} == {"left out by data.skip: damaged"}
    (tmp_path / "bad.csv").write_text("path,reason\n" + "".join(f"{i}.mp4,damaged\n" for i in bad[1:]))
    with pytest.raises(UserError, match=": 1 of 20 files give no frames"):
        train_batches(third_damaged, batch_size=7, seed=1)


def test_several_processes_leave_out_what_the_first_one_does(third_damaged):
    shared = np.zeros(20, bool)
    shared[[2, 5]] = True
    with train_batches(third_damaged, batch_size=18, seed=1, share=lambda compute, names: shared) as batches:
        planned = set(batches._streams[0].chunks.planned(0)[1].tolist())
        assert planned == set(range(20)) - {2, 5} and batches.num_examples == 18


def trouble(monkeypatch, data, video_set, tmp_path, place, name) -> str:
    """Makes one file of the set hang or crash its reader; gives its path."""
    broken(data, video_set, tmp_path, ())
    (tmp_path / f"{place}.mp4").rename(tmp_path / f"{name}.mp4")
    lines = (tmp_path / "train.csv").read_text().replace(f"{place}.mp4", f"{name}.mp4")
    (tmp_path / "train.csv").write_text(lines)
    from input_pipeline import videos

    def opened(*arguments, **options) -> Source:
        import dataclasses

        from input_pipeline.sources import open_source

        source = open_source(*arguments, **options)
        return dataclasses.replace(source, media=Troubled(source.paths))

    monkeypatch.setattr(videos, "open_source", opened)
    data.check = False
    return str(tmp_path / f"{name}.mp4")


def test_a_file_that_crashes_its_process_is_replaced_and_named(
    data, video_set, tmp_path, monkeypatch, caplog
):
    path = trouble(monkeypatch, data, video_set, tmp_path, 5, "crashes")
    data.workers, data.max_bad_fraction = 2, 0.1
    with train_batches(data, batch_size=6, seed=3) as batches:
        ids = np.concatenate([next(batches)["id"] for _ in range(4)])
        assert [(entry["path"], entry["reason"]) for entry in batches.bad_files] == [
            (path, "the process that read it died: signal SIGKILL")
        ]
        assert batches.account.until(4)["replaced"] == {path: 2}
    died = f"'{path}': the process that read it died: signal SIGKILL (perhaps memory ran out)"
    assert caplog.text.count(died) >= 2  # each time, not only when the file is given up
    assert set(range(COUNT)) - {5} <= set(ids.tolist()) and 5 not in ids


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stall_is_reported_with_the_file_that_is_being_read(
    data, video_set, tmp_path, monkeypatch, caplog, workers
):
    path = trouble(monkeypatch, data, video_set, tmp_path, 5, "hangs" if workers else "slow")
    data.workers, data.threads, data.stall_seconds = workers, 1, 0.5
    if workers:
        import threading

        batches = train_batches(data, batch_size=COUNT, seed=3)
        ended = threading.Event()

        def read():
            for _ in batches:
                pass
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        wait_for(lambda: path in caplog.text)
        batches.interrupt()  # a file that takes for ever holds nobody up who wants to leave
        assert ended.wait(20)
        batches.close()
    else:
        take(data, 1, batch_size=COUNT)
    assert "no clip of" in caplog.text and f"being read: '{path}'" in caplog.text


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_telemetry_tells_means_since_it_was_last_asked(data):
    with train_batches(data, batch_size=6, seed=3) as batches:
        assert batches.telemetry() == {}
        next(batches)
        found = batches.telemetry()
        assert set(found) == {"decode_ms", "transform_ms", "wait_ms", "bad_clips"}
        assert found["decode_ms"] > 0 and found["transform_ms"] >= 0 and found["wait_ms"] > 0
        assert batches.telemetry() == {} and found["bad_clips"] == 0


def test_telemetry_is_of_whole_batches_whenever_it_is_asked():
    telemetry = Telemetry()
    telemetry.add(4, 2.0, 1.0)
    assert telemetry.means() == {}  # asked by another thread before the batch was complete
    telemetry.add(4, 2.0, 1.0)
    telemetry.batch(replaced=3)
    telemetry.add(4, 9.0, 9.0)
    found = telemetry.means()
    assert (found["decode_ms"], found["transform_ms"], found["bad_clips"]) == (500.0, 250.0, 3.0)
    telemetry.batch()
    assert telemetry.means()["decode_ms"] == 2250.0 and telemetry.means() == {}


# Processes

PROGRAM = """
import os, signal, sys
from configs.common import get_config
from input_pipeline import train_batches

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
data = get_config().data
data.train, data.frames, data.size, data.workers, data.check = sys.argv[1], 4, 16, 2, False
batches = train_batches(data, batch_size=4, seed=0)
next(batches)
assert not {"jax", "grain"} & set(sys.modules)
print(*batches.processes(), flush=True)
while True:
    next(batches)
    if sys.argv[2] == "exception":
        raise RuntimeError("the program ends here")
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["exception", "SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_over_however_a_program_ends(data, how):
    before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, data.train, how],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2, process.stderr.read()
        for pid in pids:
            with open(f"/proc/{pid}/maps") as file:
                assert "jaxlib" not in file.read()  # processes that read never import jax
        if how != "exception":
            process.send_signal(getattr(signal, how))
        process.communicate(timeout=120)
    finally:
        process.kill()
    wait_for(lambda: not any(map(alive, pids)))
    assert set(os.listdir("/dev/shm")) <= before


class Squares:
    """Items of workers: arrays too large for a pipe, one that fails."""

    def __getitem__(self, index: int) -> dict:
        if index == 7:
            raise ValueError("seven")
        return {"square": np.full(5000, index**2), "index": index}


def test_items_come_in_order_through_memory_that_is_used_again_and_errors_in_their_place():
    with Workers(Squares(), 2, ahead=1, slot=2**16) as items:
        for index in range(7):
            item = next(items)
            assert item["index"] == index and (item["square"] == index**2).all()
        with pytest.raises(ValueError, match="seven"):
            next(items)
        assert next(items)["index"] == 8
    with Workers(Squares(), 2, ahead=4, slot=0, indices=[9, 3, 5]) as items:  # nothing fits: sent
        assert [(i["index"], int(i["square"][0])) for i in items] == [(9, 81), (3, 9), (5, 25)]


def test_processes_that_cannot_start_are_one_error_however_much_they_should_read(monkeypatch):
    monkeypatch.setattr(workers, "_START", "raise SystemExit(3)")
    with (
        Workers([bytes(2**22)], 2, indices=[0]) as items,  # more than a pipe takes before somebody reads
        pytest.raises(UserError, match="did not start .exit code 3.; what it printed says why"),
    ):
        next(items)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_job_stops_none_that_has_just_begun(number):
    with Workers(list(range(10)), 2, indices=range(10)) as items:
        for pid in items.processes():
            os.kill(pid, number)
        assert list(items) == list(range(10))  # none is given up as lost either


def test_chunks_know_the_samples_that_were_planned(data):
    with train_batches(data, batch_size=8, seed=3, start_step=5) as batches:
        planned = batches._streams[0].chunks.planned(5)
        assert isinstance(batches._streams[0].chunks, chunks.TrainingChunks)
        assert next(batches)["id"].tolist() == planned[1].tolist()


def test_a_stopped_iterator_begins_anew(data):
    first = fingerprint(take(data, 1)[0])
    with train_batches(data, batch_size=8, seed=3) as batches:
        next(batches)
        batches.close()
        assert fingerprint(next(batches)) == first
        assert batches.account.until(1)["replaced"] == {} and batches.telemetry()["bad_clips"] == 0


@pytest.mark.parametrize("mixed", [False, True])
def test_images_beside_videos_are_accounted_for_and_timed_apart(data, video_set, tmp_path, mixed):
    """What a mean is over, and which samples are left out or replaced, is as clear of images as of videos."""
    for i in range(6):
        Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_text("no image")
    (tmp_path / "images.csv").write_text("path\n" + "".join(f"{i}.png\n" for i in range(6)))
    images = str(tmp_path / "images.csv")
    data.images = {"sources": {"web": {"path": images}}} if mixed else images
    data.image_batch, data.max_bad_fraction = 4, 0.5
    with train_batches(data, batch_size=8, seed=0) as batches:
        (tmp_path / "5.png").write_text("no image any more")
        found = [next(batches) for _ in range(5)]
        told, account = batches.telemetry(), batches.account.until(5)
    assert batch_shapes(data, 8).items() <= {k: (v.shape, v.dtype) for k, v in found[0].items()}.items()
    assert ("image_source" in batch_shapes(data, 8)) == mixed
    timed = ("decode_ms", "transform_ms", "wait_ms", "bad_clips")
    assert set(told) == {*timed, *(f"image_{name}" for name in timed)}
    assert (told["bad_clips"], told["image_bad_clips"]) == (0, 4)
    assert account["clips"] == 5 * (8 + 4) and account["replaced"] == {str(tmp_path / "5.png"): 4}
    videos, pictures = account["sources"]
    assert (videos["name"], pictures["name"]) == ("", "images web" if mixed else "images")
    assert (pictures["listed"], pictures["planned"], pictures["times"]) == (6, 5, [4, 4])
    assert pictures["left_out"] == {"cannot be read": 1}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_flat_over_ten_thousand_clips(data, workers):
    from scripts.bench import memory

    data.workers = workers
    used = [here + there for _, here, there in memory.measure(data, 10_000, batch_size=16)]
    assert used[-1] < 1.1 * used[1]

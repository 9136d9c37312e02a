"""Sets that lie elsewhere: fsspec's file system in memory, and a web server on this machine."""

import functools
import http.server
import pickle
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest

from input_pipeline import BadVideo, open_source, storage, train_batches
from vfm.errors import UserError

from .conftest import COUNT
from .stored import frames_of, same_frames, write_tar
from .test_record_stores import prepared, write_records  # noqa: F401
from .test_stores import write_parquet


@pytest.fixture(scope="module")
def files(tmp_path_factory, video_set) -> Path:
    """A folder with one set in every form."""
    folder = tmp_path_factory.mktemp("site")
    videos = [(video_set / f"{i}.mp4").read_bytes() for i in range(COUNT)]
    for i, video in enumerate(videos):
        for name in (f"videos/{i}.mp4", f"classes/{'ab'[i % 2]}/{i}.mp4"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(video)
    rows = "".join(f'videos/{i}.mp4,{i % 3},"number {i}"\n' for i in range(COUNT))
    (folder / "list.csv").write_text(f"path,label,caption\n{rows}")
    (folder / "classes.json").write_text('{"label": ["x", "y", "z"]}')
    for shard in range(3):
        write_tar(folder / f"s-{shard:03d}.tar", video_set, list(range(4 * shard, 4 * shard + 4)))
    cells = [{"bytes": video, "path": None} for video in videos]
    write_parquet(folder / "a.parquet", cells, row_group_size=5)
    write_records(folder / "a.array_record", videos)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage.local_copy.cache_clear()


@pytest.fixture
def memory(files):
    system = fsspec.filesystem("memory")
    system.put(str(files), "/site", recursive=True)
    yield "memory://site"
    system.rm("/site", recursive=True)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with or without ranges; answers every `fail_every`-th request with an error."""

    protocol_version = "HTTP/1.1"
    ranges, fail_every, asked, lock = True, 0, [], threading.Lock()

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        with self.lock:
            self.asked.append((self.path, self.headers.get("Range")))
            failing = self.fail_every and len(self.asked) % self.fail_every == 0
        if failing:
            return self.send_error(503)
        path = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range", "")
        if not (self.ranges and wanted.startswith("bytes=") and path.is_file()):
            return super().do_GET()
        data = path.read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(data)), len(data) - 1) + 1
        self.send_response(206)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(data[start:stop])

    def end_headers(self) -> None:
        if self.command == "HEAD" and self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


@pytest.fixture(params=["ranges", "no ranges", "sometimes fails"])
def site(request, files):
    pytest.importorskip("aiohttp", reason="http:// takes aiohttp (the extra `http`)")
    handler = type("Handler", (Handler,), {"asked": []})
    handler.ranges = request.param != "no ranges"
    handler.fail_every = 5 if request.param == "sometimes fails" else 0
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(files))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    fsspec.filesystem("http").invalidate_cache()


SPECS = ["list.csv", "s-{000..002}.tar", "a.parquet", "a.array_record"]


def check(url: str, name: str, video_set: Path) -> None:
    source = open_source(f"{url}/{name}")
    assert source.name == f"{url}/{name}"
    assert same_frames(pickle.loads(pickle.dumps(source)), video_set, list(range(COUNT)))
    assert len({source.store.name(i) for i in range(COUNT)}) == COUNT
    assert all(path.startswith(f"{url}/") for path in source.paths)  # as the set calls them, not as copies do
    if name == "list.csv":
        assert source.paths[3] == f"{url}/videos/3.mp4" and source[7].caption == "number 7"
        assert source.label_names == {"label": ["x", "y", "z"]}
    if name == "s-{000..002}.tar":
        assert source.paths[5] == f"{url}/s-001.tar::clips/0005.mp4"
        assert source.labels["label"].tolist() == [i % 3 for i in range(COUNT)]


@pytest.mark.parametrize("name", SPECS)
def test_sets_in_memory_give_what_the_files_give(memory, video_set, name):
    check(memory, name, video_set)


@pytest.mark.parametrize("name", SPECS)
def test_sets_on_a_web_server_give_what_the_files_give(site, video_set, name):
    check(site, name, video_set)


def test_folders_and_patterns_in_memory(memory, files, video_set):
    remote, local = open_source(f"{memory}/classes"), open_source(files / "classes")
    assert [p.removeprefix(f"{memory}/") for p in remote.paths] == [
        p.removeprefix(f"{files}/") for p in local.paths
    ]
    assert remote.labels["label"].tolist() == local.labels["label"].tolist()
    assert remote.label_names == {"label": ["a", "b"]}
    assert len(open_source(f"{memory}/videos/1*.mp4")) == 3
    assert len(open_source(f"{memory}/s-*.tar")) == COUNT
    assert same_frames(open_source(f"{memory}/videos/{{2,11}}.mp4"), video_set, [2, 11])
    assert same_frames(open_source(f"{memory}/videos/4.mp4"), video_set, [4])


def test_folders_on_a_web_server(site):
    assert len(open_source(f"{site}/videos")) == COUNT
    assert open_source(f"{site}/classes").label_names == {"label": ["a", "b"]}


def test_sets_of_tfds_in_memory(prepared, video_set):  # noqa: F811
    system = fsspec.filesystem("memory")
    system.put(str(prepared), "/toy/1.0.0", recursive=True)
    source = open_source({"path": "memory://toy/1.0.0", "media": "mp4"})
    assert same_frames(source, video_set, list(range(6))) and source.label_names["label"][0] == "no"
    system.rm("/toy", recursive=True)


@pytest.mark.parametrize("medium", ["a local list of addresses", "a list elsewhere with data.root"])
def test_lists_and_videos_need_not_be_in_one_place(memory, tmp_path, video_set, medium):
    if medium == "a local list of addresses":
        (tmp_path / "list.csv").write_text(f"path,label\n{memory}/videos/3.mp4,1\n{memory}/videos/1.mp4,0\n")
        source = open_source(tmp_path / "list.csv")
    else:
        fsspec.filesystem("memory").pipe("/site/other/list.txt", b"3.mp4 1\n1.mp4 0\n")
        source = open_source(f"{memory}/other/list.txt", root=f"{memory}/videos")
    assert same_frames(source, video_set, [3, 1]) and source.labels["label"].tolist() == [1, 0]


def test_what_is_not_there_is_named(memory, tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(f"{memory}/nothing.csv")
    (tmp_path / "list.txt").write_text(f"{memory}/videos/3.mp4\n{memory}/videos/99.mp4\n")
    source = open_source(tmp_path / "list.txt")
    with pytest.raises(BadVideo, match=r"videos/99\.mp4: no such file"):
        source.open(1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gs://bucket/list.csv", "reading gs:// takes a package that is not installed: pip install gcsfs"),
        ("s3://bucket/s-{000..003}.tar", "reading s3:// takes a package .*: pip install s3fs"),
        ("nonsense://bucket/list.csv", "nothing is known about nonsense://; expected a local path, gs://"),
    ],
)
def test_packages_that_are_missing_are_named(spec, message, monkeypatch):
    for name in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=message):
        open_source(spec)


def test_a_list_with_addresses_of_a_missing_package_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    (tmp_path / "list.txt").write_text("s3://bucket/a.mp4 1\n")
    with pytest.raises(UserError, match="pip install s3fs"):
        open_source(tmp_path / "list.txt")


def test_large_files_are_read_in_blocks(memory, video_set, monkeypatch):
    monkeypatch.setattr(storage, "WHOLE", 100)
    for name in ("list.csv", "s-{000..002}.tar"):
        assert same_frames(open_source(f"{memory}/{name}"), video_set, list(range(COUNT)))


def test_answers_that_end_early_are_asked_for_again(memory, files, monkeypatch):
    whole, asked = type(fsspec.filesystem("memory")).cat_file, []

    def sometimes_half(system, path, start=None, end=None, **options):
        data = whole(system, path, start, end, **options)
        asked.append(len(data))
        return data[: len(data) // 2] if len(asked) % 2 else data

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", sometimes_half)
    copy = Path(storage.local_copy(f"{memory}/a.array_record"))
    assert copy.read_bytes() == (files / "a.array_record").read_bytes() and len(asked) > 1


def test_skip_lists_and_lists_of_a_pattern_may_be_elsewhere(memory):
    system = fsspec.filesystem("memory")
    system.pipe("/site/bad.csv", b"path,reason\nvideos/2.mp4,dull\n")
    system.pipe("/site/part-0.txt", b"videos/1.mp4 1\nvideos/2.mp4 0\n")
    system.pipe("/site/part-1.txt", b"videos/3.mp4 2\n")
    for pattern in ("part-{0,1}.txt", "part-*.txt"):
        source = open_source(f"{memory}/{pattern}", skip=f"{memory}/bad.csv")
        assert source.paths == [f"{memory}/videos/{i}.mp4" for i in (1, 2, 3)]
        assert source.labels["label"].tolist() == [1, 0, 2] and dict(source.skipped) == {1: "dull"}


@pytest.mark.parametrize("site", ["ranges"], indirect=True)
def test_shards_elsewhere_are_read_through_once(site):
    first = open_source(f"{site}/s-000.tar")
    kept = list((storage.cache_folder() / "shards").glob("*.json"))
    assert len(kept) == 1
    kept[0].write_text(kept[0].read_text().replace("number 2", "from the index"))
    assert first[2].caption == "number 2"
    assert open_source(f"{site}/s-000.tar")[2].caption == "from the index"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("site", ["ranges"], indirect=True)
def test_batches_from_a_web_server_equal_those_from_files(site, data, files, workers):
    data.workers = workers
    taken = []
    for spec in (str(files / "list.csv"), f"{site}/list.csv", f"{site}/s-{{000..002}}.tar"):
        data.train = spec
        with train_batches(data, batch_size=8, seed=3) as batches:
            taken.append([next(batches) for _ in range(2)])
    for batches in taken[1:]:
        for batch, expected in zip(batches, taken[0], strict=True):
            assert np.array_equal(batch["video"], expected["video"])
            assert np.array_equal(batch["label"], expected["label"])


def test_names_of_files_with_braces_and_brackets(tmp_path, video_set):
    for name in ("a{0..1}.mp4", "b[1].mp4"):
        (tmp_path / name).write_bytes((video_set / "3.mp4").read_bytes())
        assert np.array_equal(
            frames_of(open_source(tmp_path / name), 0), frames_of(open_source(video_set / "3.mp4"), 0)
        )


def test_braces_count_as_shells_do():
    assert storage.expand("x-{08..11}.tar") == ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]
    assert storage.expand("x-{8..10}{a,b}") == ["x-8a", "x-8b", "x-9a", "x-9b", "x-10a", "x-10b"]
    with pytest.raises(UserError, match="ends before it begins"):
        storage.expand("x-{3..1}")

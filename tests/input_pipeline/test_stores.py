"""Videos in shards, tables and folders of frames read as the same files do, in any order and any process."""

import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from input_pipeline import BadVideo, eval_batches, open_source, read_frames, train_batches, write_mp4
from vfm.errors import UserError

from .conftest import COUNT, pixels
from .stored import add_member, frames_of, same_frames, write_tar


@pytest.fixture(scope="module")
def tars(tmp_path_factory, video_set):
    """Three shards of four videos."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        write_tar(folder / f"train-{shard:03d}.tar", video_set, list(range(4 * shard, 4 * shard + 4)))
    return folder


# WebDataset


@pytest.mark.parametrize("spec", ["", "/train-{000..002}.tar", "/*.tar", "/train-{000,001,002}.tar"])
def test_tar_shards_are_found_and_read_in_any_order(tars, video_set, spec):
    source = open_source(f"{tars}{spec}")
    assert source.paths[5] == f"{tars}/train-001.tar::clips/0005.mp4"
    assert source.labels["label"].tolist() == [i % 3 for i in range(COUNT)]
    assert list(source.labels) == ["label"] and source.words["duration"] == ["1.25"] * COUNT
    assert source[7].caption == "number 7" and source.words["id"][7] == "clips/0007"
    assert same_frames(source, video_set, list(range(COUNT)))


def test_headers_are_read_once_and_again_when_a_shard_changes(tmp_path, video_set):
    shard = tmp_path / "a.tar"
    write_tar(shard, video_set, [1, 2])
    assert len(open_source(shard)) == 2
    (kept,) = (tmp_path / ".vfm_cache" / "shards").glob("*.json")
    known = json.loads(kept.read_text())
    known["samples"][0][2]["caption"] = "from the index"
    kept.write_text(json.dumps(known))
    assert open_source(shard)[0].caption == "from the index"
    write_tar(shard, video_set, [3, 4, 5])
    assert same_frames(open_source(shard), video_set, [3, 4, 5])
    for file in (tmp_path / ".vfm_cache" / "shards").glob("*.json"):
        file.write_text("{")
    assert len(open_source(shard)) == 3


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_members_with_long_names_and_of_other_kinds(tmp_path, video_set, form):
    data = (video_set / "3.mp4").read_bytes()
    long = "folder/" * 12 + "n" * (60 if form == tarfile.USTAR_FORMAT else 160)
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("x.mp4")
            member.type, member.linkname = kind, "/etc/hostname"
            tar.addfile(member)
        add_member(tar, f"./{long}.mp4", data)
        add_member(tar, f"./{long}.cls", b"2\n")
        add_member(tar, f"./{long}.txt", "schöne Zeile".encode())
        add_member(tar, "README", b"no sample")
        add_member(tar, "b.SEG.mp4", data)
        add_member(tar, "b.cls", b"0")
    source = open_source(tmp_path / "a.tar")
    assert [path.partition("::")[2] for path in source.paths] == [f"{long}.mp4", "b.seg.mp4"]
    assert source.labels["label"].tolist() == [2, 0] and source.captions[0] == ("schöne Zeile",)
    assert same_frames(source, video_set, [3, 3])


def test_which_member_and_which_field_are_for_the_config_to_say(tmp_path, video_set):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(2):
            add_member(tar, f"{i}.low.mp4", (video_set / f"{i}.mp4").read_bytes())
            add_member(tar, f"{i}.high.mp4", (video_set / f"{i + 5}.mp4").read_bytes())
            fields = {"verb": f"v{i}", "noun": i, "said": ["one", "two"], "caption": "no"}
            add_member(tar, f"{i}.json", json.dumps(fields).encode())
    spec = {"path": str(tmp_path / "a.tar"), "member": "high.mp4", "label": "noun"}
    source = open_source(spec, column="said")
    assert same_frames(source, video_set, [5, 6])
    assert source.captions[1] == ("one", "two") and source.labels["noun"].tolist() == [0, 1]
    (tmp_path / "classes.json").write_text(json.dumps({"verb": ["v1", "v0"]}))
    assert open_source(spec).labels["verb"].tolist() == [1, 0]
    with pytest.raises(
        UserError, match=r"'membr' is no option of format 'webdataset' \(did you mean 'member'"
    ):
        open_source({"path": str(tmp_path / "a.tar"), "membr": "x"})


def test_a_shard_that_is_cut_off_gives_its_whole_members_and_the_rest_is_named(
    tars, tmp_path, video_set, data
):
    shard = (tars / "train-000.tar").read_bytes()
    with tarfile.open(tars / "train-000.tar") as tar:
        third = tar.getmembers()[5]  # the mp4 of the third sample
    (tmp_path / "a.tar").write_bytes(shard[: third.offset_data + 700])
    (tmp_path / "b.tar").write_bytes(b"no shard at all" * 99)
    (tmp_path / "c.tar").write_bytes((tars / "train-002.tar").read_bytes())
    source = open_source(tmp_path)
    names = [path.removeprefix(f"{tmp_path}/") for path in source.paths]
    assert names[:4] == ["a.tar::clips/0000.mp4", "a.tar::clips/0001.mp4", "a.tar::clips/0002.mp4", "b.tar"]
    missing = source.store.missing(range(len(source)))
    assert missing[2] == f"the shard ends within it, after 700 of {third.size} bytes"
    assert missing[3].startswith("no tar file") and set(missing) == {2, 3}
    with pytest.raises(BadVideo, match="after 700 of"):
        source.open(2)
    data.train, data.max_bad_fraction = str(tmp_path), 0.5
    with train_batches(data, batch_size=6, seed=0) as batches:
        ids = np.concatenate([next(batches)["id"] for _ in range(6)])
        assert {entry["path"] for entry in batches.bad_files} == {source.paths[2], source.paths[3]}
    assert set(ids.tolist()) == {0, 1, 4, 5, 6, 7}
    for name in ("a.tar", "c.tar"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"no sample has a video that can be read: .*b\.tar: no tar file"):
        open_source(tmp_path)


@pytest.mark.parametrize("at", [100, 512, 1000, 2**13, 2**14])
def test_a_shard_may_be_damaged_anywhere(tars, tmp_path, at):
    whole = (tars / "train-000.tar").read_bytes()
    for piece in (whole[:at], whole[:at] + bytes(range(256)) * 2 + whole[at + 512 :]):
        (tmp_path / "a.tar").write_bytes(piece)
        try:
            source = open_source(tmp_path / "a.tar")
        except UserError as error:
            assert "can be read" in str(error)
            continue
        for i in range(len(source)):
            try:
                frames_of(source, i)
            except BadVideo as error:
                assert error.reason


def test_compressed_and_missing_shards_are_refused(tars, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="unpack it to a plain .tar"):
        open_source(tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match=r"1 of 4 shards are not there, e\.g\. .*train-003\.tar"):
        open_source(f"{tars}/train-{{000..003}}.tar")
    with pytest.raises(UserError, match="no file is called like this"):
        open_source(f"{tars}/val-*.tar")


def test_large_members_are_read_in_part(tars, video_set, monkeypatch):
    monkeypatch.setattr("input_pipeline.storage.WHOLE", 100)
    assert same_frames(open_source(tars), video_set, list(range(COUNT)))


# Parquet


FEATURES = {"clip": {"_type": "Video"}, "label": {"_type": "ClassLabel", "names": ["no", "yes"]}}


def write_parquet(path, videos, column="clip", features=FEATURES, **options) -> None:
    table = pyarrow.table(
        {
            "poster": [b"\xff\xd8"] * len(videos),
            column: videos,
            "label": [i % 2 for i in range(len(videos))],
            "caption": [f"text {i}" for i in range(len(videos))],
            "height": [24] * len(videos),
        }
    )
    info = json.dumps({"info": {"features": features}}).encode()
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": info}), path, **options)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_parquet_as_hugging_face_stores_it(tmp_path, video_set, rows):
    (tmp_path / "data").mkdir()
    cells = [{"bytes": (video_set / f"{i}.mp4").read_bytes(), "path": None} for i in range(5)]
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", cells[:3], row_group_size=rows)
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", cells[3:], row_group_size=rows)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", cells[:1], row_group_size=rows)
    source = open_source({"path": str(tmp_path), "split": "train"})
    assert source.paths[4] == f"{tmp_path}/data/train-00001-of-00002.parquet::row 1"
    assert source.labels["label"].tolist() == [0, 1, 0, 0, 1] and list(source.labels) == ["label"]
    assert source.label_names == {"label": ["no", "yes"]} and source[4].caption == "text 1"
    assert same_frames(source, video_set, [0, 1, 2, 3, 4])
    assert len(open_source({"path": str(tmp_path), "split": "test"})) == 1
    with pytest.raises(UserError, match=r"no file is of split='val'; there are: test-00000"):
        open_source({"path": str(tmp_path), "split": "val"})


def test_parquet_with_plain_bytes_paths_and_frames(tmp_path, video_set):
    data = [(video_set / f"{i}.mp4").read_bytes() for i in range(3)]
    write_parquet(tmp_path / "a.parquet", data, "mp4", {})
    assert same_frames(
        open_source({"path": str(tmp_path / "a.parquet"), "media": "mp4"}), video_set, [0, 1, 2]
    )
    assert same_frames(open_source(tmp_path / "a.parquet"), video_set, [0, 1, 2])  # called as videos are
    write_mp4(tmp_path / "5.mp4", pixels(5), 8, 12)
    write_parquet(tmp_path / "b.parquet", [{"bytes": None, "path": "5.mp4"}, {"bytes": data[1], "path": "x"}])
    assert same_frames(open_source(tmp_path / "b.parquet"), video_set, [5, 1])
    write_parquet(tmp_path / "c.parquet", data, "content", {})
    with pytest.raises(UserError, match="Say so by media=NAME; columns of bytes are poster, content"):
        open_source(tmp_path / "c.parquet")
    images = [png(video_set, 2, frame) for frame in range(4)]
    write_parquet(tmp_path / "d.parquet", [images], "video", {})
    with open_source(tmp_path / "d.parquet").open(0) as video:
        assert video.num_frames == 4
        assert np.array_equal(video.read([3, 1]), read_frames(video_set / "2.mp4", [3, 1]))


def test_cells_and_files_that_hold_no_video(tmp_path, video_set):
    good = {"bytes": (video_set / "0.mp4").read_bytes(), "path": None}
    write_parquet(
        tmp_path / "a.parquet",
        [good, None, {"bytes": b"junk", "path": None}, {"bytes": None, "path": "no.mp4"}],
    )
    source = open_source(tmp_path / "a.parquet")
    for index, reason in ((1, "the column 'clip' is empty"), (2, "cannot be opened"), (3, "no such file")):
        with pytest.raises(BadVideo, match=reason):
            frames_of(source, index)
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole)
    source = open_source(tmp_path / "b.parquet")
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadVideo, match=r"b\.parquet::row 0: cannot be read"):
        frames_of(source, 0)
    with pytest.raises(UserError, match="is no readable Parquet file"):
        open_source(tmp_path / "b.parquet")


# Frames and images


def png(video_set, video: int, frame: int) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(read_frames(video_set / f"{video}.mp4", [frame])[0]).save(out, "png")
    return out.getvalue()


@pytest.fixture
def frame_folders(tmp_path, video_set):
    """Folders two/a and one/b with img_0.png ... img_11.png, and flow_0.png among them."""
    for name, video in (("two/a", 3), ("one/b", 7)):
        (tmp_path / name).mkdir(parents=True)
        for frame in range(12):
            (tmp_path / name / f"img_{frame}.png").write_bytes(png(video_set, video, min(frame, 9)))
        (tmp_path / name / "flow_0.png").write_bytes(png(video_set, 0, 0))
    return tmp_path


def test_folders_of_frames_are_videos(frame_folders, video_set):
    spec = {"path": str(frame_folders), "format": "frames", "filename_tmpl": "img_{:05}.png", "fps": 4}
    source = open_source(spec)
    assert source.paths == [f"{frame_folders}/one/b", f"{frame_folders}/two/a"]
    assert source.labels["label"].tolist() == [0, 1] and source.label_names["label"] == ["one", "two"]
    with source.open(0) as video:
        assert video.num_frames == 12 and video.frames_between(0.5, 1.0) == (2, 4)
        expected = read_frames(video_set / "7.mp4", [9, 1, 2])  # img_10 comes after img_9, not after img_1
        assert np.array_equal(video.read([10, 1, 2]), expected)
    with open_source({"path": str(frame_folders), "format": "frames"}).open(0) as video:
        assert video.num_frames == 13
    with pytest.raises(UserError, match="expected one number in it"):
        open_source(spec | {"filename_tmpl": "img.png"})
    with pytest.raises(UserError, match="no folder in it holds images pic_"):
        open_source(spec | {"filename_tmpl": "pic_{:05}.jpg"})


def test_lists_of_frame_folders_with_offsets(frame_folders, video_set):
    (frame_folders / "list.txt").write_text("two/a 2 5 1\none/b 0 12 0\ntwo/a 8 10 1\ngone 0 3 0\n")
    path = str(frame_folders / "list.txt")
    source = open_source(
        {"path": path, "format": "mmaction2", "kind": "rawframes_offset", "filename_tmpl": "img_{:05}.png"}
    )
    assert source.paths[0] == f"{frame_folders}/two/a::frames 2-6" and source.lines == [1, 2, 3, 4]
    assert np.array_equal(frames_of(source, 0), read_frames(video_set / "3.mp4", range(2, 7)))
    with source.open(2) as video:
        assert (video.num_frames, video.damage) == (4, "the folder holds 4 of the 10 frames from 8 on")
    assert source.store.missing(range(4)) == {3: "no such folder"}
    with pytest.raises(BadVideo, match="no such folder"):
        source.open(3)
    (frame_folders / "plain.csv").write_text("path,label\none/b,1\n")
    source = open_source({"path": str(frame_folders / "plain.csv"), "filename_tmpl": "img_%05d.png"})
    with source.open(0) as video:
        assert video.num_frames == 12


def test_frames_that_do_not_decode_are_named(frame_folders):
    (frame_folders / "one" / "b" / "img_3.png").write_bytes(b"junk")
    source = open_source({"path": str(frame_folders), "format": "frames", "filename_tmpl": "img_{}.png"})
    with source.open(0) as video, pytest.raises(BadVideo, match=r"one/b: frame 3: does not decode"):
        video.read([0, 3])


def test_images_are_videos_of_one_frame(frame_folders, video_set):
    source = open_source({"path": str(frame_folders), "format": "images"})
    assert len(source) == 26 and source.label_names["label"] == ["one", "two"]
    first = source.paths.index(f"{frame_folders}/one/b/img_5.png")
    assert np.array_equal(frames_of(source, first), read_frames(video_set / "7.mp4", [5]))
    assert len(open_source({"path": f"{frame_folders}/one/*/img_*.png", "format": "images"})) == 12
    assert len(open_source(f"{frame_folders}/one/b/img_{{0..3}}.png", medium="image")) == 4


# All of them


def test_patterns_stand_for_plain_files_too(video_set):
    source = open_source(f"{video_set}/{{3,10}}.mp4")
    assert same_frames(source, video_set, [3, 10])
    assert len(open_source(f"{video_set}/1*.mp4")) == 3
    with pytest.raises(UserError, match=r"train\.csv' is no video"):
        open_source(f"{video_set}/*")


def stores(tars, tmp_path, video_set) -> list:
    cells = [{"bytes": (video_set / f"{i}.mp4").read_bytes(), "path": None} for i in range(COUNT)]
    write_parquet(tmp_path / "a.parquet", cells, row_group_size=5)
    return [str(tars), str(tmp_path / "a.parquet")]


def test_stores_travel_between_processes_and_serve_threads(tars, tmp_path, video_set):
    for spec in stores(tars, tmp_path, video_set):
        source = open_source(spec)
        frames_of(source, 0)
        copy = pickle.loads(pickle.dumps(source))
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i, copy=copy: frames_of(copy, i), [*range(COUNT)] * 3))
        for i, frames in enumerate(found):
            assert np.array_equal(frames, read_frames(video_set / f"{i % COUNT}.mp4", range(10)))
        assert len({source.store.name(i) for i in range(COUNT)}) == COUNT
        assert source.paths == [source.store.name(i) for i in range(COUNT)] and source.store.stamp(0)


def test_parts_of_videos_and_skip_lists_hold_for_members_of_shards(tmp_path, video_set, data):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(4):
            add_member(tar, f"{i}.mp4", (video_set / f"{i}.mp4").read_bytes())
            times = {"start_time": 0.25, "end_time": 0.75} if i % 2 else {}
            add_member(tar, f"{i}.json", json.dumps({"label": i} | times).encode())
    shard = f"{tmp_path}/a.tar"
    (tmp_path / "bad.csv").write_text(f"path,reason\n{shard}::0.mp4,dull\n")
    source = open_source(shard, skip=str(tmp_path / "bad.csv"))
    assert dict(source.skipped) == {0: "dull"} and source.clip_name(1) == f"{shard}::1.mp4#t=0.25,0.75"
    assert np.array_equal(frames_of(source, 1), read_frames(video_set / "1.mp4", range(2, 6)))
    assert len(frames_of(source, 2)) == 10
    data.train, data.skip = shard, str(tmp_path / "bad.csv")
    with train_batches(data, batch_size=6, seed=0) as batches:
        assert set(np.concatenate([next(batches)["id"] for _ in range(2)]).tolist()) == {1, 2, 3}


def test_evaluations_read_stores(tars, data, video_set):
    plain = [read_frames(video_set / f"{i}.mp4", range(10)).mean() for i in range(COUNT)]
    with eval_batches(data, str(tars), batch_size=8) as batches:
        seen = list(batches)
    assert np.concatenate([b["label"] for b in seen])[:COUNT].tolist() == [i % 3 for i in range(COUNT)]
    means = np.concatenate([b["video"].reshape(8, -1).mean(1) for b in seen])[:COUNT]
    assert np.corrcoef(means, plain)[0, 1] > 0.99


@pytest.mark.parametrize(("workers", "cache"), [(0, False), (0, True), (1, False)])
def test_batches_from_stores_equal_those_from_files(data, tars, tmp_path, video_set, workers, cache):
    plain = tmp_path / "plain.csv"
    plain.write_text("".join(f"{video_set}/{i}.mp4 {i % 3}\n" for i in range(COUNT)))
    data.cache = cache
    taken = []
    # Processes take seconds to start: one store says for all that it travels.
    for spec in (str(plain), *stores(tars, tmp_path, video_set)[: 1 if workers else 2]):
        data.train, data.workers = spec, workers if spec != str(plain) else 0
        with train_batches(data, batch_size=8, seed=3) as batches:
            taken.append([next(batches) for _ in range(3)])
    for batches in taken[1:]:
        for batch, expected in zip(batches, taken[0], strict=True):
            assert np.array_equal(batch["video"], expected["video"]) and np.array_equal(
                batch["id"], expected["id"]
            )

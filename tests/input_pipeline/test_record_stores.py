"""ArrayRecord shards of any origin and sets of TFDS give what the files in them give, without TensorFlow."""

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from input_pipeline import BadVideo, open_source, read_frames, train_batches
from input_pipeline.stores.examples import is_example, parse_example
from vfm.errors import UserError

from .conftest import COUNT
from .stored import frames_of, same_frames

VIDEO = "tensorflow_datasets.core.features.video_feature.Video"


def write_records(path: Path, records: list[bytes], options: str = "group_size:1") -> None:
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def example(**features) -> bytes:
    """A serialised tf.train.Example; `__` in names stands for a slash."""
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example()
    for name, values in features.items():
        values = values if isinstance(values, list) else [values]
        feature = message.features.feature[name.replace("__", "/")]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return message.SerializeToString()


def pngs(video_set, video: int) -> list[bytes]:
    out = []
    for frame in read_frames(video_set / f"{video}.mp4", range(10)):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "png")
        out.append(file.getvalue())
    return out


def test_examples_are_parsed_as_protocol_buffers_say():
    record = example(a=[-1, 0, 2**62], b=[0.5, -2.0], c=[b"", b"\xff" * 300], d__e=b"text")
    fields = parse_example(record)
    assert fields["a"] == [-1, 0, 2**62] and fields["b"] == [0.5, -2.0]
    assert [bytes(value) for value in fields["c"]] == [b"", b"\xff" * 300] and bytes(
        fields["d/e"][0]
    ) == b"text"
    rng = np.random.default_rng(0)
    for _ in range(500):  # whatever is wrong with it is a ValueError
        damaged = bytearray(record[: rng.integers(1, len(record) + 1)])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        is_example(bytes(damaged))


@pytest.mark.parametrize("options", ["group_size:1", "group_size:4,uncompressed"])
def test_records_that_are_video_files(tmp_path, video_set, options):
    for shard in range(3):
        videos = range(4 * shard, 4 * shard + 4)
        records = [(video_set / f"{i}.mp4").read_bytes() for i in videos]
        write_records(tmp_path / f"a.array_record-{shard:05d}-of-00003", records, options)
    for spec in (
        str(tmp_path),
        f"{tmp_path}/a.array_record-{{00000..00002}}-of-00003",
        f"{tmp_path}/a.array_record*",
    ):
        source = open_source(spec)
        assert (
            source.paths[5] == f"{tmp_path}/a.array_record-00001-of-00003::record 1" and source.labels == {}
        )
        assert same_frames(pickle.loads(pickle.dumps(source)), video_set, list(range(COUNT)))


def test_records_that_are_examples(tmp_path, video_set, data):
    def record(i: int) -> bytes:
        return example(
            clip__video=(video_set / f"{i}.mp4").read_bytes(),
            label=i % 3,
            caption=[f"number {i}".encode(), b"or so"],
            poster=b"\xff\xd8\x00",
            seconds=1.25,
        )

    write_records(tmp_path / "a.array_record", [record(i) for i in range(COUNT)])
    source = open_source(tmp_path / "a.array_record")
    assert same_frames(source, video_set, list(range(COUNT)))
    assert source.labels["label"].tolist() == [i % 3 for i in range(COUNT)]
    assert source.captions[4] == ("number 4", "or so") and source.words["seconds"] == ["1.25"] * COUNT
    with pytest.raises(
        UserError, match="Say so by media=NAME; features of bytes are caption, clip, poster|of bytes are"
    ):
        odd = [example(one=b"\xff\x00", other=b"\xff\x01")]
        write_records(tmp_path / "b.array_record", odd)
        open_source(tmp_path / "b.array_record")
    data.train = str(tmp_path / "a.array_record")
    with train_batches(data, batch_size=8, seed=3) as batches:
        batch = next(batches)
    assert (batch["label"] == batch["id"] % 3).all()


def test_damaged_shards_and_records_are_named(tmp_path, video_set):
    data = [(video_set / f"{i}.mp4").read_bytes() for i in range(6)]
    for name in "abc":
        write_records(tmp_path / f"{name}.array_record", data, "group_size:1,uncompressed")
    whole = (tmp_path / "a.array_record").read_bytes()
    at = whole.index(data[2]) + 500
    (tmp_path / "a.array_record").write_bytes(whole[:at] + bytes(200) + whole[at + 200 :])
    (tmp_path / "b.array_record").write_bytes(whole[: len(whole) // 3])
    source = open_source(tmp_path)
    assert len(source) == 13 and list(source.store.missing(range(13))) == [6]
    with pytest.raises(BadVideo, match=r"a\.array_record::record 2: .*hash mismatch"):
        source.open(2)
    with pytest.raises(BadVideo, match=r"b\.array_record: no record of this shard can be read"):
        source.open(6)
    assert np.array_equal(frames_of(source, 12), read_frames(video_set / "5.mp4", range(10)))
    (tmp_path / "a.array_record").unlink()
    (tmp_path / "c.array_record").unlink()
    with pytest.raises(UserError, match=r"has no records, e\.g\. .*b\.array_record"):
        open_source(tmp_path)


# TFDS


@pytest.fixture
def prepared(tmp_path, video_set) -> Path:
    """A set as TFDS prepares it: two shards of three videos, each as `Video`, as images and as a file."""
    from tensorflow_datasets import features

    folder = tmp_path / "toy" / "1.0.0"
    folder.mkdir(parents=True)
    known = features.FeaturesDict(
        {
            "label": features.ClassLabel(names=["no", "yes", "maybe"]),
            "caption": features.Text(),
            "meta": {"file": features.Text()},
            "frames": features.Sequence(features.Image(shape=(24, 32, 3))),
            "mp4": features.Text(),
        }
    )
    known.save_metadata(folder)
    described = known.to_json()
    shape = {"dimensions": ["-1", "24", "32", "3"]}
    video = {"pythonClassName": VIDEO, "video": {"shape": shape, "dtype": "uint8", "encodingFormat": "png"}}
    described["content"]["features"]["video"] = video
    (folder / "features.json").write_text(json.dumps(described))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split = {"name": "train", "shardLengths": ["3", "3"], "numBytes": "9", "filepathTemplate": template}
    info = {"name": "toy", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for shard in range(2):
        records = []
        for i in range(3 * shard, 3 * shard + 3):
            images, mp4 = pngs(video_set, i), (video_set / f"{i}.mp4").read_bytes()
            fields = dict(label=i % 3, caption=f"number {i}".encode(), meta__file=f"{i}.mp4".encode())
            records.append(example(**fields, video=images, frames=images, mp4=mp4))
        write_records(folder / f"toy-train.array_record-{shard:05d}-of-00002", records)
    return folder


@pytest.mark.parametrize("media", ["", "video", "frames", "mp4"])
def test_prepared_sets_of_tfds(prepared, video_set, media):
    source = open_source({"path": str(prepared), "media": media} if media else prepared)
    assert source.labels["label"].tolist() == [0, 1, 2, 0, 1, 2]
    assert source.label_names == {"label": ["no", "yes", "maybe"]}
    assert source[4].caption == "number 4" and source.words["meta/file"][4] == "4.mp4"
    assert same_frames(pickle.loads(pickle.dumps(source)), video_set, list(range(6)))


def test_splits_and_names_of_tfds(prepared, video_set):
    part = open_source({"path": str(prepared), "split": "train[2:5]"})
    assert same_frames(part, video_set, [2, 3, 4]) and part.labels["label"].tolist() == [2, 0, 1]
    named = open_source({"path": "toy", "format": "tfds", "split": "train"}, root=str(prepared.parents[1]))
    assert same_frames(named, video_set, list(range(6)))
    with pytest.raises(UserError, match="has no split 'val'; it has train"):
        open_source({"path": str(prepared), "split": "val"})
    with pytest.raises(UserError, match=r"has no feature 'x' \(media=\)"):
        open_source({"path": str(prepared), "media": "x"})


def test_the_samples_are_those_of_tfds_data_source(prepared):
    from tensorflow_datasets import builder_from_directory

    source = open_source({"path": str(prepared), "media": "frames"})
    rows = builder_from_directory(str(prepared)).as_data_source(
        "train"
    )  # it has been told how to read `Video`
    for i in (5, 0, 3):
        row = rows[i]
        assert (row["label"], row["caption"].decode()) == (source[i].labels["label"], source[i].caption)
        assert np.array_equal(np.stack(row["frames"]), frames_of(source, i))


def test_tensorflow_is_not_loaded_and_nothing_foreign_is_imported(prepared):
    code = (
        "import sys; from input_pipeline import open_source; s = open_source(sys.argv[1]); s.open(0).read([0]); "
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(prepared)], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    text = (prepared / "features.json").read_text().replace(VIDEO, "antigravity.Video")
    (prepared / "features.json").write_text(text)
    with pytest.raises(UserError, match=r"features of the class antigravity\.Video"):
        open_source(prepared)
    assert "antigravity" not in sys.modules


def test_sets_of_tfds_in_another_form_are_refused(prepared):
    info = (prepared / "dataset_info.json").read_text()
    (prepared / "dataset_info.json").write_text(info.replace('"array_record"', '"tfrecord"'))
    with pytest.raises(
        UserError, match="is stored as tfrecord, .* prepare it with file_format='array_record'"
    ):
        open_source(prepared)
    (prepared / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="TFDS cannot read it"):
        open_source(prepared)

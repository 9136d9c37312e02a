"""Lists and labelled sets as they are published: the real files where there are some, else their layout."""

from pathlib import Path

import numpy as np
import pytest

from input_pipeline import open_source, train_batches
from input_pipeline.formats import FORMATS
from input_pipeline.formats.base import Document
from input_pipeline.labels import read_classes
from vfm.errors import UserError

from .annotated import names, write

# Lists: `path label`, SlowFast, mmaction2


def test_slowfast_lists_number_classes_as_their_own_file_says(annotations):
    folder = annotations / "kinetics"
    source = open_source(
        {"path": str(folder / "k400_val_slowfast.csv"), "labels": "kinetics_400_categroies.txt"}, root="/k"
    )
    assert len(source) == 19787 and source.paths[0] == "/k/0wR5jVB-WPk.mp4"
    assert source[0].labels == {"label": 341} and source.label_names["label"][341] == "abseiling"
    assert len(source.label_names["label"]) == 400 and np.unique(source.labels["label"]).size == 400
    assert source.paths[-1] == "/k/RZeatwX9l0o.mp4" and source[19786].labels["label"] == 331
    ucf = annotations / "ucf101"
    slow = open_source(ucf / "ucf101_split1_test_slowfast.csv")
    official = open_source(ucf / "testlist01.txt")
    assert slow.paths == official.paths
    assert slow.labels["label"].tolist() == official.labels["label"].tolist()


def test_something_something_lists_of_other_code_bases(annotations):
    folder = annotations / "ssv2"
    # Their numbers are those of the data set; category.txt is sorted with brackets and numbers 89 classes otherwise.
    spec = {"path": str(folder / "sthv2_val_list_videos.txt"), "labels": "something-something-v2-labels.csv"}
    videos = open_source(spec)
    assert len(videos) == 24776 and names(videos, folder)[0] == "10941.webm"
    assert videos[0].labels["label"] == 148 and len(videos.label_names["label"]) == 174
    frames = open_source(
        {"path": str(folder / "somesomev2_rgb_validation_split.txt"), "template": "{id}.webm"}
    )
    assert len(frames) == 24777 and names(frames, folder)[0] == "74225.webm"
    assert frames.labels["label"][[0, -1]].tolist() == [140, 134]
    first = videos.label_names["label"][
        frames.labels["label"][0]
    ]  # of 74225 in the official validation file:
    assert first == "Spinning something that quickly stops spinning"
    assert set(videos.paths) <= set(frames.paths)
    label_of = dict(zip(frames.paths, frames.labels["label"].tolist(), strict=True))
    assert [label_of[path] for path in videos.paths] == videos.labels["label"].tolist()


def test_lists_of_frame_folders(annotations):
    source = open_source(annotations / "kinetics" / "kinetics_rgb_val_se320.txt", root="/frames")
    assert len(source) == 19796 and source.paths[0] == "/frames/--07WQ2iBlw"
    assert source.labels["label"][:3].tolist() == [166, 129, 314] and list(source.labels) == ["label"]
    folder = annotations / "mmaction2"
    for name, spec, table in [
        ("rawframe_test_list.txt", {}, ([127, 127], [(0, 5), (0, 5)])),
        ("rawframe_test_list_with_offset.txt", {"kind": "rawframes_offset"}, ([127, 127], [(2, 5), (2, 5)])),
    ]:
        spec = {"format": "mmaction2"} | spec
        found = FORMATS["mmaction2"].read(Document(folder / name), FORMATS["mmaction2"].OPTIONS | spec)
        assert found.paths == ["imgs", "imgs"]
        assert (found.labels["label"].tolist(), found.frames) == table
    with pytest.raises(UserError, match="kind='rawframes_offset' or 'rawframes_multi'"):
        open_source(folder / "rawframe_test_list_with_offset.txt")


def test_lists_of_several_labels(annotations):
    folder = annotations / "mmaction2"
    videos = open_source(folder / "video_test_list_multi_label.txt")
    assert names(videos, folder) == ["test.mp4"] * 2
    assert videos.labels["label"][[0, 1]].tolist() == [[1, 0, 0, 1, 0], [1, 0, 1, 0, 1]]
    frames = open_source(
        {"path": str(folder / "rawframe_test_list_multi_label.txt"), "format": "mmaction2", "num_classes": 8}
    )
    assert frames.labels["label"][1].tolist() == [0, 0, 0, 1, 0, 1, 0, 0]
    assert names(open_source(folder / "video_test_list.txt"), folder) == ["test.mp4", "test.mp4"]
    with pytest.raises(UserError, match=r"line 2: label has 5; expected a number 0 \.\.\. 3"):
        open_source({"path": str(folder / "rawframe_test_list_multi_label.txt"), "num_classes": 4})


def test_json_of_mmaction2(annotations):
    folder = annotations / "mmaction2"
    tags = open_source(folder / "hvu_video_test_anno.json")
    assert names(tags, folder) == ["tmp.mp4", "tmp.mp4"]
    assert {name: column.classes[0] for name, column in tags.labels.items()} == {
        "action": (180,),
        "concept": (250, 131, 42, 51, 57, 155, 122),
        "object": (1570, 508),
        "event": (16,),
        "scene": (206,),
    }
    assert np.flatnonzero(tags.labels["object"][0]).tolist() == [508, 1570]
    captions = open_source(folder / "video_text_test_list.json")
    assert names(captions, folder) == ["test.mp4"] and len(captions.captions[0]) == 2
    assert captions[0].caption == "A person is cleaning a swimming pool"
    clips = open_source(folder / "rawvideo_test_anno.json")
    assert names(clips, folder) == ["rawvideo_dataset/part_0.mp4"] and clips[0].labels == {"label": 1}
    spec = {"path": str(folder / "rawvideo_test_anno.txt"), "format": "mmaction2", "kind": "rawvideo"}
    assert open_source(spec).paths == clips.paths


def test_boxes_and_predictions_are_no_source(annotations):
    folder = annotations / "mmaction2"
    for name in ("ava_sample.csv", "gt.csv", "pred.csv"):
        with pytest.raises(UserError, match="lists boxes of people"):
            open_source(folder / name)
    with pytest.raises(UserError, match="result.json: expected a JSON list of objects"):
        open_source(folder / "result.json")


def test_rows_of_several_labels_travel_in_batches(data, video_set, tmp_path):
    data.train = write(tmp_path, "list.txt", "0.mp4 0 2\n1.mp4 1\n")
    data.root = str(video_set)
    with train_batches(data, batch_size=4, seed=0) as batches:
        batch = next(batches)
    assert batch["label"].dtype == np.int32 and batch["label"].shape == (4, 3)
    expected = np.array([[1, 0, 1], [0, 1, 0]])[batch["id"]]
    assert batch["label"].tolist() == expected.tolist()


# Names of classes


def test_files_of_class_names_in_every_layout(annotations, tmp_path):
    counts = {
        "ava": 80, "diving48": 48, "hmdb51": 51, "jester": 27, "k400": 400, "k600": 600, "k700": 700, "mit": 339,
        "sthv2": 174, "ucf101": 101,
    }  # fmt: skip
    maps = {name: read_classes(annotations / "label_maps" / f"label_map_{name}.txt") for name in counts}
    assert {name: len(found.names) for name, found in maps.items()} == counts
    assert (
        maps["ava"].first == 1 and maps["ava"].names[1] == "" and maps["ava"].names[79] == "watch (a person)"
    )
    assert maps["k400"].names[0] == "abseiling" and maps["jester"].names[25] == "No gesture"
    official = read_classes(annotations / "ucf101" / "classInd.txt")
    assert official.first == 1 and official.names == maps["ucf101"].names
    labels = read_classes(annotations / "ssv2" / "something-something-v2-labels.csv")
    assert labels.names == maps["sthv2"].names
    slow = read_classes(annotations / "kinetics" / "kinetics_400_categroies.txt")
    assert slow.names[0] == "riding a bike" and sorted(slow.names) == maps["k400"].names
    named = {name: str(i) for i, name in enumerate(labels.names)}
    assert read_classes(Path(write(tmp_path, "labels.json", named))).names == labels.names
    charades = tmp_path / "classes.txt"
    charades.write_text("c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    assert read_classes(charades).names == ["Holding some clothes", "Putting clothes somewhere"]
    epic = tmp_path / "verbs.csv"
    epic.write_text("id,key,instances,category\n0,take,\"['take', 'grab']\",x\n1,put,\"['put']\",x\n")
    assert read_classes(epic).names == ["take", "put"]


# Sets of labelled videos


def test_kinetics_csv(annotations, tmp_path):
    file = annotations / "kinetics" / "kinetics-400_val.csv"
    source = open_source(file, root="/k400")
    assert len(source) == 19906 and source.paths[0] == "/k400/0wR5jVB-WPk_000417_000427.mp4"
    assert source.paths[-1] == "/k400/ZVDR2od1gn8_000037_000047.mp4" and source.lines[-1] == 19907
    classes = read_classes(annotations / "label_maps" / "label_map_k400.txt").names
    assert source.label_names["label"] == classes and source[19905].labels == {"label": 399}
    assert source.spans is None  # the files are cut
    whole = open_source({"path": str(file), "template": "{split}/{label}/{youtube_id}.mp4", "root": "/k"})
    assert whole.clip_name(0) == "/k/val/abseiling/0wR5jVB-WPk.mp4#t=417,427"
    cut = open_source({"path": str(file), "template": "{youtube_id}.mp4", "trimmed": True, "root": "/k"})
    assert cut.clip_name(0) == "/k/0wR5jVB-WPk.mp4"
    other = {"path": str(file), "labels": "kinetics_400_categroies.txt"}
    slow = dict(zip(*_columns(annotations / "kinetics" / "k400_val_slowfast.csv"), strict=True))
    found = open_source(other)
    both = [i for i, video in enumerate(found.words["youtube_id"]) if f"{video}.mp4" in slow]
    assert len(both) > 19000
    assert all(found.labels["label"][i] == slow[f"{found.words['youtube_id'][i]}.mp4"] for i in both)
    with pytest.raises(UserError, match="no row has split='train'; it has: val"):
        open_source({"path": str(file), "split": "train"})
    with pytest.raises(
        UserError, match=r"line 2: template='\{id\}.mp4' does not fit .*\{label\}, \{youtube_id\}"
    ):
        open_source({"path": str(file), "template": "{id}.mp4"})
    test_set = write(
        tmp_path,
        "test.csv",
        [("youtube_id", "time_start", "time_end", "split"), ("a", "1.0", "11.0", "test")],
    )
    assert open_source(test_set).labels == {} and open_source(test_set).paths[0].endswith(
        "a_000001_000011.mp4"
    )


def _columns(file):
    source = open_source(file)
    return names(source, file.parent), source.labels["label"].tolist()


def test_kinetics_json(annotations, tmp_path):
    source = open_source(annotations / "kinetics" / "k400_train_10shot.json", root="/v")
    assert len(source) == 4000 and source.paths[0] == "/v/vc_data/k400/train/opcSPMgP0Zs_000394_000404.mp4"
    assert np.bincount(source.labels["label"]).tolist() == [10] * 400
    classes = read_classes(annotations / "label_maps" / "label_map_k400.txt").names
    assert source.label_names["label"] == classes
    official = {
        "b": {"annotations": {"label": "yoga", "segment": [84.0, 94.0]}, "duration": 10.0, "subset": "train"},
        "a": {"annotations": {"label": "abseiling", "segment": [1.5, 9]}, "duration": 10.0, "subset": "test"},
    }
    source = open_source({"path": write(tmp_path, "kinetics.json", official), "split": "train"})
    assert names(source, tmp_path) == ["b_000084_000094.mp4"] and source.labels["label"].tolist() == [1]
    assert source.label_names["label"] == ["abseiling", "yoga"]


def test_something_something_json(annotations, tmp_path):
    rows = [
        {"id": "78687", "label": "holding potato next to vicks vaporub bottle",
         "template": "Holding [something] next to [something]", "placeholders": ["potato", "vicks vaporub bottle"]},
        {"id": "42326", "label": "spreading margarine onto bread",
         "template": "Spreading [something] onto [something]", "placeholders": ["margarine", "bread"]},
    ]  # fmt: skip
    file = write(tmp_path, "train.json", rows)
    with pytest.raises(UserError, match="the file that numbers the classes is not beside it"):
        open_source(file)
    for labels in ("something-something-v2-labels.csv", "category.txt"):
        source = open_source({"path": file, "labels": str(annotations / "ssv2" / labels)})
        assert names(source, tmp_path) == ["78687.webm", "42326.webm"]
        label = source.labels["label"][0]
        assert source.label_names["label"][label] == "Holding something next to something"
        assert source[1].caption == "spreading margarine onto bread"
    official = read_classes(annotations / "ssv2" / "something-something-v2-labels.csv").names
    write(tmp_path, "labels.json", {name: str(i) for i, name in enumerate(official)})
    assert open_source(file).labels["label"].tolist() == [
        official.index("Holding something next to something"),
        official.index("Spreading something onto something"),
    ]
    test_set = open_source(write(tmp_path, "test.json", [{"id": "1420"}, {"id": "9"}]))
    assert (
        names(test_set, tmp_path) == ["1420.webm", "9.webm"] and not test_set.labels and not test_set.captions
    )


def test_ucf101_lists(annotations, tmp_path):
    folder = annotations / "ucf101"
    sets = {
        name: open_source(folder / f"{name}.txt", root="/ucf")
        for name in ("trainlist01", "testlist01", "testlist02")
    }
    assert {name: len(source) for name, source in sets.items()} == {
        "trainlist01": 9537, "testlist01": 3783, "testlist02": 3734,
    }  # fmt: skip
    classes = read_classes(annotations / "label_maps" / "label_map_ucf101.txt").names
    for source in sets.values():
        assert source.label_names["label"] == classes
        assert (source[0].labels, source[len(source) - 1].labels) == ({"label": 0}, {"label": 100})
        for index in range(0, len(source), 97):
            assert f"/{classes[source.labels['label'][index]]}/" in source.paths[index]
    assert not set(sets["trainlist01"].paths) & set(sets["testlist01"].paths)
    assert sets["trainlist01"].words["group"][0] == "08"
    alone = tmp_path / "trainlist01.txt"
    alone.write_text((folder / "trainlist01.txt").read_text())
    assert open_source(alone).labels["label"].tolist() == sets["trainlist01"].labels["label"].tolist()
    (tmp_path / "testlist01.txt").write_text((folder / "testlist01.txt").read_text())
    assert open_source(tmp_path / "testlist01.txt").labels == {}
    zero = write(tmp_path, "zero.txt", "A/v_A_g01_c01.avi 0 \nB/v_B_g01_c01.avi 1\t\n")
    assert open_source(zero).labels["label"].tolist() == [0, 1]  # numbered from 0, with blanks at the ends
    wrong = write(tmp_path, "wrong.txt", "Archery/v_Archery_g08_c01.avi 4\n")
    with pytest.raises(UserError, match=r"line 1: says 4 for Archery, classInd.txt says 3"):
        open_source({"path": wrong, "labels": str(folder / "classInd.txt")})


def test_hmdb51_lists(annotations, tmp_path):
    classes = read_classes(annotations / "label_maps" / "label_map_hmdb51.txt").names
    for name in classes:
        for fold in (1, 2, 3):
            lines = [f"{name}_{i}.avi {(i + fold) % 3} \n" for i in range(5)]
            write(tmp_path, f"{name}_test_split{fold}.txt", "".join(lines))
    spec = {"path": str(tmp_path), "root": "/hmdb"}
    train, test = (open_source(spec | {"split": split}) for split in ("train", "test"))
    assert len(train) == 51 * 2 and train.paths[:2] == [
        f"/hmdb/brush_hair/brush_hair_{i}.avi" for i in (0, 3)
    ]
    assert (
        len(test) == 51 * 2
        and test.paths[-1] == "/hmdb/wave/wave_4.avi"
        and test[101].labels == {"label": 50}
    )
    assert train.label_names == {"label": classes}
    assert open_source(spec | {"split": "test", "fold": 2}).paths[0] == "/hmdb/brush_hair/brush_hair_0.avi"
    with pytest.raises(UserError, match="say which with split='train' or split='test'"):
        open_source(tmp_path)

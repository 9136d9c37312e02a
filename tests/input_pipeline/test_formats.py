"""Annotation files as they are published: the real ones where there are some, else small ones in their layout."""

import csv
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import open_source, train_batches
from input_pipeline.formats import FORMATS, detect
from input_pipeline.formats.base import Document
from input_pipeline.labels import MultiLabel, read_classes
from vfm.errors import UserError

from . import damaged


@pytest.fixture(scope="module")
def annotations(shared):
    return shared / "data" / "annotations"


def names(source, folder) -> list[str]:
    return [path.removeprefix(f"{folder}/") for path in source.paths]


def write(folder, name: str, content) -> str:
    """A file of text, of rows (CSV) or of a value (JSON)."""
    file = folder / name
    if isinstance(content, str):
        file.write_text(content)
    elif isinstance(content, list) and isinstance(content[0], tuple):
        text = io.StringIO()
        csv.writer(text, delimiter="\t" if name.endswith(".tsv") else ",").writerows(content)
        file.write_text(text.getvalue())
    else:
        file.write_text(json.dumps(content))
    return str(file)


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
    videos = open_source({"path": str(folder / "sthv2_val_list_videos.txt"), "labels": "category.txt"})
    assert len(videos) == 24776 and names(videos, folder)[0] == "10941.webm"
    assert videos[0].labels["label"] == 148 and len(videos.label_names["label"]) == 174
    frames = open_source(
        {"path": str(folder / "somesomev2_rgb_validation_split.txt"), "template": "{id}.webm"}
    )
    assert len(frames) == 24777 and names(frames, folder)[0] == "74225.webm"
    assert frames.labels["label"][[0, -1]].tolist() == [140, 134]
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


# Sets of videos with texts


def test_msrvtt(annotations, tmp_path):
    folder = annotations / "msrvtt"
    test_set = open_source(folder / "MSRVTT_JSFUSION_test.csv", root="/m")
    assert len(test_set) == 1000 and test_set.paths[0] == "/m/video9770.mp4"
    assert test_set[0].caption == "a person is connecting something to system"
    assert test_set[999].caption == "bearded guy in grey tshirt talking to the camera"
    texts = [some[0] for some in test_set.captions]
    assert all(len(some) == 1 for some in test_set.captions) and len(set(texts)) < 1000  # some are alike
    train = open_source(folder / "MSRVTT_train.9k.csv")
    assert len(train) == 9000 and names(train, folder)[-1] == "video9999.mp4" and not train.captions
    assert not {path.rsplit("/")[-1] for path in train.paths} & {
        path.rsplit("/")[-1] for path in test_set.paths
    }
    whole = {
        "info": {"year": 2016},
        "videos": [
            {"video_id": f"video{i}", "category": i % 20, "split": split, "start time": 1.0, "end time": 9.0}
            for i, split in [(0, "train"), (1, "train"), (7010, "validate"), (7020, "test")]
        ],
        "sentences": [
            {"video_id": f"video{i}", "caption": f"caption {k} of {i}", "sen_id": k}
            for k in range(20)
            for i in (1, 0, 7010, 7020)
            if (k, i) != (19, 1)  # two videos of the real file have 19
        ],
    }
    file = write(tmp_path, "MSRVTT_data.json", whole)
    assert len(open_source(file)) == 4
    source = open_source({"path": file, "split": "train"})
    assert names(source, tmp_path) == ["video0.mp4", "video1.mp4"] and source.labels["category"].tolist() == [
        0,
        1,
    ]
    assert [len(some) for some in source.captions] == [20, 19]
    assert source.captions[0][:2] == ("caption 0 of 0", "caption 1 of 0")
    ids = write(tmp_path, "ids.csv", "video_id\nvideo7020\nvideo1\n")
    assert names(open_source({"path": file, "split": ids}), tmp_path) == ["video1.mp4", "video7020.mp4"]
    with pytest.raises(UserError, match="8997 ids of split=.* are not in it"):
        open_source({"path": file, "split": str(folder / "MSRVTT_train.9k.csv")})
    with pytest.raises(
        UserError, match="split='val' is no file and no split here; it has: test, train, validate"
    ):
        open_source({"path": file, "split": "val"})


def test_msvd(tmp_path):
    raw = {
        "-4wsuPCjDBc_5_15": [["a", "squirrel", "eats"], ["a", "chipmunk"]],
        "mv89psg6zh4_33_46": [["a", "bird"]],
    }
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(raw, protocol=2))
    source = open_source(tmp_path / "raw-captions.pkl")
    assert names(source, tmp_path) == ["-4wsuPCjDBc_5_15.avi", "mv89psg6zh4_33_46.avi"]
    assert source.captions[0] == ("a squirrel eats", "a chipmunk")
    split = write(tmp_path, "test_list.txt", "mv89psg6zh4_33_46\n")
    chosen = open_source({"path": str(tmp_path / "raw-captions.pkl"), "split": split, "template": "{id}.mp4"})
    assert names(chosen, tmp_path) == ["mv89psg6zh4_33_46.mp4"]
    lines = (
        "# All\n\n-4wsuPCjDBc_5_15 a squirrel eats\n-4wsuPCjDBc_5_15 a chipmunk\nmv89psg6zh4_33_46 a bird\n"
    )
    assert open_source(write(tmp_path, "AllVideoDescriptions.txt", lines)).captions == source.captions


class _Harm:
    def __reduce__(self):
        return open, ("harm", "w")


def test_pickles_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps({"x": _Harm()}))
    with pytest.raises(UserError, match="is no pickle of .* .holds .*open"):
        open_source(tmp_path / "raw-captions.pkl")
    assert not (tmp_path / "harm").exists()


def test_didemo_paragraphs_and_moments(tmp_path):
    rows = [
        {"annotation_id": 1, "video": "a@N01.mov", "num_segments": 6, "description": "a dog runs.",
         "times": [[1, 1], [0, 0], [1, 1], [0, 0]]},
        {"annotation_id": 2, "video": "b@N02.mov", "num_segments": 5, "description": "a cat sits.", "times": [[2, 4]]},
        {"annotation_id": 3, "video": "a@N01.mov", "num_segments": 6, "description": "it stops.", "times": [[0, 5]]},
    ]  # fmt: skip
    file = write(tmp_path, "test_data.json", rows)
    source = open_source(file)
    assert names(source, tmp_path) == ["a@N01.mov", "b@N02.mov"]
    assert source.captions == [("a dog runs. it stops.",), ("a cat sits.",)]
    assert source.spans.tolist() == [[0, 30], [0, 30]]
    assert open_source({"path": file, "seconds": 0}).spans is None
    moments = open_source({"path": file, "paragraphs": False})
    assert moments.spans.tolist() == [[5, 10], [10, 25], [0, 30]] and moments[2].caption == "it stops."
    assert moments.lines == [1, 2, 3]


def test_activitynet_captions_and_actions(annotations, tmp_path):
    captions = {
        "v_QOlSCBRmfWY": {"duration": 82.73, "timestamps": [[0.83, 19.86], [60.81, 17.37]],
                          "sentences": ["A young woman is seen.", " The girl dances."]},
        "v_ehGHCYKzyZ8": {"duration": 61.72, "timestamps": [[0, 8.3]], "sentences": ["A rider."]},
    }  # fmt: skip
    file = write(tmp_path, "val_1.json", captions)
    paragraphs = open_source(file)
    assert (
        names(paragraphs, tmp_path) == ["v_QOlSCBRmfWY.mp4", "v_ehGHCYKzyZ8.mp4"] and paragraphs.spans is None
    )
    assert paragraphs[0].caption == "A young woman is seen. The girl dances."
    moments = open_source({"path": file, "paragraphs": False})
    assert moments.spans.tolist() == [[0.83, 19.86], [17.37, 60.81], [0, 8.3]]
    assert [some[0] for some in moments.captions] == [
        "A young woman is seen.",
        "The girl dances.",
        "A rider.",
    ]
    actions = open_source(annotations / "mmaction2" / "gt.json")
    assert [path.rsplit("/")[-1] for path in actions.paths] == ["v_bYUmtLBL7W4.mp4"] * 3 + [
        "v_hDPLy21Yyuk.mp4"
    ]
    assert actions.label_names == {"label": ["Cleaning shoes", "Wakeboarding"]}
    assert actions.labels["label"].tolist() == [1, 1, 1, 0]
    assert actions.spans[3].tolist() == [21.392480499219968, 76.161]
    short = open_source(annotations / "mmaction2" / "action_test_anno.json")
    assert short.spans.tolist() == [[0.3, 0.6], [1.0, 2.0]] and short.labels["label"].tolist() == [1, 0]
    with pytest.raises(UserError, match="no video has subset 'train'; there is: validation"):
        open_source({"path": str(annotations / "mmaction2" / "gt.json"), "split": "train"})


def test_egoclip(tmp_path):
    head = (
        "clip_idx", "video_uid", "video_dur", "narration_source", "narration_ind", "narration_time", "clip_start",
        "clip_end", "clip_text", "tag_verb", "tag_noun",
    )  # fmt: skip
    rows = [
        head,
        ("0", "uid-1", "1800.5", "pass_1", "0", "3.2", "2.5", "4.0", "#C C picks, then drops", "[93, 1]",
         "[581]"),
        ("1", "uid-1", "1800.5", "pass_1", "1", "650", "649.5", "651.25", "#C C walks", "[]", "[3, 4]"),
    ]  # fmt: skip
    file = write(tmp_path, "egoclip.tsv", rows)
    source = open_source(file)
    assert (
        names(source, tmp_path) == ["uid-1.mp4", "uid-1.mp4"]
        and source[0].caption == "#C C picks, then drops"
    )
    assert source.spans.tolist() == [[2.5, 4.0], [649.5, 651.25]]
    rows = source.labels["verb"][[0, 1]]
    assert rows.shape == (2, 118) and np.flatnonzero(rows[0]).tolist() == [1, 93] and rows[1].sum() == 0
    assert source.labels["noun"][0].shape == (582,)
    chunks = open_source({"path": file, "template": "{video_uid}/{chunk}.mp4", "chunk_seconds": 600})
    assert chunks.clip_name(1) == f"{tmp_path}/uid-1/1.mp4#t=49.5,51.25"


def test_epic_kitchens(tmp_path):
    head = (
        "narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp",
        "start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns",
        "all_noun_classes",
    )  # fmt: skip
    rows = [
        head,
        ("P01_01_0", "P01", "P01_01", "00:00:01.089", "00:00:00.14", "00:00:03.37", "8", "202", "open door", "open",
         "3", "door", "3", "['door']", "[3]"),
        ("P02_09_1", "P02", "P02_09", "01:00:02.0", "01:00:01.5", "01:00:03", "8", "202", "turn on light", "turn-on",
         "6", "light", "114", "['light']", "[114]"),
    ]  # fmt: skip
    file = write(tmp_path, "EPIC_100_train.csv", rows)
    source = open_source(file)
    assert names(source, tmp_path) == ["P01/videos/P01_01.MP4", "P02/videos/P02_09.MP4"]
    assert source.spans.tolist() == [[0.14, 3.37], [3601.5, 3603.0]]
    assert [column.tolist() for column in source.labels.values()] == [[3, 6], [3, 114]]
    assert source.words["participant_id"] == ["P01", "P02"] and source[1].caption == "turn on light"
    verbs = "id,key,instances\n" + "".join(f"{i},verb{i},x\n" for i in range(97))
    write(tmp_path, "EPIC_100_verb_classes.csv", verbs)
    assert open_source(file).label_names["verb"][3] == "verb3"


def test_charades_ego(tmp_path):
    head = (
        "id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions", "actions",
        "length", "egocentric", "charades_video",
    )  # fmt: skip
    rows = [
        head,
        ("A1EGO", "X", "Home", "6", "7", "Yes", "A person reads.", "book", "Reading, then leaving",
         "c032 1.50 20.00;c156 0.00 3.10", "30.5", "Yes", "A1"),
        ("A1", "X", "Home", "6", "7", "Yes", "A person reads.", "book", "", "", "30.5", "No", "A1"),
    ]  # fmt: skip
    file = write(tmp_path, "CharadesEgo_v1_test.csv", rows)
    source = open_source(file)
    assert names(source, tmp_path) == ["A1EGO.mp4", "A1.mp4"] and isinstance(
        source.labels["label"], MultiLabel
    )
    rows = source.labels["label"][[0, 1]]
    assert rows.shape == (2, 157) and np.flatnonzero(rows[0]).tolist() == [32, 156] and not rows[1].any()
    assert source.captions == [("Reading, then leaving", "A person reads."), ("A person reads.",)]
    assert names(open_source({"path": file, "view": "third"}), tmp_path) == ["A1.mp4"]
    write(tmp_path, "Charades_v1_classes.txt", "".join(f"c{i:03d} Doing {i}\n" for i in range(157)))
    moments = open_source({"path": file, "moments": True})
    assert moments.spans.tolist() == [[1.5, 20.0], [0.0, 3.1]] and moments.labels["label"].tolist() == [
        32,
        156,
    ]
    assert moments[1].caption == "Doing 156"


def test_webvid_lsmdc_and_vatex(tmp_path):
    head = ("videoid", "contentUrl", "duration", "page_dir", "name")
    webvid = write(
        tmp_path, "results_2M_val.csv", [head, ("1", "u", "PT00H00M30S", "006001_006050", "Waves, sea.")]
    )
    source = open_source(webvid)
    assert names(source, tmp_path) == ["006001_006050/1.mp4"] and source[0].caption == "Waves, sea."
    clip = "1004_Juno_00.00.32.107-00.00.33.578"
    lsmdc = write(tmp_path, "LSMDC16_val.csv", f'{clip}\t00.1\t00.2\t00.1\t00.2\tSOMEONE holds a "cup".\n')
    source = open_source(lsmdc)
    assert (
        names(source, tmp_path) == [f"1004_Juno/{clip}.avi"] and source[0].caption == 'SOMEONE holds a "cup".'
    )
    vatex = [{"videoID": "Ptf_2VRj-V0_000122_000132", "enCap": ["A man.", "A person."], "chCap": ["x"]}]
    file = write(tmp_path, "vatex.json", vatex)
    assert open_source(file).captions == [("A man.", "A person.")]
    assert open_source({"path": file, "language": "zh"}).captions == [("x",)]


def test_llava_video_as_published(tmp_path):
    rows = [
        {"id": "ego-1", "conversations": [
            {"from": "human", "value": "<image>\nWhat is held?\nPlease answer briefly."},
            {"from": "gpt", "value": "A cup."},
            {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "At the sink."}],
         "data_source": "0_30_s_academic_v0_1", "video": "academic_source/Ego4D/ego-1.mp4"},
        {"id": "ego-2", "conversations": [
            {"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": "A room."}],
         "data_source": "0_30_s_academic_v0_1", "video": "academic_source/Ego4D/ego-2.mp4"},
    ]  # fmt: skip
    source = open_source(write(tmp_path, "0_30_s_academic_oe_v0_1_qa_processed.json", rows))
    assert names(source, tmp_path) == [row["video"] for row in rows] and source.labels == {}
    assert source.turns[0] == (
        ("What is held?\nPlease answer briefly.", "A cup."),
        ("Where?", "At the sink."),
    )
    assert source.captions == [("A cup.", "At the sink."), ("A room.",)]


# Formats in general


def test_columns_of_any_table_make_paths_and_spans(tmp_path):
    file = write(
        tmp_path,
        "list.csv",
        [("vid", "start_time", "end_time", "label"), ("a", "1", "2.5", "dog"), ("b", "", "", "cat")],
    )
    source = open_source({"path": file, "template": "clips/{vid}.mp4"})
    assert names(source, tmp_path) == ["clips/a.mp4", "clips/b.mp4"]
    assert source.clip_name(0).endswith("a.mp4#t=1,2.5") and source.clip_name(1).endswith("b.mp4")
    assert source.labels["label"].tolist() == [1, 0] and list(source.labels) == ["label"]


def test_label_columns_may_be_named(tmp_path):
    rows = [
        ("path", "width", "signer", "sign"),
        ("a.mp4", "640", "p2", "3"),
        ("b.mp4", "-", "p1", "0"),
        ("c.mp4", "9", "p2", "1"),
    ]
    file = write(tmp_path, "list.csv", rows)
    with pytest.raises(UserError, match="line 3: width is '-'"):
        open_source(file)
    source = open_source({"path": file, "label": "signer, sign"})
    assert {name: column.tolist() for name, column in source.labels.items()} == {
        "signer": [1, 0, 1],
        "sign": [3, 0, 1],
    }
    assert source.label_names == {"signer": ["p1", "p2"]}
    with pytest.raises(UserError, match="label='sing': no such column; it has: path, width"):
        open_source({"path": file, "label": "sing"})


def test_what_may_be_several_formats_is_asked_about(tmp_path, monkeypatch):
    document = Document(tmp_path / "list.txt")
    document.path.write_text("a.mp4 1 2\n")
    assert detect(document, {}) == "mmaction2"
    monkeypatch.setattr(FORMATS["webvid"], "detect", lambda document: True)
    with pytest.raises(
        UserError, match="may be of the formats mmaction2, webvid; say which with format=NAME"
    ):
        detect(document, {})
    assert len(open_source({"path": str(document.path), "format": "mmaction2"})) == 1


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "msvd"])
def test_a_file_of_another_format_is_refused_and_not_misread(tmp_path, name):
    """Whatever `format` says, a file that is not of it ends in a sentence."""
    for file, text in (
        ("x.json", '[{"a": 1}]'),
        ("y.json", '{"a": {"b": 2}}'),
        ("z.csv", "one,two\nx y z,?\n"),
    ):
        with pytest.raises(UserError):
            open_source({"path": write(tmp_path, file, text), "format": name})


@pytest.mark.parametrize("name", [*damaged.JSON, *damaged.TEXT])
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path, name):
    """Never another exception, and never a source whose samples cannot be asked for."""
    write(tmp_path, "labels.json", {"Holding something": "0", "Closing something": "1"})
    whole = damaged.JSON.get(name, damaged.TEXT.get(name))
    file = write(tmp_path, name if name in damaged.TEXT else f"{name}.json", whole)
    assert len(open_source(file)) >= 1
    change = damaged.damaged_text if isinstance(whole, str) else damaged.damaged_json
    rng, refused = np.random.default_rng(0), 0
    for _ in range(30):
        write(tmp_path, Path(file).name, change(whole, rng))
        try:
            source = open_source(file)
        except UserError:
            refused += 1
        else:
            assert len([source[i] for i in range(len(source))]) == len(source) > 0
    assert refused


def test_impossible_class_numbers_are_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="line 1: .*expected 'Class/v_Class"):
        open_source({"path": write(tmp_path, "ucf.txt", f"A/v_A_g1_c1.avi {10**15}\n"), "format": "ucf101"})
    with pytest.raises(UserError, match="line 1: label has 1000000000000000; expected"):
        open_source(write(tmp_path, "list.txt", f"a.mp4 0 {10**15}\n"))

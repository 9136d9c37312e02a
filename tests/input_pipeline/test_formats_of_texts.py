"""Sets of videos with texts as they are published: the real files where there are some, else their layout."""

import pickle

import numpy as np
import pytest

from input_pipeline import open_source
from input_pipeline.labels import MultiLabel
from vfm.errors import UserError

from .annotated import names, write

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
    official = {
        "version": "1.3", "taxonomy": [{"nodeName": "Root"}],
        "database": {
            "a": {"duration": 9.0, "subset": "training", "annotations": [{"segment": [1, 2.5], "label": "Zumba"}]},
            "b": {"duration": 9.0, "subset": "validation", "annotations": [{"segment": [0, 9], "label": "Archery"}]},
            "c": {"duration": 9.0, "subset": "testing", "annotations": []},
        },
    }  # fmt: skip
    file = write(tmp_path, "activity_net.v1-3.min.json", official)
    train = open_source({"path": file, "split": "training", "template": "v_{id}.mp4"})
    assert train.clip_name(0) == f"{tmp_path}/v_a.mp4#t=1,2.5" and len(train) == 1
    assert train.label_names == {"label": ["Archery", "Zumba"]} and train[0].labels == {"label": 1}
    assert len(open_source(file)) == 2
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

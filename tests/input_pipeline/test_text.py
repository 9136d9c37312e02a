"""Text beside the clips: drawn by position alone, framed for its objective, left out by name, never replaced."""

import json
import logging
import math

import numpy as np
import pytest

from configs.common import get_config
from input_pipeline import (
    batch_shapes,
    embedded,
    eval_batches,
    open_source,
    open_tokenizer,
    train_batches,
    write_mp4,
)
from input_pipeline.decode import Video
from input_pipeline.text import text_id
from vfm.errors import UserError

from .conftest import COUNT, pixels
from .test_batches import fingerprint, joined, take

BYTES = open_tokenizer("bytes")


@pytest.fixture
def texts(data):
    """`data` with the smallest clips and bytes as text."""
    data.frames, data.size, data.crop = 1, 8, "resize"
    data.text.tokenizer, data.text.length = "bytes", 24
    return data


def listed(data, video_set, tmp_path, rows, name="list.csv"):
    """Points `data` at a list of its own that reaches the same videos."""
    (tmp_path / name).write_text(rows)
    data.train, data.root = str(tmp_path / name), str(video_set)


def words(batch, prefix="") -> list[str]:
    return [BYTES.decode(row) for row in batch[f"{prefix}text"]]


def answers(batch) -> list[str]:
    rows = zip(batch["text"], batch["text_loss"], strict=True)
    return [BYTES.decode([i for i in row[loss] if i != BYTES.eos]) for row, loss in rows]


def test_text_of_the_embedded_set_whatever_hosts_workers_and_restarts(tmp_path):
    folder = embedded.make(tmp_path / "digits", {"train": 12, "validation": 1, "test": 1}, workers=1)
    data = get_config().data
    data.train, data.frames, data.stride, data.size, data.crop = str(folder / "train.csv"), 1, 1, 8, "resize"
    data.text.tokenizer, data.text.length = "bytes", 80
    captions = [some[0] for some in open_source(data.train).captions]
    whole = take(data, 4)
    for batch in whole:
        assert words(batch) == [captions[i] for i in batch["id"]]
        assert (batch["text_mask"] == (batch["text"] != BYTES.pad)).all()
        assert (batch["text_loss"] == batch["text_mask"] & (batch["text"] != BYTES.bos)).all()
        assert batch["text_id"].tolist() == [text_id(text) for text in words(batch)]
    shapes = batch_shapes(data, 8)
    assert all(
        whole[0][name].shape == shape and whole[0][name].dtype == kind
        for name, (shape, kind) in shapes.items()
    )
    expected = [fingerprint(batch) for batch in whole]
    assert [fingerprint(b) for b in take(data, 2, start=2)] == expected[2:]
    assert joined([take(data, 4, slice(0, 4)), take(data, 4, slice(4, 8))]) == expected
    data.workers = 1
    assert joined([take(data, 2)]) == expected[:2]
    data.workers, data.cache, data.cache_size = 0, True, 8
    cached = take(data, 4)
    for name in ("text", "text_mask", "text_loss", "text_id", "id"):
        assert all((a[name] == b[name]).all() for a, b in zip(cached, whole, strict=True))


def test_without_a_tokenizer_there_is_no_text(data):
    data.frames, data.size = 1, 8
    assert not any(name.startswith("text") for name in take(data, 1)[0])


@pytest.mark.parametrize("form", ["csv", "json"])
def test_of_several_captions_one_is_drawn_for_each_clip(texts, video_set, tmp_path, form):
    if form == "csv":
        rows = 'path,caption\n0.mp4,"[""first"", ""second"", """"]"\n1.mp4,alone\n0.mp4,[laughs]\n'
        listed(texts, video_set, tmp_path, rows)
    else:
        items = [
            {"video": "0.mp4", "captions": ["first", "second", " "], "take": 3},
            {"path": "1.mp4", "caption": "alone", "take": 4},
            {"video": "0.mp4", "caption": ["[laughs]"], "take": 5},
        ]
        listed(texts, video_set, tmp_path, json.dumps(items), "list.json")
        assert open_source(texts.train).labels["take"].tolist() == [3, 4, 5]
    assert list(map(list, open_source(texts.train).captions)) == [
        ["first", "second", ""],
        ["alone"],
        ["[laughs]"],
    ]
    batches = take(texts, 8, batch_size=6)
    drawn = [[], [], []]
    for batch in batches:
        for i, text in zip(batch["id"], words(batch), strict=True):
            drawn[i].append(text)
    assert (
        set(drawn[0]) == {"first", "second"} and set(drawn[1]) == {"alone"} and set(drawn[2]) == {"[laughs]"}
    )
    again = take(texts, 2, batch_size=6, start=6)
    assert [words(b) for b in again] == [words(b) for b in batches[6:]]
    assert sum(words(take(texts, 1, batch_size=6, seed=s)[0]) == words(batches[0]) for s in range(4, 8)) < 4
    plain = get_config().data.text.tokenizer
    seen = [b["video"] for b in batches]
    texts.text.tokenizer = plain  # captions change nothing about the clips
    assert all((a == b["video"]).all() for a, b in zip(seen, take(texts, 8, batch_size=6), strict=True))


def test_a_prompt_is_read_and_only_the_answer_is_learned(texts):
    texts.text.prompt, texts.text.length = "what is it? ", 40
    batch = take(texts, 1)[0]
    captions = [f"number {i}, moving" for i in batch["id"]]
    assert words(batch) == [f"what is it? {caption}" for caption in captions] and answers(batch) == captions
    ends = batch["text"] == BYTES.eos
    assert (ends.sum(1) == 1).all() and (
        batch["text_loss"] & ends
    ).sum() == 8  # the end is learned, padding is not
    assert not (batch["text_loss"] & ~batch["text_mask"]).any()
    texts.text.answer_only = False
    assert answers(take(texts, 1)[0]) == words(batch)
    texts.text.length = 17  # a caption that is too long leaves the prompt whole, as generation gives it
    assert words(take(texts, 1)[0]) == ["what is it? num"] * 8
    texts.text.length = 13
    with pytest.raises(UserError, match="data.text.prompt has 12 tokens, which leaves no room"):
        take(texts, 1)


@pytest.mark.parametrize("prompt", ["", "see: "])
def test_long_captions_are_cut_before_their_end_and_counted_once(texts, prompt, caplog):
    texts.text.length, texts.text.prompt = 17, prompt
    caplog.set_level(logging.INFO)
    batch = take(texts, 2)[0]
    assert (batch["text"][:, -1] == BYTES.eos).all() and batch["text_loss"][:, -1].all()
    whole = [f"{prompt}number {i}, moving" for i in batch["id"]]
    assert all(long.startswith(cut) and len(cut) == 15 for long, cut in zip(whole, words(batch), strict=True))
    said = [r.message for r in caplog.records if "are cut" in r.message]
    assert (
        len(said) == 1
        and said[0].startswith("12 of 12 texts of ")
        and "data.text.length=17 tokens" in said[0]
    )


def test_empty_captions_are_left_out_by_name_or_end_the_run(texts, video_set, tmp_path, caplog):
    rows = [
        "path,caption",
        *(f"{i}.mp4,{'' if i == 2 else ' ... ' if i == 5 else f'video {i}'}" for i in range(8)),
    ]
    listed(texts, video_set, tmp_path, "\n".join(rows) + "\n")
    with pytest.raises(
        UserError, match=r"2 of 8 captions are empty, .*allows 0: .*list.csv line 4, .*list.csv line 7"
    ):
        take(texts, 1)
    texts.max_bad_fraction = 0.5
    with train_batches(texts, batch_size=6, seed=3) as batches:
        ids = np.concatenate([next(batches)["id"] for _ in range(3)])
        assert batches.num_examples == 6
        left_out = batches.bad_files
    assert (np.sort(ids.reshape(3, 6), 1) == [0, 1, 3, 4, 6, 7]).all()  # ids stay places in the list
    assert [e["path"].rpartition("/")[2] for e in left_out] == ["list.csv line 4", "list.csv line 7"]
    assert {e["reason"] for e in left_out} == {"its caption is empty"}
    assert any("2 of 8 samples" in record.message for record in caplog.records)


def test_evaluation_shows_the_first_caption_and_samples_without_one(texts, video_set, tmp_path):
    listed(texts, video_set, tmp_path, 'path,caption\n0.mp4,"[""first"", ""second""]"\n1.mp4,\n2.mp4,last\n')
    with eval_batches(texts, texts.train, batch_size=4) as batches:
        (batch,) = list(batches)
    assert words(batch) == ["first", "", "last", ""] and batch["mask"].tolist() == [1, 1, 1, 0]
    assert batch["text_mask"].any(1).tolist() == [True, False, True, False]
    assert batch["text_id"].tolist() == [text_id("first"), -1, text_id("last"), 0]
    listed(texts, video_set, tmp_path, "path,label\n0.mp4,1\n", "bare.csv")
    with eval_batches(texts, texts.train, batch_size=1) as batches:  # such sets are for probes
        assert "text" not in next(iter(batches))
    with pytest.raises(
        UserError, match=r"no column 'caption' of captions \(columns of text: none\); set data.text.col"
    ):
        take(texts, 1)


def test_another_column_and_equal_captions(texts, video_set, tmp_path):
    listed(texts, video_set, tmp_path, "path,said\n0.mp4,a dog\n1.mp4,A  Dog\n2.mp4,a cat\n")
    texts.text.column = "said"
    batch = take(texts, 1, batch_size=3)[0]
    ids = batch["text_id"][np.argsort(batch["id"])]
    assert ids[0] == ids[1] != ids[2] and (ids >= 0).all()


def test_a_list_whose_videos_are_all_missing(texts, tmp_path):
    (tmp_path / "list.csv").write_text("path,caption\na.mp4,x\nb.mp4,y\n")
    texts.train, texts.max_bad_fraction = str(tmp_path / "list.csv"), 1.0
    with pytest.raises(
        UserError, match=r"none of its files is there, e.g. .*a.mp4: no such file .*line 2\); set data.r"
    ):
        take(texts, 1)


# Conversations


def conversation(video, *said, **more):
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
    return json.dumps({"video": video, "conversations": turns} | more) + "\n"


def test_conversations_learn_their_answers_alone(texts, video_set, tmp_path):
    rows = conversation("0.mp4", "<video>\nWho?", "a dog", "Where?", "outside") + "\n"
    rows += conversation("1.mp4", "Who?\n<image>", "a cat", name="x")
    listed(texts, video_set, tmp_path, rows, "list.jsonl")
    texts.text.length, texts.text.turn = 40, "Q:{} A:"
    batch = take(texts, 1, batch_size=2)[0]
    order = np.argsort(batch["id"])
    flat = [
        bytes(i - 4 if i > 3 else ord("^|"[i - 1]) for i in row if i).decode() for row in batch["text"][order]
    ]
    assert flat == ["^Q:Who? A:a dog|Q:Where? A:outside|", "^Q:Who? A:a cat|"]
    learned = [answers({k: v[i : i + 1] for k, v in batch.items()})[0] for i in order]
    assert learned == ["a dogoutside", "a cat"]
    assert (batch["text_loss"].sum(1)[order] == [5 + 7 + 2, 5 + 1]).all()
    texts.text.length = 30  # the second turn falls short: its answer is cut, its end stays
    cut = take(texts, 1, batch_size=2)[0]
    row = cut["text"][np.argmin(cut["id"])]
    assert row[-1] == BYTES.eos and (row == BYTES.eos).sum() == 2
    texts.text.length = 10  # a question longer than the row loses its beginning, not its answer
    cut = take(texts, 1, batch_size=2)[0]
    assert all(a and text.endswith(f":{a}") for a, text in zip(answers(cut), words(cut), strict=True))


def test_a_part_of_a_file_shows_its_frames_only(texts, video_set, tmp_path):
    # 10 frames at 8 a second; brightness tells the frame.
    rows = conversation("3.mp4", "Q", "A", start_time=0.5, end_time=0.75)
    rows += conversation("3.mp4", "Q", "A", start_time=1.0) + conversation("3.mp4", "Q", "A")
    rows += conversation("3.mp4", "Q", "A", start_time=9, end_time=10)
    listed(texts, video_set, tmp_path, rows, "list.jsonl")
    texts.frames, texts.stride, texts.text.length, texts.max_bad_fraction = 16, 1, 40, 0.5
    with eval_batches(texts, texts.train, batch_size=4) as batches:
        (batch,) = list(batches)
        bad = batches.bad_files
    assert batch["mask"].tolist() == [1, 1, 1, 0]
    assert bad[0]["path"].endswith("3.mp4#t=9,10") and "before start_time=9" in bad[0]["reason"]
    shown = batch["video"].mean((1, 3, 4, 5))  # [4, 16] brightness
    level = pixels(3).mean((1, 2, 3))
    frames = np.abs(shown[..., None] - level).argmin(-1)
    assert [sorted(set(row.tolist())) for row in frames[:3]] == [[4, 5], [8, 9], list(range(10))]
    with Video(video_set / "3.mp4") as video:
        assert video.frames_between(0.5, 0.51) == (4, 5) and video.frames_between(0, math.inf) == (0, 10)
        assert video.frames_between(0.51, 0.52) == (4, 5)
    texts.cache = True
    with pytest.raises(UserError, match="shows parts of files"):
        take(texts, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("{", "list.jsonl line 1: is no JSON"),
        ("[]\n", "list.jsonl line 1: expected an object"),
        (
            '\n{"caption": "x"}',
            "list.jsonl line 2: names no file; expected a string in 'video', 'path', 'image'",
        ),
        (conversation("a.mp4", "Q"), "line 1: in conversations human speak; expected human, gpt in turn"),
        (
            '{"video": "a.mp4", "conversations": [{"from": "dog"}]}',
            'conversations holds {"from": "dog"}; expected',
        ),
        (
            conversation("a.mp4", "Q", "A", start_time=3, end_time=2),
            "start_time 3 and end_time 2; expected 0 <= start",
        ),
        (conversation("a.mp4", "Q", "A", start_time="3"), 'start_time is "3"; expected seconds'),
        ('{"video": "a.mp4", "caption": 7}', "line 1: caption is 7; expected a text or a list of texts"),
        ("", "list.jsonl: is empty"),
    ],
)
def test_mistakes_in_json_lists_are_named_by_line(tmp_path, rows, message):
    (tmp_path / "list.jsonl").write_text(rows)
    with pytest.raises(UserError) as error:
        open_source(tmp_path / "list.jsonl")
    assert message in str(error.value)


# Images


@pytest.fixture(scope="module")
def image_set(tmp_path_factory):
    """image.csv of six PNGs, whose brightness tells them apart, as one-frame videos."""
    from matplotlib.image import imsave

    folder = tmp_path_factory.mktemp("images")
    for i in range(6):
        imsave(folder / f"{i}.{'png' if i % 2 else 'jpg'}", np.full((20, 30, 3), 40 * i, np.uint8))
    rows = [f"{i}.{'png' if i % 2 else 'jpg'},picture {i}" for i in range(6)]
    (folder / "image.csv").write_text("\n".join(["path,caption", *rows]) + "\n")
    return folder


def test_images_stand_beside_the_videos_in_an_order_of_their_own(texts, image_set):
    expected = [b["video"] for b in take(texts, 3)]
    texts.images, texts.image_batch = str(image_set / "image.csv"), 4
    texts.frames = 2
    batches = take(texts, 3)
    shapes = batch_shapes(texts, 8)
    for batch in batches:
        assert {k: (v.shape, v.dtype) for k, v in batch.items() if k in shapes} == shapes
        assert (np.abs(batch["image"].mean((1, 2, 3, 4)) - 40 * batch["image_id"]) < 3).all()
        assert words(batch, "image_") == [f"picture {i}" for i in batch["image_id"]]
    ids = np.concatenate([batch["image_id"] for batch in batches])
    assert (np.sort(ids.reshape(2, 6), 1) == range(6)).all() and ids[:6].tolist() != ids[6:].tolist()
    texts.frames = 1
    batches = take(texts, 3)
    assert all((a == b["video"]).all() for a, b in zip(expected, batches, strict=True))
    halves = [take(texts, 3, slice(0, 4)), take(texts, 3, slice(4, 8))]
    assert joined(halves) == [fingerprint(batch) for batch in batches]
    assert fingerprint(take(texts, 1, start=2)[0]) == fingerprint(batches[2])
    with pytest.raises(UserError, match="data.image_batch=4 cannot be shared out"):
        take(texts, 1, slice(0, 1))
    texts.image_batch = 0
    with pytest.raises(UserError, match="expected both"):
        take(texts, 1)


def test_folders_of_images(image_set, tmp_path):
    assert len(open_source(image_set, medium="image")) == 6
    with pytest.raises(UserError, match="data.images='.*': the folder holds no images; expected image files"):
        open_source(tmp_path, key="data.images", medium="image")
    write_mp4(tmp_path / "a.mp4", pixels(0))
    assert len(open_source(tmp_path)) == 1 and COUNT == 12

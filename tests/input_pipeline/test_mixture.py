"""Mixtures: shares, order by random access, media, recipes and classes of their own."""

import json

import numpy as np
import pytest
from PIL import Image

from input_pipeline import batch_shapes, mixture, train_batches
from input_pipeline.order import Order, Turns
from vfm.errors import UserError

from .conftest import COUNT
from .test_batches import fingerprint, joined, take


@pytest.fixture
def mixed(data, video_set, tmp_path):
    """Two sources of 12 and 4 videos with classes by name, and 6 pictures."""
    root = str(video_set)
    rows = [f"{i}.mp4,{'cat' if i % 2 else 'dog'}" for i in range(4)]
    (tmp_path / "few.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    rows = [f"{i}.mp4,{'emu' if i % 2 else 'cat'}" for i in range(COUNT)]
    (tmp_path / "many.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    data.root = root
    data.train = {
        "sources": {
            "many": {"path": str(tmp_path / "many.csv")},
            "few": {"path": str(tmp_path / "few.csv"), "sampling": "sparse", "crop": "resize"},
        }
    }
    return data


def change(data, **options):
    data.train = {**data.train, **options}


def weigh(data, **weights):
    for name, weight in weights.items():
        data.train["sources"][name]["weight"] = weight


def rows_of(data, count, **options) -> dict[str, np.ndarray]:
    batches = take(data, count, **options)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


# The order


@pytest.mark.parametrize(
    ("starts", "weights"),
    [([0], [[0.5, 0.3, 0.2]]), ([0, 100, 333], [[1, 0, 0], [0.2, 0.2, 0.6], [0, 1, 1]])],
)
def test_turns_are_counted_as_if_all_before_were_listed(starts, weights):
    turns = Turns(3, starts, np.array(weights, float))
    sources, had = turns(np.arange(2000))
    counted = np.cumsum(np.eye(3, dtype=int)[sources], 0)
    assert (had == counted[np.arange(2000), sources] - 1).all()
    assert turns.had(1500) == counted[1499].tolist() and turns.had(0) == [0, 0, 0]
    for start, stop, row in zip(starts, [*starts[1:], 2000], weights, strict=True):
        shares = np.bincount(sources[start:stop], minlength=3) / (stop - start)
        assert np.abs(shares - np.array(row) / np.sum(row)).max() < 8 / (stop - start)
    far, number = turns(np.array([10**12]))
    assert abs(number[0] / 10**12 - (np.array(weights[-1]) / np.sum(weights[-1]))[far[0]]) < 1e-6


def test_each_source_of_a_mixture_is_shown_in_epochs_of_its_own():
    order = Order(0, 0, [12, 4], Turns(0, [0], np.array([[0.5, 0.5]])))
    sources, places = order(np.arange(240))
    for source, count in enumerate((12, 4)):
        shown = places[sources == source]
        epochs = shown[: len(shown) // count * count].reshape(-1, count)
        assert len(epochs) >= 9 and (np.sort(epochs, 1) == np.arange(count)).all()
    assert order.numbers(240) == np.bincount(sources).tolist()


# Batches


def test_rows_keep_source_and_id_and_have_the_shares_of_their_weights(mixed):
    rows = rows_of(mixed, 8)
    assert rows["source"].dtype == np.int32 and set(rows["source"]) == {0, 1}
    assert abs((rows["source"] == 0).mean() - 12 / 16) < 0.1  # by the number of samples
    assert rows["id"][rows["source"] == 1].max() < 4
    with train_batches(mixed, batch_size=8, seed=3) as batches:
        assert batches.source_names == ["many", "few"] and batches.num_examples == 16
        assert batches.label_names == {"label": ["cat", "emu", "dog"]}
    names = np.array(["cat", "emu", "dog"])[rows["label"]]
    expected = [("emu" if i % 2 else "cat") if s == 0 else ("cat" if i % 2 else "dog")
                for s, i in zip(rows["source"], rows["id"], strict=True)]  # fmt: skip
    assert names.tolist() == expected
    shapes = {name: (array.shape, array.dtype) for name, array in take(mixed, 1)[0].items()}
    assert batch_shapes(mixed, 8) == shapes


def test_temperature_and_weights_change_the_shares(mixed):
    change(mixed, temperature=1e6)
    assert abs((rows_of(mixed, 8)["source"] == 0).mean() - 0.5) < 0.05
    change(mixed, temperature=2.0)  # sqrt(12) : sqrt(4)
    assert abs((rows_of(mixed, 8)["source"] == 0).mean() - 12**0.5 / (12**0.5 + 2)) < 0.06
    weigh(mixed, many=12, few=((0, 0.0), (3, 12.0), (6, 1e9)))
    change(mixed, temperature=1.0)
    shares = (rows_of(mixed, 9)["source"] == 1).reshape(9, 8).mean(1)
    assert (shares[:3] == 0).all() and abs(shares[3:6].mean() - 0.5) < 0.1 and (shares[6:] == 1).all()


def test_a_mixture_of_one_source_is_that_source_and_says_so(mixed):
    (name, source), *_ = mixed.train["sources"].items()
    mixed.train = {"sources": {name: source}}
    batch = take(mixed, 1)[0]
    assert batch["source"].tolist() == [0] * 8
    shapes = {name: (array.shape, array.dtype) for name, array in batch.items()}
    assert batch_shapes(mixed, 8) == shapes
    mixed.train = source["path"]
    alone = take(mixed, 1)[0]
    assert fingerprint(alone) == fingerprint({k: v for k, v in batch.items() if k != "source"})


@pytest.mark.parametrize("unit", ["row", "batch"])
def test_a_linear_change_has_the_weights_of_every_step(mixed, unit):
    """Against the sum of each step's own weights, over stretches in which they change; exact where nothing changes."""
    steps, count = 200, 40  # of the change, and of the rows or batches of one step that are counted
    batch = count if unit == "row" else 1
    weigh(mixed, many=((0, 3.0), (steps, 1.0)), few=((0, 0.0), (steps // 2, 2.0), (steps, 1.0)))
    change(mixed, unit=unit, change="linear")
    with train_batches(mixed, batch_size=batch, seed=0) as batches:
        order = batches._streams[0].chunks._mixture.order
    at = np.arange(2 * steps)
    many = np.interp(at, [0, steps], [3, 1])
    few = np.interp(at, [0, steps // 2, steps], [0, 2, 1])
    sources = order(np.arange(len(at) * batch))[0].reshape(len(at), batch)
    off = np.cumsum((sources == 1).sum(1) - batch * few / (few + many))
    assert np.abs(off).max() < 12 and np.abs(sources[: steps // 20] == 1).mean() < 0.05
    numbers = [order.numbers(int(stop) * batch) for stop in (1, 77, 399)]
    assert numbers == [np.bincount(sources[:stop].ravel(), minlength=2).tolist() for stop in (1, 77, 399)]


def test_a_linear_change_may_be_as_long_as_a_run():
    steps, table = mixture._stretches("k", [[(0, 1.0), (10**6, 9.0)], [(5, 1.0)]], [1, 1], ["a", "b"], True)
    assert len(steps) == mixture._STAIRS + 6 and steps == sorted(set(steps)) and steps[-1] == 10**6
    held = np.diff([*steps, 10**6 + 1])
    exact = np.interp(np.arange(10**6), [0, 10**6], [1, 9])
    assert np.abs(np.repeat(table[:, 0], held)[:-1] - exact).max() < 8 / mixture._STAIRS
    assert abs((table[:-1, 0] * held[:-1]).sum() / exact.sum() - 1) < 1e-12 and (table[:, 1] == 1).all()


def test_one_source_for_each_batch(mixed):
    change(mixed, unit="batch")
    rows = rows_of(mixed, 16)
    of_batches = rows["source"].reshape(16, 8)
    assert (of_batches == of_batches[:, :1]).all() and abs((of_batches[:, 0] == 0).sum() - 12) <= 1
    few = rows["id"][rows["source"] == 1]
    assert (np.sort(few[:8].reshape(2, 4), 1) == np.arange(4)).all()  # epochs go on from batch to batch


@pytest.mark.parametrize("unit", ["row", "batch"])
def test_mixtures_depend_neither_on_hosts_nor_workers_nor_where_a_run_resumes(mixed, unit):
    change(mixed, unit=unit, change="linear")
    weigh(mixed, many=12, few=((0, 6.0), (4, 30.0)))
    expected = [fingerprint(batch) for batch in take(mixed, 5)]
    mixed.workers = 2
    assert joined([take(mixed, 3, rows, start=2) for rows in (slice(0, 4), slice(4, 8))]) == expected[2:]


def test_sources_have_recipes_and_media_of_their_own(mixed, tmp_path):
    pictures = {"path": str(tmp_path / "pictures"), "medium": "image", "weight": 12}
    mixed.train = {"sources": {**mixed.train["sources"], "pictures": pictures}}
    weigh(mixed, many=12, few=4)
    rows = rows_of(mixed, 4)
    assert rows["video"].shape == (32, 4, 16, 16, 3) and set(rows["source"]) == {0, 1, 2}
    shown = rows["video"][rows["source"] == 2]
    assert (shown == shown[:, :1]).all()  # one frame, repeated
    assert (shown[:, 0].mean((1, 2, 3)).round() == 40 * rows["id"][rows["source"] == 2]).all()
    assert (rows["label"][rows["source"] == 2] == -1).all()

    def left_to_right(source):
        video = rows["video"][rows["source"] == source].astype(float)
        return (video[..., -1, :] - video[..., 0, :]).mean()

    assert left_to_right(1) > 1.2 * left_to_right(0)  # whole frames against crops of the middle


def test_bad_files_of_a_mixture_belong_to_their_source(mixed, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    (tmp_path / "few.csv").write_text("path\n0.mp4\n1.mp4\n" + str(tmp_path / "broken.mp4") + "\n")
    mixed.max_bad_fraction = 0.4
    with train_batches(mixed, batch_size=8, seed=3) as batches:
        for _ in range(4):
            batch = next(batches)
            assert not (batch["id"][batch["source"] == 1] == 2).any()
        assert [entry["path"] for entry in batches.bad_files] == [str(tmp_path / "broken.mp4")]
        account = batches.account.until(4)
    assert [(s["name"], s["planned"], s["left_out"]) for s in account["sources"]] == [
        ("many", 12, {}), ("few", 2, {"cannot be read": 1})]  # fmt: skip
    assert json.loads(json.dumps(account)) == account
    mixed.max_bad_fraction = 0.1
    with pytest.raises(UserError, match=r"data\.train\.sources\.few=.*1 of 3 files give no frames"):
        take(mixed, 1)


@pytest.mark.parametrize(
    ("options", "entry", "message"),
    [
        (dict(unit="clip"), {}, r"data\.train\.unit='clip': expected one of row, batch"),
        (dict(temperature=0), {}, r"data\.train\.temperature=0: expected a number above 0"),
        (dict(temprature=1), {}, r"data\.train\.temprature: no key of a mixture"),
        (dict(change="smooth"), {}, r"data\.train\.change='smooth': expected one of steps, linear"),
        ({}, dict(weight=2.0), r"sources: many without 'weight'.*all sources a weight, or none .*12, 4"),
        ({}, dict(weight=-1), r"sources\.few\.weight=-1: expected a number of 0 or more"),
        ({}, dict(weight=((5, 1.0),)), r"sources\.few\.weight=.*begin with 0 and rise"),
        ({}, dict(weight=((0, 1.0), (0, 2.0))), r"sources\.few\.weight=.*begin with 0 and rise"),
        ({}, dict(frames=8), r"sources\.few\.frames=8: all rows have one shape, and data\.frames=4"),
        ({}, dict(crop="corner"), r"sources\.few: data\.crop='corner'"),
        ({}, dict(medium="sound"), r"sources\.few\.medium='sound': expected 'video' or 'image'"),
        ({}, dict(path="nowhere.csv"), r"sources\.few='nowhere\.csv': no such file"),
    ],
)
def test_mistakes_are_named(mixed, options, entry, message):
    change(mixed, **options)
    mixed.train["sources"]["few"] |= entry
    with pytest.raises(UserError, match=message):
        take(mixed, 1)


def test_weights_that_are_all_zero_are_an_error(mixed):
    weigh(mixed, many=((0, 1.0), (7, 0.0)), few=((0, 1.0), (7, 0.0)))
    with pytest.raises(UserError, match="weights of many, few are all 0 from step 7 on"):
        take(mixed, 1)

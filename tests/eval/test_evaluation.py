"""The whole evaluation on real files: features once, exact counts, rows as promised, mistakes in one line."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from eval import features, groups, report_text, results, sources
from eval.__main__ import evaluate
from eval.encoder import load_encoder, load_encoders
from eval.in_training import evaluator
from eval.report_data import read_evaluation
from vfm.errors import UserError
from vfm.train import checkpoint
from vfm.train.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def encoders(run):
    return load_encoders([str(run), f"random:{run}"])


def test_rows_have_the_promised_keys(run, config, tmp_path, capsys):
    rows = evaluate(config, [f"pretrained={run}", f"random=random:{run}"], tmp_path)
    written = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert written == rows
    assert len(rows) == 2 * 1 * 3 * 2
    for row in rows:
        assert list(row)[:9] == list(results.REQUIRED)
        assert row["encoder"] in ("pretrained", "random") and row["probe"] in ("linear", "attentive", "knn")
        assert row["task"] == "kind" and row["labels"] in ("all", 4) and row["split"] == "test"
        assert row["seeds"] == 2 and row["n"] == 13
        counts = [a * 13 for a in row["per_seed"]]
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
        assert row["accuracy"] == pytest.approx(np.mean(row["per_seed"]))
        assert row["std"] == pytest.approx(np.std(row["per_seed"]))
    all_knn = [r for r in rows if r["probe"] == "knn" and r["labels"] == "all"]
    assert all(r["std"] == 0.0 for r in all_knn)
    assert max(r["accuracy"] for r in rows if r["probe"] == "linear" and r["labels"] == "all") > 0.9
    loaded, matrices, names = results.load(tmp_path)
    assert loaded == rows and names == {"kind": ["dark", "grey", "bright"]}
    assert all(matrices[results.key(r)].sum() == 26 for r in rows)
    assert "pretrained" in capsys.readouterr().out
    # Everything again from the cache: the same numbers, and no other features.
    before = sorted((tmp_path / "features").iterdir())
    assert evaluate(config, [f"pretrained={run}", f"random=random:{run}"], tmp_path) == rows
    assert sorted((tmp_path / "features").iterdir()) == before


def test_batch_size_does_not_change_features(encoders, videos, tmp_path):
    spec = str(videos / "test.csv")
    sets = [
        features.extract(encoders, spec, cache=tmp_path / str(b), batch_size=b, views=(2, 3), dtype="float32")
        for b in (1, 5, 64)
    ]
    for name in ("pretrained", "random"):
        for other in sets[1:]:
            assert len(other[name]) == 13
            np.testing.assert_allclose(other[name].tokens, sets[0][name].tokens, atol=1e-5)
            np.testing.assert_array_equal(other[name].ids, np.arange(13))
        assert sets[0][name].tokens.shape[:2] == (13, 6)
        np.testing.assert_allclose(
            sets[0][name].pooling("mean"), np.mean(sets[0][name].tokens, axis=2), atol=1e-5
        )
        assert sets[0][name].pooling("cls").shape == (13, 6, 16)


def test_changed_files_and_parameters_are_other_features(encoders, videos, tmp_path):
    here = tmp_path / "videos"
    shutil.copytree(videos, here)
    cache, spec = tmp_path / "cache", str(here / "test.csv")
    features.extract(encoders, spec, cache=cache)
    assert len(list(cache.iterdir())) == 2
    shutil.copy(here / "test" / "000.mp4", here / "test" / "001.mp4")
    features.extract(encoders, spec, cache=cache)
    assert len(list(cache.iterdir())) == 4


def test_random_encoder_is_the_run_before_training(run, encoders):
    config = load_config(run)
    again = load_encoder(f"fresh=random:{run}")
    assert again.name == "fresh" and again.sha256 == encoders[1].sha256 != encoders[0].sha256
    assert encoders[0].step == 3
    stored, _ = checkpoint.restore_params(run)
    assert checkpoint.sha256(stored["encoder"]) == encoders[0].sha256
    assert config.seed == 0


def test_a_bad_video_is_left_out_and_named(encoders, videos, tmp_path):
    here = tmp_path / "videos"
    shutil.copytree(videos, here)
    (here / "test" / "004.mp4").write_bytes(b"no video")
    config = encoders[0].config.copy_and_resolve_references().unlock()
    config.data.max_bad_fraction = 0.5
    loose = load_encoder(f"random:{_with_config(config, tmp_path)}")
    found = features.extract([loose], str(here / "test.csv"), cache=tmp_path / "cache")["random"]
    assert found.ids.tolist() == [i for i in range(13) if i != 4]
    assert found.labels("kind").tolist() == [i % 3 for i in range(13) if i != 4]
    assert [f["path"].rsplit("/", 1)[1] for f in found.bad_files] == ["004.mp4"]


def _with_config(config, folder):
    from vfm.train.config import save_config

    (folder / "loose").mkdir()
    save_config(config, folder / "loose")
    return folder / "loose"


def test_leave_one_group_out_predicts_from_other_groups_only():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 6)).astype(np.float32)
    y, g = rng.integers(0, 3, 20).astype(np.int32), (np.arange(20) % 4).astype(np.int32)
    predictions, scorable = groups.leave_one_group_out(x, y, g, k=1, classes=3, temperature=0.07)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i in range(20):
        others = np.flatnonzero(g != g[i])
        assert predictions[i] == y[others[np.argmax(unit[others] @ unit[i])]]
    assert scorable.all()
    y[:] = np.arange(20)  # every class once: nothing can be right
    assert not groups.leave_one_group_out(x, y, g, k=1, classes=20, temperature=0.07)[1].any()


def test_group_protocol_reads_words_and_says_what_it_cannot_score(run, config, videos, tmp_path, capsys):
    text = (videos / "test.csv").read_text().splitlines()
    rows = [line.replace(f"{'test'}/", str(videos / "test") + "/") for line in text[1:]]
    csv = tmp_path / "one.csv"
    csv.write_text(
        "path,kind,half,maker,sign\n" + "\n".join(f"{r},sign{i}" for i, r in enumerate(rows)) + "\n"
    )
    config.protocol, config.data.train, config.data.group = "leave_one_group_out", str(csv), "maker"
    config.probes, config.labels, config.views = ("knn",), ("all",), (2, 1)
    config.tasks = ("kind", "sign")
    found = evaluate(config, [str(run)], tmp_path / "out")
    assert [(r["task"], r["protocol"]) for r in found] == [
        ("kind", "leave_one_group_out"),
        ("maker", "nearest_in_own_group"),
    ]
    assert found[0]["n"] == 13 and found[0]["groups"] == 4
    kept = json.loads(next((tmp_path / "out" / "features").glob("*/meta.json")).read_text())
    assert kept["arrays"]["mean"]["shape"] == [13, 2, 16]  # the views that the rows name
    assert "sign: no class occurs in two groups" in capsys.readouterr().out


def test_classes_that_are_words_are_matched_by_name(run, config, videos, tmp_path):
    def write(split, words):
        lines = (videos / f"{split}.csv").read_text().splitlines()[1:]
        rows = [f"{videos}/{line.split(',')[0]},{words[int(line.split(',')[1])]}" for line in lines]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *rows]) + "\n")

    write("train", ["no", "again", "yes"])
    write("validation", ["no", "again", "yes"])
    write("test", ["no", "no", "yes"])  # two classes only: their numbers alone would be others
    config.data.train = str(tmp_path / "train.csv")
    config.tasks, config.probes, config.labels = ("label",), ("knn",), ("all",)
    rows = evaluate(config, [str(run)], tmp_path / "out")
    assert results.load(tmp_path / "out")[2] == {"label": ["again", "no", "yes"]}
    assert rows[0]["per_class"][0] is None and rows[0]["per_class"][2] == 1.0
    write("test", ["no", "again", "maybe"])
    with pytest.raises(UserError, match="'maybe' in the test split is no class of the training split"):
        evaluate(config, [str(run)], tmp_path / "out")


def test_probes_run_inside_training(run, tmp_path, monkeypatch):
    file = tmp_path / "probe.py"
    file.write_text(
        "from configs.eval import common\n"
        "def get_config():\n"
        "    c = common.get_config()\n"
        "    c.tasks, c.probes, c.seeds = ('kind',), ('linear', 'knn'), 1\n"
        "    return c\n"
    )
    config = load_config(run)
    assert evaluator(config) is None
    config.eval.every, config.eval.config = "1 steps", str(file)
    for other, says in (("common.py", "describes a training run"), ("../README.md", "cannot be loaded")):
        wrong = load_config(run)
        wrong.eval.every, wrong.eval.config = "1 steps", str(ROOT / "configs" / other)
        with pytest.raises(UserError, match=says):
            evaluator(wrong)
    params, _ = checkpoint.restore_params(run)
    found = evaluator(config)(3, jax.tree.map(jax.numpy.asarray, params))
    assert set(found) == {"eval/kind/linear/all", "eval/kind/knn/all"}
    assert all(0 <= v <= 1 for v in found.values())


def test_probes_are_judged_on_clips_without_their_order(run, config, tmp_path, capsys):
    config.labels, config.controls = (4,), ("none", "shuffled", "reversed", "single_frame", "blind")
    rows = evaluate(config, [str(run)], tmp_path)
    assert [(r["probe"], r["control"]) for r in rows] == [
        (probe, control) for probe in config.probes for control in config.controls
    ]
    loaded, matrices, _ = results.load(tmp_path)
    assert loaded == rows and len(matrices) == len(rows) and "single_frame" in capsys.readouterr().out
    by_control = {r["control"]: r for r in rows if r["probe"] == "linear"}
    # Brightness needs no order; a blind clip shows none, so that all are taken for one class.
    assert by_control["single_frame"]["accuracy"] > 0.9 and by_control["none"]["accuracy"] > 0.9
    blind = matrices[results.key(by_control["blind"])]
    assert blind.sum() == 26 and (blind.sum(0) > 0).sum() <= config.seeds
    # The figures of clips as they are do not depend on what else is measured.
    config.controls = ("none",)
    plain = evaluate(config, [str(run)], tmp_path)
    assert plain == [r for r in rows if r["control"] == "none"]
    evaluation = read_evaluation(tmp_path)
    assert report_text.probe_controls(evaluation) == ""
    evaluation.rows = rows
    assert len(evaluation.scores) == 3 and "frames shuffled" in report_text.probe_controls(evaluation)


@pytest.mark.parametrize(
    "change, text",
    [
        (dict(tasks=("colour",)), "'colour' is no label column .* kind"),
        (dict(probes=("svm",)), "'svm' is unknown"),
        (dict(labels=(0,)), "config.labels"),
        (dict(weights="ema"), "has no 'ema'"),
        (dict(step=7), "no checkpoint of step 7"),
        (dict(views=(1,)), r"config.views=\(1,\)"),
        (dict(views=(0, 1)), r"config.views=\(0, 1\)"),
        (dict(batch_size=0), "config.batch_size=0"),
        (dict(pooling="max"), "config.pooling='max'"),
        (dict(knn=dict(temperature=0.0)), "config.knn.temperature=0.0"),
        (dict(protocol="leave_one_group_out"), "is kNN with all"),
        (dict(controls=("mirrored",)), "'mirrored' is unknown"),
        (
            dict(protocol="leave_one_group_out", probes=("knn",), labels=("all",), controls=("reversed",)),
            "judges clips as they are",
        ),
    ],
)
def test_mistakes_in_the_config_are_named(run, config, tmp_path, change, text):
    config.update(change)
    with pytest.raises(UserError, match=text):
        evaluate(config, [str(run)], tmp_path)
    assert not (tmp_path / "features").exists()


def test_how_clips_are_loaded_can_be_set_and_makes_no_other_features(encoders, videos, tmp_path):
    spec, one = str(videos / "test.csv"), encoders[:1]
    loading = dict(threads=1, workers=None, max_bad_fraction=0.5, cache=None)
    changed = sources.data_config(one[0].config, spec, loading=loading)
    assert (changed.threads, changed.max_bad_fraction, changed.workers) == (1, 0.5, 0)
    features.extract(one, spec, cache=tmp_path)
    features.extract(one, spec, cache=tmp_path, loading=loading)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_set_is_named_by_its_key(run, config, tmp_path):
    config.data.test = "nope.csv"
    with pytest.raises(UserError, match="config.data.test='nope.csv'"):
        evaluate(config, [str(run)], tmp_path)


def test_mistakes_about_encoders_are_named(run, tmp_path):
    with pytest.raises(UserError, match="no folder"):
        load_encoder(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="no config.json"):
        load_encoder(str(tmp_path))
    shutil.copy(run / "config.json", tmp_path)
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_encoder(str(tmp_path))
    with pytest.raises(UserError, match="NAME=RUN_DIR"):
        load_encoders([f"random:{run}", f"random:{run}"])
    with pytest.raises(UserError, match="--encoder is missing"):
        load_encoders([])


def test_features_that_are_no_numbers_are_refused(encoders, videos, tmp_path):
    import dataclasses

    broken = jax.tree.map(lambda p: p * np.nan, encoders[0].params)
    encoder = dataclasses.replace(encoders[0], params=broken, sha256="broken")
    with pytest.raises(UserError, match="clip 0 are not finite"):
        features.extract([encoder], str(videos / "test.csv"), cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    large = jax.tree.map(lambda p: p, encoders[0].params)
    large["norm"] = {"scale": large["norm"]["scale"] * 1e6, "bias": large["norm"]["bias"]}
    encoder = dataclasses.replace(encoders[0], params=large, sha256="large")
    with pytest.raises(UserError, match="feature_dtype=float32"):
        features.extract([encoder], str(videos / "test.csv"), cache=tmp_path)


def test_a_class_without_training_clips_stops_the_evaluation(run, config, videos, tmp_path):
    lines = (videos / "train.csv").read_text().splitlines()
    kept = [lines[0]] + [f"{videos}/{line}" for line in lines[1:] if line.split(",")[1] != "2"]
    (tmp_path / "few.csv").write_text("\n".join(kept) + "\n")
    config.data.train = str(tmp_path / "few.csv")
    config.data.validation, config.data.test = str(videos / "validation.csv"), str(videos / "test.csv")
    with pytest.raises(UserError, match="2"):
        evaluate(config, [str(run)], tmp_path / "out")

"""Evaluations with text, end to end on real files: a model that knows the answers scores as it should under every
control, real objectives run through, and mistakes are one clear line.

B clips, T frames, L bytes of text.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import cappa, coca, common
from configs.eval import captions, choice, retrieval, zero_shot
from eval import results, text
from eval.__main__ import evaluate
from eval.controls import CONTROLS
from eval.encoder import blank_batch
from eval.model import Model, load_model
from eval.text_clips import open_clips
from input_pipeline import write_mp4
from vfm import objectives
from vfm.errors import UserError
from vfm.train import checkpoint
from vfm.train.config import save_config

KINDS, MOTIONS = ("dark", "grey", "white"), ("rises", "fades")
LEVELS = (50, 130, 210)
OFFSET = 4  # of byte ids


def caption(kind, motion):
    return f"a {KINDS[kind]} clip {MOTIONS[motion]}"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """12 clips: brightness is the kind, and rises or fades; two of each."""
    folder = tmp_path_factory.mktemp("captioned")
    lines = ["path,kind,motion,caption"]
    rng = np.random.default_rng(0)
    for i in range(12):
        kind, motion = i % 3, (i // 3) % 2
        slope = np.linspace(-30, 30, 4) * (1 if motion == 0 else -1)
        frames = LEVELS[kind] + slope[:, None, None, None] + rng.normal(0, 2, (4, 16, 16, 1))
        frames = np.repeat(frames.clip(0, 255).astype(np.uint8), 3, axis=-1)
        write_mp4(folder / f"{i}.mp4", frames, fps=8)
        lines.append(f"{i}.mp4,{kind},{motion},{caption(kind, motion)}")
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (folder / "classes.json").write_text(json.dumps({"kind": KINDS, "motion": MOTIONS}))
    return folder


def run_config(clips):
    c = common.get_config()
    c.total_steps = 1
    c.data.train = str(clips / "train.csv")
    c.data.frames, c.data.stride, c.data.size, c.data.crop = 4, 1, 16, "center"
    c.data.text.tokenizer, c.data.text.length = "bytes", 28
    c.model.encoder = ConfigDict(
        common.vit(width=16, depth=1, heads=1, mlp_dim=16, frames=4, image_size=16, patch=8)
    )
    return c


class Knows:
    """Reads brightness and its slope off the pixels, and kind and motion off the bytes of a text."""

    @staticmethod
    def _seen(video):
        level = video.astype(jnp.float32).mean(axis=(2, 3, 4))
        kind = -jnp.abs(level.mean(1)[:, None] - jnp.array(LEVELS)) / 10
        slope = level[:, -1] - level[:, 0]
        return jax.nn.softmax(kind), jax.nn.softmax(jnp.stack([slope, -slope], 1) / 2)

    @staticmethod
    def _read(ids):
        def has(word):
            pattern = jnp.array(list(word.encode())) + OFFSET
            windows = jnp.stack([ids[:, i : ids.shape[1] - len(word) + 1 + i] for i in range(len(word))], -1)
            return (windows == pattern).all(-1).any(-1)

        return jnp.stack([has(k) for k in KINDS], 1) * 1.0, jnp.stack([has(m) for m in MOTIONS], 1) * 1.0

    @staticmethod
    def _unit(parts):
        x = jnp.concatenate([*parts, jnp.full((len(parts[0]), 1), 1e-6)], axis=1)
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    def embed_video(self, params, video):
        return self._unit(self._seen(video))

    def embed_text(self, params, text, text_mask):
        return self._unit(self._read(text))

    def match(self, params, video, text, text_mask):
        return sum((a * b).sum(1) for a, b in zip(self._seen(video), self._read(text), strict=True))

    def likelihood(self, params, video, text, text_mask, text_loss):
        tokens = (text_mask & text_loss).sum(1)
        if video is None:
            return -1.0 * tokens
        return tokens * (self.match(params, video, text, text_mask) - 2)

    def generate(self, params, video, prompt_ids, *, length, method="greedy"):
        texts = [caption(k, m).ljust(length)[:length] for k in range(3) for m in range(2)]
        table = jnp.array([[b + OFFSET for b in t.encode()] for t in texts])
        if video is None:
            return table[:1]
        kind, motion = self._seen(video)
        return table[kind.argmax(1) * 2 + motion.argmax(1)]


@pytest.fixture(scope="module")
def knows(clips):
    config = run_config(clips)
    config.objective.name = "knows"
    return Model("oracle", config, Knows(), {"x": jnp.zeros(1)}, 7, "0" * 64, "contrast")


def small(module, **data):
    c = module.get_config()
    c.batch_size = 5
    if c.tasks:
        c.tasks = ("kind", "motion")
    c.zero_shot.templates = ("a(n) {kind} clip {motion}",)
    c.data.update(data)
    return c


def values(rows, metric):
    return {(r["task"], r["control"]): r["value"] for r in rows if r["metric"] == metric}


def test_zero_shot_under_every_control(knows):
    rows, extras, notes, bad = text.run([knows], small(zero_shot), quiet=True)
    assert not bad and not notes
    found = values(rows, "top-1")
    for control in ("none", "reversed", "shuffled", "single_frame"):
        assert found["kind", control] == 1.0
    assert found["kind", "blind"] == pytest.approx(1 / 3)
    assert found["motion", "none"] == 1.0 and found["motion", "reversed"] == 0.0
    assert found["motion", "single_frame"] == pytest.approx(0.5, abs=0.01)
    assert found["kind and motion", "none"] == 1.0 and found["kind and motion", "reversed"] == 0.0
    chances = {r["task"]: r["chance"] for r in rows if r["metric"] == "top-1"}
    assert chances == {"kind": 1 / 3, "motion": 1 / 2, "kind and motion": pytest.approx(1 / 6)}
    assert extras["oracle"]["prompts"]["kind"][1] == ["a grey clip rises", "a grey clip fades"]
    assert all(set(results.COMMON) <= set(r) and r["n"] == 12 and r["split"] == "test" for r in rows)


def test_retrieval_under_every_control(knows):
    c = small(retrieval)
    c.retrieval.rerank = 3
    rows, extras, notes, _ = text.run([knows], c, quiet=True)
    assert extras["oracle"] == {"queries": 6, "different_captions": 6, "videos": 12}
    for suffix in ("", " (dual softmax, 100)", " (matching, best 3)"):
        found = values(rows, f"R@1{suffix}")
        for way in ("text_to_video", "video_to_text"):
            assert found[way, "none"] == 1.0, suffix
            assert found[way, "reversed"] == 0.0, suffix
    assert values(rows, "R@1")["text_to_video", "blind"] == pytest.approx(2 / 12)
    row = next(r for r in rows if r["metric"] == "R@1" and r["task"] == "text_to_video")
    assert row["chance"] == pytest.approx(2 / 12) and row["candidates"] == 12 and row["ties"] == "average"
    c.retrieval.duplicates, c.retrieval.dual_softmax, c.retrieval.rerank, c.controls = (
        "apart",
        0.0,
        0,
        ("none",),
    )
    rows, *_ = text.run([knows], c, quiet=True)
    # Two videos fit each caption equally well but for noise, and one of them is called wrong.
    assert values(rows, "R@1")["text_to_video", "none"] == pytest.approx(0.5)
    assert {r["metric"] for r in rows} == {"R@1", "R@5", "R@10", "MdR", "MnR"}
    c.retrieval.ties = "frozen"
    rows, *_ = text.run([knows], c, quiet=True)
    assert len(rows) == 10


def test_collapsed_embeddings_and_texts_that_are_cut_are_named(knows):
    class Flat(Knows):
        def embed_video(self, params, video):
            return self._unit((jnp.ones((len(video), 3)), jnp.ones((len(video), 2))))

    class Nan(Knows):
        def embed_video(self, params, video):
            return jnp.full((len(video), 6), jnp.nan)

    def model(objective):
        return Model("x", knows.config, objective, knows.params, 0, "", "contrast")

    flat = model(Flat())
    flat.rows(["very " * 300])
    rows, _, notes, _ = text.run([flat], small(retrieval), quiet=True)
    assert values(rows, "R@1")["text_to_video", "none"] == pytest.approx(2 / 12)
    assert "equally similar to all videos" in notes[0] and "1 different texts are longer" in notes[-1]
    with pytest.raises(UserError, match="not finite"):
        text.run([model(Nan())], small(retrieval), quiet=True)


def test_captions_under_every_control(knows):
    rows, extras, notes, _ = text.run([knows], small(captions), quiet=True)
    assert (
        values(rows, "exact")["caption", "none"] == 1.0 and values(rows, "BLEU-4")["caption", "none"] > 0.99
    )
    named = values(rows, "named")
    assert named["kind and motion", "none"] == 1.0
    assert named["kind", "reversed"] == 1.0 and named["motion", "reversed"] == 0.0
    assert named["kind", "blind"] == pytest.approx(1 / 3) and named["motion", "blind"] == pytest.approx(1 / 2)
    shown = extras["oracle"]["shown"]
    assert len(shown) == 8 and shown[0]["generated"]["none"] == shown[0]["references"][0]
    assert extras["oracle"]["frames"][shown[0]["id"]].shape == (4, 16, 16, 3)
    assert set(shown[0]["generated"]) == set(CONTROLS)


@pytest.mark.parametrize(
    "by, source", [("embedding", "captions"), ("likelihood", "captions"), ("likelihood", "classes")]
)
def test_choice_under_controls(knows, by, source):
    c = small(choice)
    c.choice.by, c.choice.source, c.choice.options, c.controls = by, source, 3, ("none", "blind")
    c.tasks = ("kind",) if source == "classes" else ()
    rows, extras, *_ = text.run([knows], c, quiet=True)
    by_control = {r["control"]: r for r in rows}
    assert by_control["none"]["value"] == 1.0 and by_control["none"]["chance"] == pytest.approx(1 / 3)
    assert by_control["none"]["n"] == 12
    if by == "likelihood":
        assert by_control["blind"]["value"] == pytest.approx(1 / 3)
    answer = extras["oracle"]["answers"]["none"][0]
    assert answer["chosen"] == answer["answer"]


def test_options_keep_their_capitals(knows, clips, tmp_path):
    lines = (clips / "test.csv").read_text().replace("dark clip", "Dark clip")
    (clips / "capitals.csv").write_text(lines)
    c = small(choice, test=str(clips / "capitals.csv"))
    c.choice.by, c.choice.source, c.choice.options, c.tasks = "likelihood", "captions", 3, ()
    _, extras, *_ = text.run([knows], c, quiet=True)
    shown = [answer["answer"] for answer in extras["oracle"]["answers"]["none"]]
    assert any("Dark clip" in answer for answer in shown)


def test_questions_from_a_file(knows, tmp_path):
    lines = [
        {"video": "0.mp4", "question": "", "options": ["dark", "grey"], "answer": 0, "type": "kind"},
        {
            "video": "4.mp4",
            "question": "",
            "options": ["rises", "fades", "grows"],
            "answer": "fades",
            "type": "motion",
        },
        {"video": "5.mp4", "question": "what?", "answer": "The white clip fades."},
        {"video": "gone.mp4", "question": "what\u2028is it?", "answer": "nothing"},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    c = small(choice)
    c.choice.source, c.choice.by, c.controls = str(file), "likelihood", ("none", "blind")
    c.captions.length = 20
    rows, _, notes, _ = text.run([knows], c, quiet=True)
    found = {(r["metric"], r["task"], r["control"]): r["value"] for r in rows}
    assert found["choice accuracy", "all questions", "none"] == 1.0
    assert found["choice accuracy", "kind", "blind"] == 0.5
    assert (
        found["exact answer", "questions", "none"] == 1.0
        and found["exact answer", "questions", "blind"] == 0.0
    )
    assert "gone.mp4" in notes[0]
    file.write_text(json.dumps(lines[0] | {"answer": "blue"}))
    with pytest.raises(UserError, match="line 1: the answer 'blue' is none of the options"):
        text.run([knows], c, quiet=True)


def save_run(folder, config):
    folder.mkdir()
    save_config(config, folder)
    params = jax.jit(objectives.build(config).init)(jax.random.key(1), blank_batch(config))[0]
    saved = checkpoint.Checkpoints(folder, keep=1)
    saved.save(1, {"step": np.zeros((), np.int32), "params": params})
    saved.wait()
    saved.close()
    return folder


@pytest.fixture(scope="module")
def contrast_run(clips, tmp_path_factory):
    config = run_config(clips)
    config.model.text = ConfigDict(dict(name="text", width=16, depth=1, heads=1, length=28))
    config.objective = ConfigDict(common.contrast(dim=8))
    return save_run(tmp_path_factory.mktemp("runs") / "contrast", config)


@pytest.fixture(scope="module")
def language_run(clips, tmp_path_factory):
    config = run_config(clips)
    config.model.lm = ConfigDict(common.lm(width=16, depth=1, heads=1, kv_heads=1, mlp_dim=16))
    config.model.connector = ConfigDict(common.connector(pool=(1, 2, 2)))
    config.objective = ConfigDict(common.next_token())
    return save_run(tmp_path_factory.mktemp("runs") / "language", config)


def test_a_contrastive_run_is_evaluated(contrast_run, tmp_path, capsys):
    specs = [f"stage2={contrast_run}", f"random:{contrast_run}"]
    for module in (zero_shot, retrieval):
        c = small(module)
        c.controls = ("none", "reversed")
        folder = tmp_path / c.protocol
        rows = evaluate(c, specs if module is retrieval else specs[:1], folder)
        assert [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()] == rows
        assert all(np.isfinite(r["value"]) and r["n"] in (6, 12) for r in rows)
    assert {r["encoder"]: r["stage"] for r in rows} == {"stage2": "contrast", "random": "untrained"}
    assert (tmp_path / "zero_shot" / "samples.json").is_file()
    again = small(retrieval)
    again.controls, again.batch_size = ("none", "reversed"), 3
    for mine, other in zip(rows, evaluate(again, specs[:1], tmp_path / "again"), strict=False):
        assert mine["metric"] == other["metric"] and mine["value"] == pytest.approx(other["value"], abs=1e-5)
    out = capsys.readouterr().out
    assert "text_to_video" in out and "reversed" in out and "chance" in out


def test_a_language_model_run_is_evaluated(language_run, tmp_path):
    c = small(captions, limit=5)
    c.captions.length, c.controls = 6, ("none", "blind")
    rows = evaluate(c, [f"stage3={language_run}"], tmp_path / "captions")
    assert {r["metric"] for r in rows} >= {"BLEU-4", "ROUGE-L", "CIDEr-D", "named", "exact"}
    samples = json.loads((tmp_path / "captions" / "samples.json").read_text())["stage3"]
    assert len(samples["captions"]) == 5 == rows[0]["n"]
    assert len({s["blind"] for s in samples["captions"]}) == 1
    with np.load(tmp_path / "captions" / "captions.npz") as frames:
        assert len(frames.files) == 5
    c = small(choice, limit=5)
    c.controls, c.choice.options = ("none", "blind"), 3
    rows = evaluate(c, [f"stage3={language_run}"], tmp_path / "choice")
    assert {r["by"] for r in rows} == {"likelihood"} and all(0 <= r["value"] <= 1 for r in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["captioner", "coca"])
def test_captioners_answer_with_and_without_a_video(clips, name):
    config = run_config(clips)
    own = {"captioner": cappa, "coca": coca}[name].get_config()
    config.objective, config.data.text.bos = own.objective, own.data.text.bos
    config.objective.decoder.update(dict(width=16, heads=1, depth=1, length=29))
    if name == "coca":
        for pool in (config.objective.contrast_pool, config.objective.caption_pool):
            pool.update(dict(width=16, heads=1, queries=min(pool.queries, 4)))
        config.objective.decoder.text_depth, config.objective.embed_dim = 1, 8
    objective = objectives.build(config)
    params = jax.jit(objective.init)(jax.random.key(0), blank_batch(config))[0]
    model = Model(name, config, objective, params, 0, "", name)
    for module in (captions, choice):
        c = small(module, limit=5)
        c.controls, c.captions.length, c.choice.by, c.choice.options = ("none", "blind"), 4, "likelihood", 2
        rows, *_ = text.run([model], c, quiet=True)
        assert {r["control"] for r in rows} == {"none", "blind"}
        assert all(np.isfinite(r["value"]) and r["n"] == 5 for r in rows)
    c = small(captions, limit=5)
    c.controls, c.captions.length, c.captions.blind = ("blind",), 4, "blank"
    assert text.run([model], c, quiet=True)[0]


def test_whole_models_are_loaded_strictly(contrast_run):
    config, objective, params = load_model(contrast_run)
    assert {"encoder", "text"} <= set(params) and config.objective.name == "contrast"
    fresh = load_model(f"random:{contrast_run}")[2]
    assert jax.tree.structure(fresh) == jax.tree.structure(params)
    vectors = objective.embed_video(params, np.zeros((2, 4, 16, 16, 3), np.uint8))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_mistakes_are_one_clear_line(knows, contrast_run, language_run, run, clips, tmp_path):
    def fails(module, specs, match, change=lambda c: None):
        c = small(module)
        change(c)
        with pytest.raises(UserError, match=match):
            evaluate(c, specs, tmp_path / "wrong")

    mine = [str(contrast_run)]
    fails(
        captions,
        mine,
        "objective 'contrast' has no generate; this evaluation needs a run of an objective that",
    )
    fails(retrieval, [str(language_run)], "has no embed_video")
    fails(zero_shot, [str(run)], "has no embed_video")
    fails(zero_shot, mine, "'dim' is unknown", lambda c: c.update(controls=("dim",)))
    fails(zero_shot, mine, "'size' is no label column", lambda c: c.update(tasks=("size",)))
    fails(retrieval, mine, "retrieval.ties='lucky'", lambda c: c.retrieval.update(ties="lucky"))
    fails(captions, [str(language_run)], "captions.method='best'", lambda c: c.captions.update(method="best"))
    fails(choice, mine, "only 6 different captions", lambda c: c.choice.update(options=9))
    fails(choice, mine, "no such file", lambda c: c.choice.update(source="questions.jsonl"))
    bare = tmp_path / "bare.csv"
    bare.write_text(f"path,kind\n{clips}/0.mp4,0\n")
    fails(retrieval, mine, "has no captions", lambda c: c.data.update(test=str(bare)))
    bare.write_text(f"path,kind,caption\n{clips}/0.mp4,0,...\n{clips}/1.mp4,1,a clip\n")
    notes = open_clips(knows, small(retrieval, test=str(bare)), captioned=True)[1]
    assert "1 of 2 clips have no caption" in notes[0] and "0.mp4" in notes[0]

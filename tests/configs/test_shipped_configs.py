"""Every shipped config trains: two steps at toy size, through the real trainer."""

import importlib
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vfm import models, objectives, rules
from vfm.errors import UserError
from vfm.train import checkpoint, train
from vfm.train import config as configs
from vfm.train.initial import initial_state

SHIPPED = [
    *("quickstart", "quickstart_mamba"),
    *(f"quickstart_stages:{arg}" for arg in ("stage1", "stage2", "stage3", "stage2,mamba")),
    "videomae:b",
    "videomamba:s",
    *("aim", "cappa", "coca", "video_tokenizer", "video_tokenizer:vq", "toto"),
    *("internvideo2:stage1,1b", "internvideo2:stage2,1b"),
    # At toy size the sizes of one recipe differ in little.
    *(
        pytest.param(spec, marks=pytest.mark.slow)
        for spec in (
            *(f"videomae:{size}" for size in "slhg"),
            *("videomamba:ti", "videomamba:m"),
            *("aim:600m", "cappa:b", "coca:b", "video_tokenizer:toto", "toto:base"),
            *(
                "internvideo2:stage2,tiny,uta",
                "internvideo2:stage3,1b",
                *(f"internvideo2:stage1,{size}" for size in ("tiny", "s", "6b")),
            ),
        )
    ),
]


def load(spec: str) -> ConfigDict:
    name, _, argument = spec.partition(":")
    module = importlib.import_module(f"configs.{name}")
    return module.get_config(*filter(None, [argument]))


def shrink(part: ConfigDict) -> None:
    """Width 32 and depth 2, also of networks inside; patches of 8 pixels."""
    for inner in ("tokenizer", "encoder"):
        if inner in part:
            shrink(part[inner])
    small = dict(width=32, depth=2, heads=2, kv_heads=2, mlp_dim=64, image_size=32, patch=8)
    if part.get("frames", 1) > 1:
        small |= dict(frames=4, tubelet=2)
    part.update({key: value for key, value in small.items() if key in part})


def shrink_distillation(config: ConfigDict) -> None:
    """Layers that are there; as many token slots in the student's clips as in the teachers'."""
    for head in config.objective.heads.values():
        if "layers" in head.target:
            head.target.update(layers=1, interval=1.0)
    if config.objective.get("every") == 2:
        config.model.encoder.update(dict(frames=2, tubelet=1))


def toy(config: ConfigDict) -> ConfigDict:
    """The same experiment on 4 frames of 32 x 32 pixels, at a width of 32 and a depth of 2."""
    config.total_epochs, config.total_examples = None, None
    config.total_steps, config.batch_size = 2, 4
    config.optim.warmup, config.log_every, config.checkpoint.every = "1 steps", "1 steps", ""
    config.data.frames, config.data.size = 4, 32
    config.mesh, config.accumulate = ConfigDict(dict(data=-1, fsdp=1, tensor=1)), 1
    encoders = [config.model.encoder, *(teacher.encoder for teacher in config.teachers.values())]
    for encoder in encoders:
        shrink(encoder)
    if "predictor" in config.objective:
        shrink(config.objective.predictor)
    for part in (config.model.text, config.model.lm, config.model.connector):
        shrink(part)
    if "fusion_layer" in config.model.text:
        small = dict(width=32, depth=2, heads=2, mlp_dim=64, fusion_layer=1, vocab_size=300)
        config.model.text.update(small)  # the keys need not be there: some configs give a size alone
        config.objective.mask_id, config.objective.special_ids = 3, (0, 1, 2)
    if "heads" in config.objective:
        shrink_distillation(config)
    if config.data.text.tokenizer:
        config.data.text.tokenizer, config.data.text.length = "bytes", 8
    config.init.lm = ""  # no published checkpoint here
    for name in config.teachers:
        config.teachers[name].run = ""
    if "decoder" in config.objective:
        config.data.text.tokenizer, config.data.text.length = "bytes", 8
        config.objective.decoder.update(dict(width=32, depth=2, heads=2))
        if "vocab_size" in config.objective.decoder:
            config.objective.decoder.vocab_size = 0
    for pool in ("contrast_pool", "caption_pool"):
        if pool in config.objective:
            config.objective[pool].update(dict(width=32, heads=2))
    if "mask" in config.objective:
        config.objective.mask.ratio = 0.75
    return config


def batches(start, rows):
    def endless():
        while True:
            rng = np.random.default_rng(0)
            batch = {
                "video": rng.integers(0, 256, (4, 4, 32, 32, 3), np.uint8),
                "id": np.arange(4, dtype=np.int32),
                "text": rng.integers(4, 260, (4, 8), np.int32),
                "text_mask": np.arange(8) < np.array([[8], [6], [5], [3]]),
                "text_loss": (np.arange(8) > 1) & (np.arange(8) < np.array([[8], [6], [5], [3]])),
                "text_id": np.arange(4, dtype=np.int32),
            }
            yield {name: array[rows] for name, array in batch.items()}

    return endless()


def test_every_config_file_is_in_the_list():
    files = {p.stem for p in Path("configs").glob("*.py")} - {"__init__", "common", "parts", "objectives"}
    specs = (getattr(spec, "values", (spec,))[0] for spec in SHIPPED)
    assert files == {spec.partition(":")[0] for spec in specs}


@pytest.mark.parametrize("spec", SHIPPED)
def test_trains_two_steps(spec, tmp_path):
    train(toy(load(spec)), tmp_path, batches=batches)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0.1 < line["train/loss"] < 20 and line["skipped"] == 0 for line in lines), lines


def random_params(config: ConfigDict, seed: int) -> dict:
    """Parameters of the shapes of a config's objective."""
    batch = next(batches(0, slice(None)))
    shapes, _ = jax.eval_shape(objectives.build(config).init, jax.random.key(0), batch)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jax.device_put(rng.normal(size=s.shape).astype(s.dtype)), shapes)


def save_run(config: ConfigDict, params: dict, folder: Path) -> None:
    folder.mkdir()
    configs.save_config(config, folder)
    checkpoints = checkpoint.Checkpoints(folder, keep=1)
    checkpoints.save(1, {"params": params})
    checkpoints.wait()
    checkpoints.close()


@pytest.mark.parametrize(
    "spec",
    [
        "quickstart_stages:",
        "quickstart_stages:,mamba",
        "internvideo2:,tiny",
        pytest.param("internvideo2:,s", marks=pytest.mark.slow),
        "internvideo2:,1b",
    ],
)
def test_each_stage_takes_its_parts_from_the_stages_before_it(spec, tmp_path):
    name, _, size = spec.partition(":")
    chain = importlib.import_module(f"configs.{name}").HANDOVER
    kept = {}
    for number, (stage, parts) in enumerate(chain.items()):
        config = load(f"{name}:{stage}{size}")
        clip = dict(frames=config.model.encoder.frames, tubelet=config.model.encoder.tubelet)
        config = toy(config)
        config.model.encoder.update(clip)  # stages differ in their clips' length
        params = random_params(config, number)
        for part, source in parts.items():
            config.init[part] = str(tmp_path / source)
        like = {"params": params}
        state = initial_state(config, tmp_path / stage, None, lambda like=like: like, like)
        for part, source in parts.items():
            for path, theirs in rules.flatten({part: kept[source][part]}).items():
                ours = rules.flatten({part: state["params"][part]}).get(path)
                if ours is not None and ours.shape == theirs.shape:
                    np.testing.assert_array_equal(ours, theirs)
                else:
                    assert path in ("encoder/pos", "encoder/time_pos", "encoder/image_pos")
        kept[stage] = state["params"]
        save_run(config, kept[stage], tmp_path / stage)


@pytest.mark.parametrize("spec", ["videomae:x", "videomamba:l", "internvideo2:stage1,2b"])
def test_an_unknown_size_names_the_sizes(spec):
    with pytest.raises(ValueError, match="choose one of"):
        load(spec)


def test_published_sizes_and_recipes():
    base = load("videomae:b")
    assert base.batch_size == 2048 and base.optim.lr == 1.5e-4 and base.objective.mask.ratio == 0.9
    giant = load("videomae:g")
    # 6e-4 for 256 videos, which are 1,024 clips.
    assert giant.optim.lr * giant.batch_size == pytest.approx(6e-4 * 2048)


@pytest.mark.parametrize(
    "size, parameters",
    # Of the published vision towers, attention pool included.
    [("s", 23_043_840), ("b", 89_438_976), ("l", 308_929_280), ("1b", 1_020_708_608), ("6b", 5_941_735_168)],
)
def test_internvideo2s_encoders_have_the_published_parameter_counts(size, parameters):
    config = load(f"internvideo2:stage1,{size}")
    encoder, pool = models.build(config.model.encoder), models.build(config.objective.pool)

    def init(rng):
        features, params = encoder.init_with_output(rng, jnp.zeros((1, 8, 224, 224, 3)))
        return params, pool.init(rng, features.tokens, features.cls)

    shapes = jax.eval_shape(init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == parameters


@pytest.mark.parametrize(
    "spec, hint", [("internvideo2:stage2,1b", "objective.chunks=2"), ("coca", "remat=full")]
)
def test_a_contrast_among_micro_batches_is_refused(spec, hint, tmp_path):
    config = toy(load(spec))
    config.accumulate = 2
    with pytest.raises(UserError, match=f"2 pairs of a micro-batch, not the batch's 4; .*{hint}"):
        train(config, tmp_path, batches=batches)


@pytest.mark.parametrize("size", ["1b", "6b"])
@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_internvideo2s_batches_divide_by_the_meshes_they_name(stage, size):
    c = load(f"internvideo2:{stage},{size}")
    assert c.batch_size % (c.mesh.data * c.mesh.fsdp * c.accumulate) == 0


def test_internvideo2s_recipes():
    large, small = load("internvideo2:stage1,1b"), load("internvideo2:stage1,b")
    assert large.batch_size == 4096 and large.teachers.clip.per_frame and large.teachers.clip.run is None
    assert {name: head.target.teacher for name, head in large.objective.heads.items()} == dict(
        middle="clip", final="clip", mae="mae"
    )
    aligned = load("internvideo2:stage2,1b")
    assert aligned.batch_size == 4096 and (aligned.accumulate, aligned.objective.chunks) == (1, 4)
    assert small.objective.mask.per == "clip" and small.objective.heads.middle.target.interval == 3.34

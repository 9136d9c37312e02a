"""Frozen teachers: what a student learns from them, which tokens they let it see, and how a run keeps them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from vfm import objectives
from vfm.errors import UserError
from vfm.masking import draw_batch, teacher_attention
from vfm.objectives import teachers
from vfm.train import checkpoint, train

SHAPE = (4, 4, 16, 16, 3)
TINY = dict(width=16, depth=2, heads=2, frames=2, image_size=16, patch=8, tubelet=1)


def batch_of(seed=0, rows=slice(None)):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, SHAPE, np.uint8)
    return {"video": video[rows], "id": np.arange(len(video), dtype=np.int32)[rows]}


def batches(start, rows):
    def endless():
        while True:
            yield batch_of(0, rows)

    return endless()


def config_of(run=""):
    """A student that sees every second frame, an image teacher of these frames and a video teacher of all."""
    c = common.get_config()
    c.total_steps, c.batch_size, c.optim.lr, c.optim.warmup = 2, 4, 1e-3, ""
    c.optim.lr_scaling, c.log_every = False, "1 step"
    c.data.frames, c.data.size = 4, 16
    student = dict(positions="learned_from_sincos", cls_token=True, cls_position=True, final_norm=False)
    c.model.encoder = ConfigDict(common.vit(**TINY, **student))
    image = common.vit(**TINY | dict(frames=1), positions="learned", cls_token=True)
    video = common.vit(**TINY | dict(frames=4, tubelet=2))
    c.teachers.clip = ConfigDict(common.teacher(run=run, encoder=image, proj=8, per_frame=True, every=2))
    c.teachers.mae = ConfigDict(common.teacher(run="", encoder=video))
    c.objective = ConfigDict(common.distill(every=2, pool=dict(name="attention_pool", width=8, heads=2)))
    c.objective.mask.ratio = 0.5
    c.objective.heads = ConfigDict(
        dict(
            middle=common.layer_head("clip", 2, project=True, cls=True),
            mae=common.layer_head("mae", 1, predictor=dict(head="mlp"), norm="last", weight=2.0),
        )
    )
    return c


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("distilled")
    return workdir, train(config_of(), workdir, batches=batches)


def test_two_teachers_train_a_student_and_stay_out_of_its_state(distilled):
    workdir, state = distilled
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[1]["train/loss"] < lines[0]["train/loss"]
    first = lines[0]
    assert first["train/loss"] == pytest.approx(first["train/middle"] + 2 * first["train/mae"], rel=1e-5)
    assert set(state) == {"step", "params", "extra", "opt"}
    assert set(state["params"]) == {"encoder", "pool", "heads"}
    assert "teachers" not in checkpoint.restore_params(workdir)[0]


def test_a_resumed_run_has_the_teacher_that_it_began_with(distilled, tmp_path):
    # The first run's own encoder, as a video model of two frames, teaches the second.
    taught = config_of()
    encoder = taught.model.encoder.to_dict()
    taught.teachers.clip = ConfigDict(common.teacher(run=str(distilled[0]), encoder=encoder, every=2))
    taught.objective.heads.middle = ConfigDict(common.layer_head("clip", 1, norm="none"))
    taught.total_steps = 1
    train(taught, tmp_path, batches=batches)
    record = json.loads((tmp_path / "teachers.json").read_text())
    assert record == {"clip": {"run": str(distilled[0]), "step": 2}}
    (tmp_path / "teachers.json").write_text(json.dumps({"clip": record["clip"] | {"step": 7}}))
    taught.total_steps = 2
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        train(taught, tmp_path, batches=batches)


def test_a_teacher_of_another_shape_or_without_a_run_is_an_error(distilled, tmp_path):
    c = config_of()
    c.teachers.clip.run = None
    with pytest.raises(UserError, match="config.teachers.clip.run is not set"):
        train(c, tmp_path, batches=batches)
    c.teachers.clip.run = str(distilled[0])
    with pytest.raises(UserError, match="is another encoder: "):
        train(c, tmp_path, batches=batches)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda c: c.objective.heads.mae.target.update(teacher="mea"), "teacher 'mea'.*clip, mae"),
        (lambda c: setattr(c.objective, "heads", ConfigDict()), "heads is empty"),
        (lambda c: c.objective.heads.mae.target.update(layers=3), "teacher 'mae' has 2 layers.*its last 3"),
        (lambda c: c.teachers.clip.update(proj=0), "has no projection"),
        (lambda c: c.objective.mask.update(per="video"), "mask.per='video'"),
    ],
)
def test_wrong_keys_are_named(change, named):
    c = config_of()
    change(c)
    with pytest.raises(UserError, match=named):
        objectives.build(c)


def test_grids_that_differ_are_named():
    c = config_of()
    c.teachers.mae.every = 2
    objective = objectives.build(c)

    def loss(rng):
        trees = {name: teacher.init(rng, batch_of()) for name, teacher in objective.teachers.items()}
        return objective.loss(*objective.init(rng, batch_of()), batch_of(), rng, 0, trees)

    with pytest.raises(UserError, match=r"teacher 'mae' has \(1, 2, 2\) tokens"):
        jax.eval_shape(loss, jax.random.key(0))


def test_recorded_layers_are_the_last_ones_in_order():
    c = config_of()
    c.teachers.self = ConfigDict(common.teacher(run="", encoder=c.model.encoder.to_dict(), every=2))
    c.teachers.self.encoder.depth = 5
    teacher = teachers.build(c)["self"]
    teacher.will_show(3)
    batch = {"video": jnp.asarray(batch_of()["video"])}

    @jax.jit
    def both(rng):
        tree = teacher.init(rng, batch)
        recorded = teachers.look({"self": teacher}, {"self": tree}, batch)["self"].layers(2, 2.0, norm="none")
        video = (batch["video"][:, ::2] / 255 - teacher.mean) / teacher.std
        _, seen = teacher.encoder.apply({"params": tree["encoder"]}, video, mutable=["intermediates"])
        return recorded, seen["intermediates"]["blocks"]["output"][0]

    recorded, outputs = both(jax.random.key(1))
    assert recorded.shape == (2, 4, 1 + 2 * 4, 16)
    np.testing.assert_allclose(recorded, outputs[np.array([2, 4])], atol=1e-5)


def test_an_image_teacher_sees_each_frame_by_itself():
    c = config_of()
    teacher = teachers.build(c)["clip"]
    batch = {"video": jnp.asarray(batch_of()["video"])}
    teacher.will_show(2)

    @jax.jit
    def look(video):
        seen = teachers.Look(teacher, teacher.init(jax.random.key(0), batch), video)
        return seen.layers(1), seen.importance

    (one, importance), (other, _) = look(batch["video"]), look(batch["video"].at[:, 2].set(0))
    np.testing.assert_array_equal(one[:, :, 1:5], other[:, :, 1:5])
    assert np.abs(one[:, :, 5:] - other[:, :, 5:]).max() > 1e-3
    assert importance.shape == (4, 8)
    # What the class token pays to itself is missing.
    assert (importance.reshape(4, 2, 4).sum(-1) < 1).all()


def test_attention_masks_have_fixed_counts_and_follow_the_weights():
    grid, count = (3, 4, 4), 2000
    importance = np.full((3, 16), 0.1, np.float32)
    importance[:, 5] = 3.0
    batch = {"id": jnp.arange(count)}
    weights = jnp.tile(jnp.asarray(importance.reshape(-1)), (count, 1))
    drawn = jax.jit(lambda rng: draw_batch(teacher_attention(ratio=0.8), rng, batch, grid, weights))(
        jax.random.key(0)
    )
    assert drawn.keep.shape == (count, 3 * (16 - int(0.8 * 16)))
    assert (np.diff(drawn.keep, axis=1) > 0).all()
    frames = np.asarray(drawn.keep).reshape(count, 3, 4) // 16
    assert (frames == np.arange(3)[:, None]).all()
    everything = np.sort(np.concatenate([drawn.keep, drawn.predict], axis=1), axis=1)
    assert (everything == np.arange(48)).all()
    shown = np.bincount(np.asarray(drawn.keep).reshape(-1), minlength=48) / count
    # Of draws without replacement, checked against numpy's.
    rng = np.random.default_rng(0)
    p = importance[0] / importance[0].sum()
    expected = np.mean([5 in rng.choice(16, 4, replace=False, p=p) for _ in range(4000)])
    assert shown[5] == pytest.approx(expected, abs=0.03) and shown[0] < 0.3


def test_attention_masks_of_a_whole_clip_may_take_more_of_one_frame():
    importance = np.concatenate([np.full(16, 1.0), np.full(16, 1e-6)])[None].astype(np.float32)
    mask = teacher_attention(ratio=0.5, per="clip")
    drawn = draw_batch(mask, jax.random.key(0), {"id": jnp.arange(1)}, (2, 4, 4), jnp.asarray(importance))
    assert (np.asarray(drawn.keep) == np.arange(16)).all()


def test_masks_depend_on_the_sample_not_on_its_place_in_the_batch():
    weights = jnp.asarray(np.random.default_rng(0).random((4, 8)), jnp.float32)
    ids = jnp.arange(4)
    mask = teacher_attention(ratio=0.5)
    whole = draw_batch(mask, jax.random.key(3), {"id": ids}, (2, 2, 2), weights)
    flipped = draw_batch(mask, jax.random.key(3), {"id": ids[::-1]}, (2, 2, 2), weights[::-1])
    np.testing.assert_array_equal(whole.keep, flipped.keep[::-1])


def test_a_decoder_may_predict_a_teachers_features():
    c = config_of()
    c.model.encoder.update(frames=4, tubelet=2, cls_token=False)
    c.objective = common.get_config().objective
    c.objective.mask = ConfigDict(dict(name="random", ratio=0.5))
    c.objective.predictor.update(width=16, depth=1, heads=2)
    c.objective.target = ConfigDict(dict(name="teacher_features", teacher="mae"))
    c.objective.loss = ConfigDict(dict(name="cosine"))
    objective = objectives.build(c)
    batch = {name: jnp.asarray(x) for name, x in batch_of().items()}

    @jax.jit
    def loss(rng):
        trees = {"mae": objective.teachers["mae"].init(rng, batch), "clip": None}
        params, extra = objective.init(rng, batch)
        assert params["predictor"]["head"]["kernel"].shape == (16, 16)
        return objective.loss(params, extra, batch, rng, 0, trees)[0]

    assert 1 < float(loss(jax.random.key(0))) < 3

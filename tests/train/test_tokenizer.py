"""The tokenizer's hash lies beside the checkpoints, and another tokenizer is refused."""

import numpy as np
import pytest

from vfm.errors import UserError
from vfm.objectives import masked
from vfm.train import config as configs
from vfm.train import dry_run, train

from .conftest import Regression, make_batches, make_config

BYTES = {"data.text.tokenizer": "bytes", "total_steps": 2}


class Reader(Regression):
    """The toy with a part that is named like a text model."""

    def init(self, rng, batch):
        params, extra = super().init(rng, batch)
        return params | {"text": dict(head=dict(kernel=np.ones((4, 1), np.float32)))}, extra


def fit(workdir, **changes):
    config = make_config(**(BYTES | changes))
    return train(config, workdir, objective=Reader(), batches=make_batches())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    fit(workdir)
    return workdir


def test_the_config_beside_the_checkpoints_names_the_tokenizer(run):
    assert len(configs.load_config(run).data.text.sha256) == 64


def test_a_resume_with_another_tokenizer_is_refused(run):
    with pytest.raises(
        UserError, match=r"--workdir='.*' was trained with another tokenizer: 'bytes' \(hash .*framing"
    ):
        fit(run, **{"total_steps": 4, "data.text.pad": 3})
    fit(run, **{"total_steps": 4})  # the same one goes on


@pytest.mark.parametrize("key", ["run", "text"])
def test_parts_of_a_run_with_another_tokenizer_are_refused(run, tmp_path, key):
    with pytest.raises(UserError, match=rf"config.init.{key}='.*' was trained with another tokenizer"):
        fit(tmp_path, **{f"init.{key}": str(run), "data.text.bos": False})
    if key == "text":
        fit(tmp_path / "same", **{"init.text": str(run)})
        fit(tmp_path / "encoder", **{"init.encoder": str(run), "data.text.bos": False})  # reads no words


def test_a_given_hash_has_to_be_the_tokenizers(tmp_path):
    with pytest.raises(
        UserError, match="data.text.tokenizer='bytes' has the hash .* data.text.sha256 asks for abc"
    ):
        fit(tmp_path, **{"data.text.sha256": "abc"})


def test_a_second_medium_has_its_own_number_of_rows_on_the_devices(tmp_path):
    def batches(start, rows):
        for batch in make_batches()(start, rows):
            yield batch | {"image": np.zeros((4, 2), np.uint8)}

    seen = {}

    class Looking(Regression):
        images = True

        def loss(self, params, extra, batch, *rest):
            seen.update({name: array.shape for name, array in batch.items()})
            return super().loss(params, extra, batch, *rest)

    train(make_config(total_steps=1), tmp_path, objective=Looking(), batches=batches)
    assert seen["image"] == (4, 2) and seen["x"] == (8, 6)
    with pytest.raises(UserError, match="data.images='': objective 'masked' learns from videos only"):
        train(make_config(total_steps=1), tmp_path / "other", objective=Regression(), batches=batches)


def test_a_dry_run_knows_the_shapes_of_text_and_images(monkeypatch):
    monkeypatch.setattr(masked, "images", True, raising=False)
    config = make_config(**(BYTES | {"data.image_batch": 4, "data.images": "x.csv", "batch_size": 2}))
    config.data.frames, config.data.size, config.data.text.length = 2, 16, 12
    config.model.encoder.update(
        size="ti", width=16, depth=1, heads=2, mlp_dim=16, frames=2, image_size=16, patch=8
    )
    config.objective.mask.ratio = 0.5
    config.objective.predictor.update(width=16, depth=1, heads=2)
    config.sharding_rules = ((r".*", ()),)
    text = dry_run(config)
    for line in (
        "video uint8 2x2x16x16x3",
        "text int32 2x12",
        "image uint8 4x1x16x16x3",
        "image_text_mask bool 4x12",
    ):
        assert line in text

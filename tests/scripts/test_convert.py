"""Published checkpoints become run folders, whose parts compute the originals' numbers and are taken by other runs."""

import json

import jax
import numpy as np
import pytest
from einops import rearrange
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from configs import common
from scripts import convert
from vfm import models
from vfm.errors import UserError
from vfm.interop.golden import read
from vfm.train import checkpoint
from vfm.train.config import load_config
from vfm.train.handover import take_part


@pytest.fixture
def published(shared, tmp_path):
    """Writes a golden file's weights as transformers would: (golden, files in two shards, with a config.json)."""

    def write(name):
        golden = read(shared / "golden" / name)
        folder = tmp_path / "published"
        folder.mkdir()
        names = sorted(golden.weights)
        for number, some in enumerate((names[::2], names[1::2])):
            save_file({key: golden.weights[key] for key in some}, folder / f"model-{number}.safetensors")
        about = {"architectures": [golden.metadata["class"]], "torch_dtype": "float32", "head_dim": None}
        (folder / "config.json").write_text(json.dumps(about | golden.config))
        return golden, sorted(folder.glob("*.safetensors"))

    return write


def converted(family, files, out):
    counts = convert.convert(family, files, None, "configs/common.py", out)
    return counts, checkpoint.restore_params(out)[0], load_config(out)


def test_a_language_model_is_taken_over(published, tmp_path):
    golden, files = published("llama_hf.gqa.safetensors")
    counts, params, config = converted("llama_hf", files, tmp_path / "run")
    assert counts == {"lm": sum(x.size for x in golden.weights.values())}
    model = models.build(config.model.lm)
    mask = golden.inputs["attention_mask"] != 0
    positions = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    logits, _ = model.apply({"params": params["lm"]}, golden.inputs["input_ids"], mask, positions=positions)
    np.testing.assert_allclose(logits, golden.expected["output/logits"], atol=2e-5)

    here = common.get_config()
    here.model.lm = ConfigDict(config.model.lm.to_dict() | {"lora_rank": 2})
    here.init.allow = (r"lm/.*/lora_[ab]",)
    new = models.build(here.model.lm).init(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    taken = take_part("lm", str(tmp_path / "run"), {"lm": new}, here)["lm"]
    np.testing.assert_array_equal(taken["words"]["embedding"], golden.weights["model.embed_tokens.weight"])
    here.model.lm.rope_theta = 5e5  # no shape tells
    with pytest.raises(UserError, match="another language model: rope_theta is 10000.0 there, 500000.0 here"):
        take_part("lm", str(tmp_path / "run"), {"lm": new}, here)
    with pytest.raises(UserError, match="holds checkpoints already"):
        converted("llama_hf", files, tmp_path / "run")


def test_towers_of_an_image_text_model_are_taken_over(published, tmp_path):
    golden, files = published("clip_hf.base.safetensors")
    _, params, config = converted("clip_hf", files, tmp_path / "run")
    assert (config.data.frames, config.data.size) == (1, 32)
    image = rearrange(golden.inputs["pixel_values"], "b c h w -> b 1 h w c")
    features = models.build(config.model.encoder).apply({"params": params["encoder"]}, image)
    embedded = features.cls @ params["video_proj"]["kernel"]
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    np.testing.assert_allclose(embedded, golden.expected["output/image_embeds"], atol=1e-5)

    # Heads have no shape that would tell.
    here = common.get_config()
    here.model.encoder = ConfigDict(config.model.encoder.to_dict())
    mine = {"encoder": jax.device_put(params["encoder"])}
    take_part("encoder", str(tmp_path / "run"), mine, here)
    here.model.encoder.heads = 2
    with pytest.raises(UserError, match="another encoder: heads is 4 there, 2 here"):
        take_part("encoder", str(tmp_path / "run"), mine, here)


@pytest.mark.parametrize(
    "family, name, parts",
    [
        ("videomae_hf", "videomae_hf.pretrain.safetensors", {"encoder"}),
        ("bert_hf", "bert_hf.mlm.safetensors", {"text"}),
        ("siglip_hf", "siglip_hf.base.safetensors", {"encoder", "pool", "text"}),
    ],
)
def test_other_families_fill_the_parts_that_their_keys_describe(published, tmp_path, family, name, parts):
    golden, files = published(name)
    counts, params, config = converted(family, files, tmp_path / "run")
    assert parts <= counts.keys() and all(counts.values())
    if "encoder" in parts:
        e = config.model.encoder
        video = np.zeros((1, e.frames, e.image_size, e.image_size, 3), np.float32)
        shapes = jax.eval_shape(models.build(e).init, jax.random.key(0), video)["params"]
        jax.tree.map(
            lambda shape, x: np.testing.assert_equal(shape.shape, x.shape), shapes, params["encoder"]
        )


def test_mistakes_are_named(published, tmp_path):
    _, files = published("llama_hf.gqa.safetensors")
    with pytest.raises(UserError, match="needs 2 tensors, found 1"):
        converted("llama_hf", files[:1], tmp_path / "run")
    with pytest.raises(UserError, match="no family 'lama_hf'.*did you mean 'llama_hf'"):
        converted("lama_hf", files, tmp_path / "run")
    with pytest.raises(UserError, match="constructor arguments that this family does not map"):
        converted("clip_hf", files, tmp_path / "run")
    with pytest.raises(UserError, match="no part that a run can take"):
        converted("causal_conv1d", files, tmp_path / "run")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="broken.safetensors' does not read as .safetensors"):
        convert.read_tensors([tmp_path / "broken.safetensors"])
    with pytest.raises(UserError, match="expected .*safetensors"):
        convert.read_tensors([tmp_path / "published" / "config.json"])
    with pytest.raises(UserError, match="--model_config"):
        convert.read_config(tmp_path / "config.json")

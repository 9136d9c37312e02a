"""A contrastive model of toy size and a batch for it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common

ROWS, FRAMES, SIDE, LENGTH = 8, 2, 16, 6
BERT = dict(
    name="bert",
    vocab_size=0,
    width=16,
    depth=2,
    heads=2,
    mlp_dim=32,
    length=LENGTH,
    fusion_layer=1,
    dropout=0.1,
)
TEXT = dict(name="text", vocab_size=0, width=16, depth=1, heads=2, mlp_dim=32, length=LENGTH)


def make_config(text=TEXT, **changes):
    c = common.get_config()
    c.total_steps, c.batch_size = 2, ROWS
    c.data.frames, c.data.size, c.data.text.tokenizer, c.data.text.length = FRAMES, SIDE, "bytes", LENGTH
    c.model.encoder = ConfigDict(
        common.vit(
            width=16, depth=1, heads=2, mlp_dim=32, frames=FRAMES, image_size=SIDE, patch=8, drop_path=0.3
        )
    )
    c.model.text = ConfigDict(text)
    keys = dict(dim=8, mask=dict(name="random", ratio=0.5))
    c.objective = ConfigDict(common.contrast(**(keys | changes)))
    return c


def make_batch(rows=ROWS, images=0, seed=0):
    rng = np.random.default_rng(seed)

    def medium(prefix, key, rows, frames):
        return {
            key: rng.integers(0, 256, (rows, frames, SIDE, SIDE, 3), np.uint8),
            f"{prefix}text": rng.integers(4, 260, (rows, LENGTH)).astype(np.int32),
            f"{prefix}text_mask": np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (rows, 1)),
            f"{prefix}text_id": rng.integers(0, rows - 2 if rows > 3 else 9, rows).astype(np.int32),
        }

    batch = medium("", "video", rows, FRAMES) | {"id": np.arange(10, 10 + rows, dtype=np.int32)}
    if images:
        batch |= medium("image_", "image", images, 1)
    return jax.tree.map(jnp.asarray, batch)


@pytest.fixture(scope="session")
def pairs() -> SimpleNamespace:
    return SimpleNamespace(
        config=make_config, batch=make_batch, bert=BERT, text=TEXT, rows=ROWS, length=LENGTH
    )

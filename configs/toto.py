"""Next-code pretraining (Toto, Rajasegaran et al. 2025): `configs/toto.py[:base|large|1b]`; the default is small.

A decoder-only transformer reads the codes of a frozen tokenizer, which is trained first:

    python main.py --config configs/video_tokenizer.py --workdir runs/tokenizer
    python main.py --config configs/toto.py --config.teachers.tokenizer.run=runs/tokenizer --workdir runs/toto

The small one is for the embedded data set. Published sizes read 16 frames of 128 x 128 pixels, 256 codes of 8,000 for
each, so 4,096 in all, a million in a batch (configs/video_tokenizer.py:toto). Their best features for probes are
those of a layer at half of the depth.
"""

from ml_collections import ConfigDict

from configs import common
from configs.video_tokenizer import tokenizer

SIZES = {  # width, depth, heads, mlp_dim
    "base": (768, 12, 12, 2048),
    "large": (1024, 16, 16, 2736),
    "1b": (2048, 22, 16, 5472),
}


def get_config(size: str = "small") -> ConfigDict:
    if size not in ("small", *SIZES):
        raise ValueError(f"configs/toto.py:{size}: no such size; choose one of small, {', '.join(SIZES)}")
    c = common.get_config()
    codes = tokenizer("fsq" if size == "small" else "toto")
    width, depth, heads, mlp_dim = SIZES.get(size, (128, 4, 2, 344))
    shape = dict(width=width, depth=depth, heads=heads, kv_heads=heads, mlp_dim=mlp_dim)
    c.model.encoder = ConfigDict(
        dict(name="code_lm", tokenizer=codes, rope_theta=10_000.0, norm_eps=1e-6, tied=False, **shape)
    )
    c.teachers.tokenizer = ConfigDict(common.teacher(encoder=codes))
    c.objective = ConfigDict(dict(name="next_code", chunk=0 if size == "small" else 512))
    # The encoder's copy of the tokenizer is the teacher's; the optimiser leaves it alone.
    c.optim.lr_rules = ((r"encoder/tokenizer/.*", 0.0), (r".*", 1.0))
    if size == "small":
        common.digits(c)
        return c
    c.total_steps, c.batch_size = 1_000_000, 256
    c.data.frames, c.data.stride, c.data.size, c.data.crop = 16, 4, 128, "random_resized"
    c.remat = "full"
    c.optim.lr, c.optim.lr_scaling, c.optim.min_lr = 3e-4, False, 3e-5
    c.optim.warmup, c.optim.clip = "2000 steps", 1.0
    return c

"""Next-patch pretraining on clips (AIM, El-Nouby et al. 2024): `configs/aim.py[:600m|1b|3b|7b]`.

The default is small and trains on the embedded data set, on a laptop. Published sizes read 14 x 14 patches without
biases in the layers, behind a norm and fixed sinusoids; a random prefix of every clip sees itself whole and is not
predicted; twelve residual MLPs predict the standardised pixels of the next patch. AIM is an image model: here frames
follow each other in raster order, and one frame is one image.
"""

from ml_collections import ConfigDict

from configs import common

SIZES = {  # width, depth, heads
    "600m": (1536, 24, 12),
    "1b": (2048, 24, 16),
    "3b": (3072, 24, 24),
    "7b": (4096, 32, 32),
}


def get_config(size: str = "small") -> ConfigDict:
    if size not in ("small", *SIZES):
        raise ValueError(f"configs/aim.py:{size}: no such size; choose one of small, {', '.join(SIZES)}")
    c = common.get_config()
    encoder = dict(attends="prefix", qkv_bias="none", block_bias=False, embed_norm=True, positions="sincos3d")
    c.objective = ConfigDict(
        dict(
            name="next_patch",
            prefix=(0.0, 1.0),  # lowest and highest share of a clip's tokens in its prefix
            predictor=dict(name="mlp_head", depth=12, mlp_ratio=4.0),  # part; home `vfm.models`
            target=dict(name="pixels", norm="patch", eps=1e-6),  # part; home `vfm.targets`
            loss=dict(name="mse"),  # part; home `vfm.losses`
        )
    )
    if size == "small":
        common.digits(c)
        c.model.encoder = ConfigDict(
            common.vit(width=128, depth=4, heads=2, image_size=32, patch=8, **encoder)
        )
        c.objective.predictor.update(dict(depth=2, mlp_ratio=2.0))
        c.objective.target.eps = 0.05  # flat patches stay flat
        return c
    width, depth, heads = SIZES[size]
    c.total_steps = 500_000
    c.batch_size = 4096
    c.remat = "full"
    c.model.encoder = ConfigDict(common.vit(width=width, depth=depth, heads=heads, patch=14, **encoder))
    c.optim.lr, c.optim.lr_scaling, c.optim.min_lr = 1e-3, False, 0.0
    c.optim.warmup = "31250 steps"
    c.optim.clip = 1.0
    return c

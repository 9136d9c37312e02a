"""Masked video modelling small enough for a laptop: a ViT of 0.9 M parameters on the embedded data set.

128 tokens a clip (16 frames of 32 x 32 pixels, tubelets of 2 x 8 x 8). Two choices matter at this size: the mask is
drawn freely in space-time (tubes are too coarse on a 4 x 4 grid), and targets are standardised with a large epsilon,
so that flat patches do not ask for their noise. The loss falls steeply only after some hundred steps.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    c = common.get_config()
    c.total_steps = 3000
    c.batch_size = 128
    c.precision = "bfloat16_dots"  # on a CPU 1.6 times as fast as float32
    c.unroll = 0

    c.data.train = "data/digits/train.csv"
    c.data.frames = 16
    c.data.stride = 1
    c.data.size = 32
    c.data.crop = "center"
    c.data.cache = True
    c.data.cache_size = 32

    c.model.encoder = ConfigDict(
        common.vit(width=128, depth=4, heads=2, image_size=32, patch=8, positions="sincos3d")
    )
    c.objective.mask = ConfigDict(dict(name="random", ratio=0.8))
    c.objective.predictor = ConfigDict(dict(name="decoder", width=64, depth=1, heads=1, mlp_ratio=4.0))
    c.objective.target.eps = 0.05

    c.optim.lr = 2e-3
    c.optim.lr_scaling = False
    c.optim.min_lr = 2e-5
    c.optim.warmup = "100 steps"
    c.checkpoint.every = "10%"
    c.log_every = "20 steps"
    return c

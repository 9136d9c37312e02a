"""VideoMamba, masked pretraining at 8 frames: `configs/videomamba.py:m` (ti, s, m).

Optimiser, schedule, batch and the drop path of m are those of the published masked pretraining (Li et al. 2024: 2048
clips, 800 epochs, 0.2 of the tokens visible). That has a CLIP teacher, which also draws the mask; here pixels are
predicted at randomly hidden tokens by a decoder, and ti and s, for which no masked recipe is published, drop less.

    python main.py --config configs/videomamba.py:m --config.data.train=k400_train.csv --workdir runs/videomamba_m
"""

from ml_collections import ConfigDict

from configs import common

DROP_PATH = {"ti": 0.1, "s": 0.2, "m": 0.4}


def get_config(size: str = "m") -> ConfigDict:
    if size not in DROP_PATH:
        raise ValueError(f"configs/videomamba.py:{size}: no such size; choose one of {', '.join(DROP_PATH)}")
    c = common.get_config()
    c.total_epochs = 800.0
    c.batch_size = 2048
    c.data.frames = 8
    c.data.sampling = "sparse"
    c.data.flip = True
    c.model.encoder = ConfigDict(common.mamba(size=size, drop_path=DROP_PATH[size]))
    c.objective.mask = ConfigDict(dict(name="random", ratio=0.8))
    c.objective.predictor = ConfigDict(dict(name="decoder", width=384, depth=4, heads=6, mlp_ratio=4.0))
    c.checkpoint.every = "20 epochs"
    return c

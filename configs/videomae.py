"""VideoMAE pretraining on Kinetics-400 with the published recipes: `configs/videomae.py:b` (s, b, l, h, g).

s, b, l, h: VideoMAE (Tong et al. 2022), 1600 epochs at batch 2048. g: VideoMAE V2 (Wang et al. 2023): patch 14, half
of the tokens decoded, 300 epochs with 4 clips of each decoded video. Learning rates are multiplied by batch / 256.

    python main.py --config configs/videomae.py:b --config.data.train=k400_train.csv --workdir runs/videomae_b

Something-Something v2: --config.data.stride=2 --config.total_epochs=2400.
"""

from ml_collections import ConfigDict

from configs import common

DECODERS = {  # width, heads, depth
    "s": (192, 3, 4),
    "b": (384, 6, 4),
    "l": (512, 8, 12),
    "h": (640, 8, 12),
    "g": (512, 8, 4),
}


def get_config(size: str = "b") -> ConfigDict:
    if size not in DECODERS:
        raise ValueError(f"configs/videomae.py:{size}: no such size; choose one of {', '.join(DECODERS)}")
    c = common.get_config()
    c.total_epochs = 1600.0
    c.batch_size = 2048
    c.remat = "full" if size in "hg" else "none"
    c.model.encoder = ConfigDict(common.vit(size=size, final_norm=True))
    width, heads, depth = DECODERS[size]
    c.objective.predictor = ConfigDict(
        dict(name="decoder", width=width, depth=depth, heads=heads, mlp_ratio=4.0)
    )
    c.ema = 0.0
    c.log_every = "50 steps"
    c.checkpoint.every = "20 epochs"
    if size == "g":
        c.total_epochs = 300.0
        c.model.encoder.patch = 14
        c.objective.mask = ConfigDict(dict(name="running_cell", ratio=0.9, skip_ratio=0.5))
        c.data.clips_per_video = 4
        # The published rate counts videos, this batch counts clips: 2048 videos are 8192 clips.
        c.batch_size = 8192
        c.optim.lr, c.optim.min_lr = 6e-4 / 4, 1e-5 / 4
        c.optim.warmup = "30 epochs"
        c.optim.clip = 0.02
    return c

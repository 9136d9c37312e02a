"""A tokenizer of videos, trained as an autoencoder: `configs/video_tokenizer.py[:vq|toto]`; fsq is the default.

fsq: 1,000 codes from channels rounded to 8, 5, 5 and 5 levels. vq: a codebook of 512 vectors, moving averages of what
they stand for. Both small, on the embedded data set. toto: 8,000 codes of 8 x 8 pixels, frame by frame, of clips at
128 pixels, for configs/toto.py.
"""

from ml_collections import ConfigDict

from configs import common

KINDS = ("fsq", "vq", "toto")


def tokenizer(kind: str = "fsq") -> dict:
    """The network (part; home `vfm.models`), as configs/toto.py needs it too."""
    quantizer = dict(name="fsq", levels=(8, 8, 5, 5, 5) if kind == "toto" else (8, 5, 5, 5))
    if kind == "vq":
        quantizer = dict(name="vq", codes=512, dim=16, commitment=0.25, decay=0.99)
    shape = dict(width=96, depth=2, heads=2, image_size=32, frames=1, tubelet=1, patch=8)
    if kind == "toto":
        shape = dict(size="s", image_size=128, frames=1, tubelet=1, patch=8)
    return dict(
        name="video_tokenizer",
        window=1,  # frames read together; 0 = the whole clip, 1 = frame by frame
        encoder=common.vit(positions="sincos3d", qkv_bias="qkv", **shape),  # part; home `vfm.models`
        quantizer=quantizer,  # part; home `vfm.models.quantizers`
    )


def get_config(kind: str = "fsq") -> ConfigDict:
    if kind not in KINDS:
        raise ValueError(f"configs/video_tokenizer.py:{kind}: no such kind; choose one of {', '.join(KINDS)}")
    c = common.get_config()
    common.digits(c)
    c.model.encoder = ConfigDict(tokenizer(kind))
    c.objective = ConfigDict(
        dict(
            name="autoencoder",
            decoder=dict(name="pixel_decoder", width=96, depth=2, heads=2),  # part; home `vfm.models`
            loss=dict(name="mse"),  # part; home `vfm.losses`
            restart=1.0,  # a code used less often than this in an average batch is seeded anew; 0 = never
        )
    )
    if kind == "toto":
        c.total_steps, c.batch_size = 200_000, 256
        c.precision, c.unroll = "auto", 1
        c.data.train = ""
        c.data.frames, c.data.stride, c.data.size = 16, 4, 128
        c.data.crop, c.data.cache, c.data.cache_size = "random_resized", False, 0
        c.objective.decoder.update(dict(width=384, depth=6, heads=6))
        c.optim.lr, c.optim.warmup = 3e-4, "5000 steps"
    return c

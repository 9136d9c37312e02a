"""Captioning by cross-attention (CapPa, Tschannen et al. 2023): `configs/cappa.py[:b|l]`; the default is small.

Three of four captions are predicted in parallel, all words at once from the video alone, the others word by word.
The small one trains on the embedded data set with bytes as tokens. b and l have the published sizes and schedule
(AdamW in place of Adafactor), for images or clips with captions and a tokenizer of 32,000 pieces:

    python main.py --config configs/cappa.py:b --config.data.train=clips.csv --config.data.text.tokenizer=pieces.model
"""

from ml_collections import ConfigDict

from configs import common

SIZES = {"b": (768, 12), "l": (1024, 16)}  # width and heads of the decoder


def get_config(size: str = "small") -> ConfigDict:
    if size not in ("small", *SIZES):
        raise ValueError(f"configs/cappa.py:{size}: no such size; choose one of small, {', '.join(SIZES)}")
    c = common.get_config()
    width, heads = SIZES.get(size, (128, 2))
    decoder = dict(name="caption_decoder", vocab_size=0, width=width, depth=6, heads=heads, length=64)
    c.objective = ConfigDict(
        dict(
            name="captioner",
            parallel=0.75,  # probability that an example's words are predicted in parallel
            chunk=0,  # text positions whose logits exist at a time; 0 = all
            smoothing=0.0,  # of the labels
            decoder=decoder,  # part; home `vfm.models`; vocab_size 0 = the tokenizer's
        )
    )
    c.data.text.bos = False  # the decoder has a start of its own
    if size == "small":
        common.digits(c)
        c.data.text.tokenizer, c.data.text.length = "bytes", 80
        c.model.encoder = ConfigDict(
            common.vit(width=128, depth=4, heads=2, image_size=32, patch=8, positions="sincos3d")
        )
        c.objective.decoder.update(dict(depth=2, length=80))
        return c
    c.total_steps, c.batch_size = 366_500, 8192
    c.data.text.length = 64
    c.objective.decoder.vocab_size, c.objective.chunk = 32_000, 16
    c.model.encoder = ConfigDict(common.vit(size=size, positions="learned", qkv_bias="qkv"))
    c.optim.lr, c.optim.lr_scaling, c.optim.min_lr = 1e-3, False, 0.0
    c.optim.b2, c.optim.weight_decay, c.optim.clip = 0.999, 1e-4, 1.0
    c.optim.warmup = "10000 steps"
    return c

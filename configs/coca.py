"""Contrast and captioning with one text decoder (CoCa, Yu et al. 2022): `configs/coca.py[:b|l]`; the default is small.

Half of the decoder reads text alone and gives its embedding, half looks at the video and writes the caption. The
small one trains on the embedded data set with bytes as tokens. b and l have the published sizes of open
implementations, with all frames of a clip as one sequence (VideoCoCa); they need a tokenizer:

    python main.py --config configs/coca.py:b --config.data.train=clips.csv --config.data.text.tokenizer=bpe.txt.gz

To tune a model on captions alone: --config.objective.contrast=0 --config.objective.caption=1.
"""

from ml_collections import ConfigDict

from configs import common

SIZES = {  # of the decoder: width, heads, layers over text, layers that see the video; embedding
    "b": (512, 8, 12, 12, 512),
    "l": (768, 12, 12, 12, 768),
}


def get_config(size: str = "small") -> ConfigDict:
    if size not in ("small", *SIZES):
        raise ValueError(f"configs/coca.py:{size}: no such size; choose one of small, {', '.join(SIZES)}")
    c = common.get_config()
    width, heads, text_depth, depth, embed_dim = SIZES.get(size, (128, 2, 2, 2, 128))
    pool = dict(name="query_pool", width=width, heads=heads)
    c.objective = ConfigDict(
        dict(
            name="coca",
            contrast=1.0,  # weight of the contrast
            caption=2.0,  # weight of the captions' cross-entropy
            embed_dim=embed_dim,  # of a video and of a text
            temperature=0.07,  # at the start; learned
            scale_range=(1.0, 100.0),  # of 1 / temperature
            directions="mean",  # mean | sum of both directions
            chunk=0,  # columns compared at once; 0 = all
            text_chunk=0,  # text positions whose logits exist at a time; 0 = all
            smoothing=0.0,  # of the captions' labels
            # Parts; home `vfm.models`. The decoder's length counts a start beside the text.
            decoder=dict(
                name="caption_decoder", vocab_size=0, width=width, depth=depth, text_depth=text_depth,
                heads=heads, length=77, norm_eps=1e-5, use_bias=True,
            ),
            contrast_pool=dict(queries=1, **pool),
            caption_pool=dict(queries=256, **pool),
        )
    )  # fmt: skip
    c.data.text.bos = False  # the decoder has a start of its own
    if size == "small":
        common.digits(c)
        c.data.text.tokenizer, c.data.text.length = "bytes", 80
        c.model.encoder = ConfigDict(
            common.vit(width=128, depth=4, heads=2, image_size=32, patch=8, positions="sincos3d")
        )
        c.objective.decoder.length, c.objective.caption_pool.queries = 81, 32
        return c
    c.total_steps, c.batch_size = 500_000, 4096
    c.data.text.length = 76
    c.objective.text_chunk, c.objective.chunk = 19, 1024
    c.model.encoder = ConfigDict(
        common.vit(size=size, patch=16 if size == "b" else 14, positions="learned", qkv_bias="qkv")
    )
    c.optim.lr, c.optim.lr_scaling, c.optim.min_lr = 1e-3, False, 0.0
    c.optim.b2, c.optim.weight_decay, c.optim.clip = 0.98, 0.1, 1.0
    c.optim.warmup = "2%"
    return c

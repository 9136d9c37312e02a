"""The three stages, small: `configs/quickstart_stages.py:stage1|stage2|stage3[,mamba]`, on the embedded data set.

stage1: masked video modelling, the quickstart. stage2: the encoder is aligned with captions. stage3: a small language
model learns to tell what the encoder sees. `make quickstart-full` trains and measures them all. Stages by themselves
need the data set and a tokenizer of its captions, once:

    python -m input_pipeline.embedded data/digits
    python -m scripts.train_tokenizer data/digits/train.csv --out data/digits/captions.model \\
        --kind bpe --vocab_size 128
    python -m scripts.stages --config configs/quickstart_stages.py --workdir runs/stages
"""

from ml_collections import ConfigDict

from configs import common, quickstart, quickstart_mamba

HANDOVER = {"stage1": {}, "stage2": {"encoder": "stage1"}, "stage3": {"encoder": "stage2"}}
ENCODERS = {"": quickstart, "mamba": quickstart_mamba}


def get_config(arg: str = "stage1") -> ConfigDict:
    stage, _, encoder = arg.partition(",")
    if stage not in HANDOVER or encoder not in ENCODERS:
        raise ValueError(
            f"configs/quickstart_stages.py:{arg}: no such stage or encoder; choose {', '.join(HANDOVER)}, "
            "with ',mamba' behind it for the other encoder"
        )
    c = ENCODERS[encoder].get_config()
    if stage == "stage1":
        return c
    c.batch_size = 64
    c.data.text.tokenizer = "data/digits/captions.model"
    c.data.text.length = 32
    c.optim.lr, c.optim.min_lr, c.optim.clip, c.optim.warmup = 1e-3, 1e-5, 1.0, "50 steps"
    if stage == "stage2":
        c.total_steps = 700
        c.batch_size = 128
        c.model.text = ConfigDict(common.text(width=128, depth=2, heads=2, length=32))
        c.objective = ConfigDict(common.contrast(dim=128))
        c.objective.mask = ConfigDict(dict(name="random", ratio=0.5))
        return c
    c.total_steps = 1000
    c.model.lm = ConfigDict(common.lm(width=128, depth=2, heads=2, kv_heads=1, mlp_dim=384))
    c.model.connector = ConfigDict(common.connector(pool=(1, 2, 2)))
    c.objective = ConfigDict(common.next_token())
    c.optim.lr_rules = common.language_model_rates("full", encoder=0.5)
    return c

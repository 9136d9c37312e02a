"""InternVideo2 (Wang et al. 2024, arXiv 2403.15377): `configs/internvideo2.py:stage1|stage2|stage3[,size]`.

Sizes ti, s, b, l, 1b, 6b, and tiny for the embedded data set.

stage1: a student of few visible tokens learns the features of frozen teachers. 1b and 6b: an image-text model of 6B
parameters, frame by frame, whose pooling attention also draws the mask, and VideoMAE V2-g. ti to l: the second stage's
1b. tiny: the quickstart's encoder. Teachers are runs of their own: --config.teachers.NAME.run=DIR.
stage2: contrast with text, matching and masked words. stage3: a language model tells what the encoder sees.

With ",uta" behind the size the second stage goes on learning from a teacher, as Unmasked Teacher's does; InternVideo2's
released one does not. Its teacher is --config.teachers.clip.run=DIR: stage 1's clip teacher, for tiny stage 1 itself.

    python main.py --config configs/internvideo2.py:stage1,1b --dry_run
    python main.py --config configs/internvideo2.py:stage1,tiny --config.teachers.mae.run=runs/quickstart \\
        --workdir runs/tiny

stage2 and stage3 of tiny need a tokenizer of the data set's captions, once:

    python -m scripts.train_tokenizer data/digits/train.csv --out data/digits/captions.model \\
        --kind bpe --vocab_size 128

Batches, rates and schedules are those of the released scripts; ti, for which there is none, trains as s. How the
released runs sample frames is not known for certain; here it is every second of 32 (1b, 6b) or every fourth.
1b and 6b name their meshes (128 and 256 devices; 128 in stage3); elsewhere set --config.mesh.data=-1 and
--config.mesh.fsdp=N.
"""

from ml_collections import ConfigDict

from configs import common

STAGES = ("stage1", "stage2", "stage3")
HANDOVER = {
    "stage1": {},
    "stage2": {"encoder": "stage1", "pool": "stage1"},
    "stage3": {"encoder": "stage2"},
}
SIZES = ("tiny", "ti", "s", "b", "l", "1b", "6b")
LARGE = ("1b", "6b")
MESHES = {"1b": dict(data=8, fsdp=16, tensor=1), "6b": dict(data=8, fsdp=32, tensor=1)}
DROP_PATH = {"1b": 0.25, "6b": 0.3}
POOL = dict(name="attention_pool", width=768, heads=16)


def get_config(arg: str = "stage1") -> ConfigDict:
    stage, _, rest = arg.partition(",")
    size, _, aligned = rest.partition(",")
    size = size or "1b"
    if stage not in STAGES or size not in SIZES or aligned not in ("", "uta"):
        raise ValueError(
            f"configs/internvideo2.py:{arg}: no such stage or size; choose one of {', '.join(STAGES)}, then a comma "
            f"and one of {', '.join(SIZES)}, then perhaps ',uta'"
        )
    c = common.get_config()
    c.checkpoint.every = "5%"
    if size == "tiny":
        common.digits(c)
    else:
        c.remat = "full" if size in LARGE else "none"
        c.data.crop, c.data.flip = "multiscale", True
        c.optim.b1, c.optim.b2, c.optim.eps, c.optim.weight_decay, c.optim.clip = 0.9, 0.98, 1e-6, 0.05, 3.0
        if size in LARGE:
            c.precision = "bfloat16"
            c.mesh = ConfigDict(MESHES[size])
            c.accumulate = 4  # 8 (1b) and 2 (6b) clips a device at a time
    c = {"stage1": stage1, "stage2": stage2, "stage3": stage3}[stage](c, size)
    return align(c, size) if stage == "stage2" and aligned else c


def encoder(size: str, frames: int, **changes) -> dict:
    """The encoder's keys, as published (at 8 frames with its pool 1.02 and 5.94 billion parameters)."""
    keys = dict(
        size=size,
        frames=frames,
        tubelet=1,
        patch=14,
        positions="learned_from_sincos",
        image_positions="mean",
        cls_token=True,
        cls_position=True,
        norm="rmsnorm",
        norm_eps=1e-6,
        qkv_bias="none",
        qk_norm=True,
        qk_norm_over="all",
        layer_scale=1e-5,
        activation="gelu_tanh",
        drop_path=DROP_PATH.get(size, 0.05),
        final_norm=False,
    )
    if size == "tiny":
        keys |= dict(size="ti", width=128, depth=4, heads=2, image_size=32, patch=8, drop_path=0.0)
        keys |= dict(layer_scale=0.1)  # 1e-5 takes longer to leave than this run lasts
    return common.vit(**keys | changes)


def pool(size: str) -> dict:
    """The pool's keys."""
    return dict(name="attention_pool", width=128, heads=2) if size == "tiny" else dict(POOL)


def stage1(c: ConfigDict, size: str) -> ConfigDict:
    """Distillation from frozen teachers."""
    c.objective = ConfigDict(common.distill(pool=pool(size)))
    heads = {}
    if size == "tiny":
        student, c.objective.every = encoder(size, 8), 2
        mae = common.vit(width=128, depth=4, heads=2, image_size=32, patch=8, positions="sincos3d")
        c.teachers.mae = ConfigDict(common.teacher(encoder=mae))
        c.objective.mask = ConfigDict(dict(name="random", ratio=0.8))
        heads["mae"] = common.layer_head("mae", 2, predictor=dict(head="mlp"), norm="last")
    elif size in LARGE:
        student, c.objective.every = encoder(size, 8), 2
        c.data.frames, c.data.stride = 16, 2
        clip = encoder("6b", 1, layer_scale=0.1, drop_path=0.0)
        mae = common.vit(size="g", patch=14)
        c.teachers.clip = ConfigDict(common.teacher(encoder=clip, pool=pool(size), per_frame=True, every=2))
        c.teachers.mae = ConfigDict(common.teacher(encoder=mae))
        heads["middle"] = common.layer_head("clip", 6, norm="none", cls=True)
        heads["final"] = common.pooled_head("clip")
        heads["mae"] = common.layer_head("mae", 4, predictor=dict(head="mlp"), norm="last")
        c.batch_size = {"1b": 4096, "6b": 2048}[size]
        c.total_epochs, c.optim.warmup = 301.0, "40 epochs"
        c.optim.lr, c.optim.min_lr = 1.5e-4, 1e-5
    else:
        student = encoder(size, 8)
        c.data.frames, c.data.stride = 8, 4
        clip = encoder("1b", 8, drop_path=0.0)
        c.teachers.clip = ConfigDict(common.teacher(encoder=clip, pool=pool(size)))
        c.objective.mask.per = "clip"
        heads["middle"] = common.layer_head("clip", 6, norm="none", cls=True)
        heads["middle"]["target"]["interval"] = 3.34  # six of the teacher's last 18 layers
        heads["final"] = common.pooled_head("clip")
        c.batch_size = 2048 if size == "l" else 4096
        c.total_epochs, c.optim.warmup = 101.0, "20 epochs"
        c.optim.lr, c.optim.min_lr, c.optim.clip = 1e-3, 1e-5, 5.0
    c.model.encoder = ConfigDict(student)
    c.objective.heads = ConfigDict(heads)
    return c


def stage2(c: ConfigDict, size: str) -> ConfigDict:
    """Contrast with text, video-text matching and masked words; encoder and pool come from stage 1."""
    c.model.encoder = ConfigDict(encoder(size, 8 if size == "tiny" else 4, image_positions="own"))
    c.init.allow = (r"encoder/image_pos",)
    c.objective = ConfigDict(
        common.contrast(losses=dict(vtc=1.0, vtm=1.0, mlm=1.0, uta=0.0), pool=pool(size))
    )
    c.objective.temperature = ConfigDict(
        dict(kind="temperature", init=0.07, low=0.001, high=0.5, learned=True)
    )
    c.objective.projection_bias = True
    c.objective.mask = ConfigDict(dict(name="random", ratio=0.8))
    c.objective.image_mask = ConfigDict(dict(name="random", ratio=0.5))
    if size == "tiny":
        c.data.frames, c.data.stride = 8, 2
        c.data.text.tokenizer = "data/digits/captions.model"
        c.objective.dim, c.total_steps = 128, 1000
        c.model.text = ConfigDict(
            dict(name="bert", width=128, depth=3, heads=2, mlp_dim=512, length=32, fusion_layer=2)
        )
        return c
    c.data.frames, c.data.sampling = 4, "sparse"
    c.model.text = ConfigDict(dict(name="bert", size="l", vocab_size=30522, fusion_layer=19, dropout=0.1))
    # The contrast is over the whole batch: its towers see it in parts.
    c.objective.chunks, c.accumulate = c.accumulate, 1
    c.batch_size, c.total_epochs, c.optim.warmup = 4096, 10.0, "1 epochs"
    c.optim.lr, c.optim.lr_scaling, c.optim.min_lr = 5e-5, False, 5e-7
    return c


def align(c: ConfigDict, size: str) -> ConfigDict:
    """The second stage with its visible tokens aligned with a teacher's, which also says which ones are visible."""
    per_frame = size in LARGE
    if per_frame:
        clip = encoder("6b", 1, layer_scale=0.1, drop_path=0.0)
    else:
        clip = encoder("tiny" if size == "tiny" else "1b", 8, drop_path=0.0)
    c.teachers.clip = ConfigDict(common.teacher(encoder=clip, pool=pool(size), per_frame=per_frame))
    head = common.layer_head("clip", 2 if size == "tiny" else 6, norm="none", cls=True)
    if size not in (*LARGE, "tiny"):
        head["target"]["interval"] = 3.34
    c.objective.losses.uta, c.objective.heads = 1.0, ConfigDict(dict(middle=head))
    for name in ("mask", "image_mask"):
        c.objective[name] = ConfigDict(
            dict(
                name="teacher_attention",
                teacher="clip",
                ratio=c.objective[name].ratio,
                per="frame" if per_frame else "clip",
            )
        )
    return c


def stage3(c: ConfigDict, size: str) -> ConfigDict:
    """Instruction tuning as VideoChat2's: encoder, Q-Former and a language model with adapters."""
    c.model.encoder = ConfigDict(encoder(size, 8))
    # Adapters are new where the language model is taken from a run; scripts/convert.py makes one of LLaMA.
    c.init.allow = (r"encoder/image_pos", r"lm/.*/lora_[ab]")
    c.objective = ConfigDict(common.next_token())
    c.optim.lr_rules = common.language_model_rates("lora")
    if size == "tiny":
        c.data.stride, c.data.frames, c.total_steps = 2, 8, 1000
        c.data.text.tokenizer = "data/digits/captions.model"
        c.model.lm = ConfigDict(common.lm(width=128, depth=2, heads=2, kv_heads=1, mlp_dim=384))
        c.model.connector = ConfigDict(common.connector(pool=(1, 2, 2)))
        c.optim.lr_rules = common.language_model_rates("full", encoder=0.5)
        return c
    c.data.frames, c.data.sampling, c.data.text.length = 8, "sparse", 512
    c.model.lm = ConfigDict(common.lm(size="llama2_7b", vocab_size=32_000, lora_rank=16, lora_alpha=32.0))
    c.model.connector = ConfigDict(common.connector(name="qformer", queries=32, extra_queries=64))
    c.objective.chunk = 64
    c.batch_size, c.total_epochs, c.optim.warmup = 128, 3.0, "0.6 epochs"
    c.optim.lr, c.optim.lr_scaling, c.optim.min_lr = 2e-5, False, 5e-6
    if size in LARGE:  # a batch of 128 is one clip for each of 128 devices
        c.accumulate, c.mesh = 1, ConfigDict(dict(MESHES[size], data=128 // MESHES[size]["fsdp"]))
    return c

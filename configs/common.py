"""Every configuration key, its default and one line of meaning.

The keys of networks and objectives are in parts.py and objectives.py, and reachable from here.
An experiment is a file beside this one whose `get_config(arg)` takes these defaults and changes some.
Keys are locked: a key that is not here is an error that names the nearest one.

A *duration* is a string with a unit: "500 steps", "40 epochs", "1e6 examples" or "5%" (of the run).
A *rule list* is `((regex, value), ...)` on parameter paths such as "encoder/blocks/attn/qkv/kernel":
the first match wins, every parameter must match, a rule that matches nothing is an error.
A *part* is a dict with a `name` (an attribute of the part's home module, or "vfm.package.module:attribute")
and the keyword arguments that it takes.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from configs.objectives import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    any_type,
    contrast,
    distill,
    language_model_rates,
    layer_head,
    next_token,
    pooled_head,
    teacher,
)
from configs.parts import bert, connector, lm, mamba, text, vit

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "PARTS", "augment", "bert", "connector", "contrast", "digits",
    "distill", "get_config", "language_model_rates", "layer_head", "lm", "mamba", "next_token", "pooled_head",
    "teacher", "text", "vit",
]  # fmt: skip

# Top-level parts of the parameters of all objectives, each of which can be taken over from another run.
PARTS = (
    "encoder", "predictor", "pool", "heads", "video_proj", "text", "text_proj", "scale", "fusion", "vtm_head",
    "connector", "lm", "decoder",
)  # fmt: skip


def digits(c: ConfigDict) -> None:
    """Data, length and optimiser of small experiments on the embedded data set, as the quickstart has them."""
    c.total_steps, c.batch_size = 2000, 128
    c.precision, c.unroll = "bfloat16_dots", 0
    c.data.train = "data/digits/train.csv"
    c.data.frames, c.data.stride, c.data.size = 16, 1, 32
    c.data.crop, c.data.cache, c.data.cache_size = "center", True, 32
    c.optim.lr, c.optim.lr_scaling, c.optim.min_lr, c.optim.warmup = 1e-3, False, 1e-5, "100 steps"
    c.optim.clip = 1.0
    c.log_every = "20 steps"


def augment(**changes) -> dict:
    """The keys of random changes of training clips, alike for all frames of a clip; all off by default."""
    return (
        dict(
            # RandAugment as timm writes it: "rand-m7-n4-mstd0.5-inc1" = magnitude 7 of 10, 4 operations of which each
            # is applied with probability .5 (p0.5), deviation .5 of the magnitude, all growing with it; "" = off
            randaug="",
            jitter=0.0,  # probability of colour jitter; the next four: how far its factors go from 1
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            hue=0.1,  # turn, as a share of the circle
            grey=0.0,  # probability of greyscale
            blur=0.0,  # probability of Gaussian blur
            blur_sigma=(0.1, 2.0),  # its deviation in pixels, smallest and largest
            erase=0.0,  # probability of erasing boxes, through all frames
            erase_mode="pixel",  # noise in each pixel | color: one random colour | const: the mean, data.mean
            erase_area=(0.02, 0.3333333),  # of the frame, all boxes together: smallest and largest
            erase_boxes=1,
        )
        | changes
    )


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.seed = 0  # of initialisation, data order, augmentation and masks

    # How long: exactly one of the three.
    c.total_steps = placeholder(int)
    c.total_epochs = placeholder(float)
    c.total_examples = placeholder(int)
    c.batch_size = 256  # global: over all devices, hosts and accumulated micro-batches
    c.accumulate = 1  # micro-batches of one optimiser step

    # Precision of matrix products and activations; parameters, losses and the optimiser are float32.
    # auto: bfloat16 on GPU and TPU, float32 on CPU | float32 | bfloat16 |
    # bfloat16_dots: operands of matrix products only, forward and backward (fast on CPUs with bfloat16)
    c.precision = "auto"
    c.remat = (
        "none"  # what a layer recomputes in the backward pass: none | dots (keep matrix products) | full
    )
    c.unroll = 1  # layers unrolled in one turn of the scan over layers (0 = all); same parameters and results

    c.data = d = ConfigDict()
    # A SPEC: a list file, a folder or one video; a Python file (FILE.py or FILE.py:arg) or a mapping that says more:
    # dict(path=, format=, root=, template=, split=, labels=, column=, skip=), see input_pipeline/spec.py
    # Or a mixture: dict(sources={NAME: dict(path=, weight=, ...)}, temperature=, unit=, change=), see
    # input_pipeline/mixture.py
    d.train = placeholder(object)  # must be set
    d.root = ""  # what relative paths in a list are relative to; "" = the list's own folder
    d.skip = ""  # a CSV path,reason of samples to leave out, such as scripts.validate_data writes
    d.frames = 16
    # dense: `frames` at `stride` | sparse: one from each of `frames` equal segments | segments: the same with whole
    # bounds | uniform: evenly, the last frame included | uniform_exclusive: without it | fps: at `fps`, of those
    # `frames` evenly; formulas: input_pipeline/sampling.py
    d.sampling = "dense"
    d.stride = 4  # in source frames, for dense
    d.fps = 0.0  # frames a second, by their times, that sampling and stride are of; 0 = as stored
    d.size = 224  # height and width after cropping
    d.crop = "multiscale"  # multiscale (VideoMAE) | random_resized | center | resize (whole frame)
    d.crop_scales = (1.0, 0.875, 0.75, 0.66)  # of the short side, for multiscale
    d.crop_area = (0.5, 1.0)  # of the frame's area, for random_resized
    d.crop_aspect = (0.75, 1.3333333)  # width over height, for random_resized
    # decoder (bilinear with antialias, by far the fastest) | bilinear | bicubic | bilinear_antialias |
    # bicubic_antialias: the last four are torch's, bit for bit, of whole decoded frames
    d.resize = "decoder"
    d.short_side = (
        0  # that frames are resized to before central and evaluation crops: 256 for 224, ...; 0 = size
    )
    d.flip = False  # horizontal, with probability .5; not where left and right matter (Something-Something)
    d.augment = ConfigDict(augment())
    d.clips_per_video = 1  # repeated augmentation: clips drawn from one decoded video
    # Of pixels in [0, 1], applied on the device: three numbers, or the name of a family of models, such as "clip":
    # imagenet | clip (openai) | siglip (half, inception) | kinetics | none, see input_pipeline/normalise.py
    d.mean, d.std = any_type(IMAGENET_MEAN), any_type(IMAGENET_STD)
    d.decoder = "pyav"  # of videos that are files: pyav | torchcodec | nvdec (the others need their library)
    d.cache = False  # keep decoded videos in memory (uint8, at `cache_size`); for sets that fit
    d.cache_size = 0  # short side of cached frames; 0 = as stored
    d.max_bad_fraction = 0.01  # stop when more of the distinct files than this cannot be decoded
    d.check = True  # before training, open every local file and leave the bad ones out of the plan
    d.stall_seconds = 120.0  # name the files being read when no clip has come for so long; 0 = never
    d.workers = 0  # decoding processes; 0 = threads of this process
    d.threads = 2  # decoding threads, where there are no processes for it
    d.prefetch = 2  # batches ready on the device
    d.text = t = ConfigDict()
    t.tokenizer = (
        ""  # "" = no text | bytes (needs no file) | FILE | KIND:FILE, see input_pipeline/tokenizers.py
    )
    t.sha256 = ""  # of the tokenizer; the run writes it, a resume compares it
    t.length = 32  # tokens of a row, with begin, prompt and end
    t.column = "caption"  # a cell may hold several captions, as a JSON list of strings
    t.prompt = ""  # words before every caption (next-token prediction)
    t.turn = "USER: {} ASSISTANT:"  # how the questions of conversations are put
    t.answer_only = True  # text_loss leaves out prompts and questions
    t.bos = placeholder(
        bool
    )  # begin token in every row; this and the next four: None = as the tokenizer's kind
    t.eos = placeholder(bool)  # end token in every row, kept where a row is cut
    t.pad = placeholder(int)  # id of padding
    t.sticky = placeholder(bool)  # padding counts as text: text_mask is True everywhere (SigLIP)
    t.clean = placeholder(str)  # none | lower | canonicalize (SigLIP) | clip
    # A second SPEC: of images with captions, as videos of one frame; "" = none
    d.images = FieldReference("", field_type=object)
    d.image_batch = 0  # images beside every global batch of videos

    c.model = m = ConfigDict()
    m.encoder = ConfigDict(vit())
    m.text = ConfigDict()  # text encoder of contrast; home `vfm.models`: text, bert
    m.fusion = ConfigDict()  # bert of vtm and mlm; empty = the fusion layers of model.text
    m.lm = ConfigDict()  # language model and connector of next-token prediction: lm(), connector()
    m.connector = ConfigDict()

    c.teachers = ConfigDict()  # frozen teachers, by name: teacher()

    c.objective = o = ConfigDict()
    o.name = "masked"  # part; home `vfm.objectives`
    o.mask = ConfigDict(dict(name="tube", ratio=0.9))  # part; home `vfm.masking`
    o.predictor = ConfigDict(
        dict(name="decoder", width=192, depth=4, heads=3, mlp_ratio=4.0)  # part; home `vfm.models`
    )
    o.target = ConfigDict(dict(name="pixels", norm="channel", eps=1e-6))  # part; home `vfm.targets`
    o.loss = ConfigDict(dict(name="mse"))  # part; home `vfm.losses`

    c.optim = o = ConfigDict()
    o.lr = 1.5e-4  # peak; multiplied by batch_size / 256 where lr_scaling
    o.lr_scaling = True
    o.min_lr = 1e-5  # end of the cosine; scaled like lr
    o.schedule = "cosine"  # cosine | constant | linear_cooldown (constant, then linear to min_lr)
    o.warmup = "40 epochs"  # duration, linear from 0
    o.cooldown = "20%"  # duration, for linear_cooldown
    o.b1, o.b2, o.eps = 0.9, 0.95, 1e-8  # AdamW
    o.weight_decay = 0.05
    o.decay_rules = (  # multiplies weight_decay
        (r".*(bias|scale|temperature|pos|token|registers|gamma|/D|/D_b)$", 0.0),
        (r".*", 1.0),
    )
    o.lr_rules = ((r".*", 1.0),)  # multiplies the learning rate; 0 = frozen
    o.layer_decay = 1.0  # rate of layer i is multiplied by layer_decay ** (layers + 1 - i); 1 = off
    o.clip = 0.0  # global norm of the gradient; 0 = off
    c.ema = 0.0  # decay of the moving average of parameters; 0 = none kept

    c.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))  # devices on each axis; one may be -1 = the rest
    c.sharding_rules = (  # axes of each parameter's dimensions, from the last one; "" = not split
        (r".*/(qkv|q|k|v|kv|fc1|gate|in_proj)/kernel$", ("fsdp", "tensor")),
        (r".*/(proj|fc2|out_proj)/kernel$", ("tensor", "fsdp")),
        (r".*/(kernel|embedding)$", ("fsdp", "")),
        (r".*", ()),
    )

    c.checkpoint = k = ConfigDict()
    k.every = "10%"  # duration; the last step is always saved
    k.keep = 2  # newest checkpoints that stay
    k.keep_every = ""  # duration; checkpoints at its multiples stay for ever; "" = none
    c.init = i = ConfigDict()  # where parameters start from, when there is nothing to resume
    i.run = ""  # continue from another run's checkpoint: all parameters and the optimiser; steps count from 0
    for (
        part
    ) in PARTS:  # or take single parts of the parameters, each from a run's folder; "" = new, from the seed
        i[part] = placeholder(str)
    i.allow = ()  # regexes of parameters that may be missing or unused when parts are taken

    c.max_bad_steps = 10  # consecutive updates that may be skipped as not finite before the run stops
    c.log_every = "50 steps"  # duration
    c.wandb = False  # also log to Weights & Biases, if installed

    c.eval = e = ConfigDict()
    e.every = ""  # duration between frozen probes inside training; "" = never
    e.config = ""  # configs/eval/NAME.py that describes them
    return c

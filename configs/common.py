"""Every configuration key, its default and one line of meaning.

An experiment is a file beside this one whose `get_config(arg)` takes these defaults and changes some.
Keys are locked: a key that is not here is an error that names the nearest one.

A *duration* is a string with a unit: "500 steps", "40 epochs", "1e6 examples" or "5%" (of the run).
A *rule list* is `((regex, value), ...)` on parameter paths such as "encoder/blocks/attn/qkv/kernel":
the first match wins, every parameter must match, a rule that matches nothing is an error.
A *part* is a dict with a `name` (an attribute of the part's home module, or "vfm.package.module:attribute")
and the keyword arguments that it takes.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Top-level parts of the parameters of all objectives, each of which can be taken over from another run.
PARTS = (
    "encoder", "predictor", "pool", "heads", "video_proj", "text", "text_proj", "scale", "fusion", "vtm_head",
    "connector", "lm", "decoder",
)  # fmt: skip
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def vit(**changes) -> dict:
    """The ViT encoder's keys (part; home `vfm.models`)."""
    return (
        dict(
            name="vit",
            size="s",  # ti s b l h g 1b 6b: width, depth, heads, mlp_dim; any of the four below overrides it
            width=0,
            depth=0,
            heads=0,
            mlp_dim=0,
            frames=16,  # native clip that position tables are made for; other clips interpolate them
            image_size=224,  # native height and width in pixels
            tubelet=2,  # frames of one token
            patch=16,  # pixels of one token's side
            positions="sincos1d",  # sincos1d (VideoMAE) sincos3d learned learned_from_sincos learned_separable
            cls_token=False,
            registers=0,  # extra learned tokens, dropped at the output
            norm="layernorm",  # layernorm | rmsnorm
            norm_eps=1e-6,
            qkv_bias="qv",  # qv (VideoMAE: keys have none) | qkv | none
            qk_norm=False,
            layer_scale=0.0,  # initial value; 0 = no LayerScale
            drop_path=0.0,  # rate of the last layer, rising linearly from 0
            final_norm=True,
            attends="all",  # what a token sees: all | causal (those before it) | prefix (AIM; all outside training)
            block_bias=True,  # biases of output projections and MLPs
            embed_norm=False,  # a norm between patch embedding and positions
            pre_norm=False,  # a norm of all tokens in front of the first layer (CLIP)
            patch_bias=True,
            cls_position=False,  # the class token has a position code, the first row of a learned table
            image_positions="interpolate",  # of one-frame clips under learned positions: interpolate | mean | own
            qk_norm_over="head",  # head: each apart | all: heads together (InternVideo2)
            activation="gelu",  # gelu | gelu_tanh | quick_gelu | silu | relu
        )
        | changes
    )


def mamba(**changes) -> dict:
    """The VideoMamba encoder's keys (part; home `vfm.models`)."""
    return (
        dict(
            name="mamba",
            size="s",  # ti s m: width, depth; either of the two below overrides it
            width=0,
            depth=0,
            frames=8,
            image_size=224,
            tubelet=1,
            patch=16,
            positions="learned_separable",  # as VideoMamba: space (with a place for cls) + time
            cls_token=True,
            norm="rmsnorm",  # rmsnorm | layernorm
            norm_eps=1e-5,
            d_state=16,
            d_conv=4,
            expand=2,
            bidirectional=True,
            divide_out=False,  # halve the sum of the two directions (Vim); VideoMamba does not
            drop_path=0.0,
            final_norm=True,
            init="videomamba",  # videomamba (as its code executes) | mamba (dt initialised as Mamba's paper)
        )
        | changes
    )


def lm(**changes) -> dict:
    """The language model's keys (part; home `vfm.models`)."""
    return (
        dict(
            name="lm",
            # width, depth, heads, kv_heads, mlp_dim; any of the six below overrides it:
            size="ti",  # ti s b qwen2_0.5b tinyllama_1.1b qwen2_1.5b llama2_7b qwen2_7b llama3_8b
            width=0,
            depth=0,
            heads=0,
            kv_heads=0,  # heads of keys and values, fewer than of queries
            head_dim=0,
            mlp_dim=0,
            vocab_size=0,  # 0 = the tokenizer's
            rope_theta=10_000.0,
            norm_eps=1e-6,
            qkv_bias=False,  # Qwen2 has them
            tied=True,  # the output layer is the table of word vectors
            activation="silu",
            lora_rank=0,  # of adapters in every dense layer; 0 = none
            lora_alpha=32.0,  # adapters are multiplied by lora_alpha / lora_rank
        )
        | changes
    )


def connector(**changes) -> dict:
    """The keys of the connector from encoder to language model (part; home `vfm.models`).

    linear_connector, qformer, resampler and mamba_compressor take others, which vfm/models/connectors.py explains.
    """
    if changes.get("name", "mlp_connector") != "mlp_connector":
        return changes
    return (
        dict(
            name="mlp_connector",
            layers=2,
            pool=(1, 2, 2),  # by how much time, height and width shrink, after the MLP
            pooling="mean",  # mean | bilinear
            newline="none",  # none | row | frame: a learned token at the end of each
        )
        | changes
    )


def next_token(**changes) -> dict:
    """The keys of next-token prediction (objective); it needs `model.lm` and `model.connector`."""
    return (
        dict(
            name="next_token",
            attend="prefix",  # prefix: video and prompt in both directions | causal
            chunk=0,  # text positions whose logits exist at a time; 0 = all
            smoothing=0.0,  # of the labels
        )
        | changes
    )


def text(**changes) -> dict:
    """The keys of a two-tower model's text encoder (part; home `vfm.models`). As published:

    CLIP: `text(size="clip_b", activation="quick_gelu")`; SigLIP: `text(size="b", length=64, causal=False,
    sees_padding=True, pooling="last", activation="gelu_tanh", norm_eps=1e-6)`.
    """
    return (
        dict(
            name="text",
            size="b",  # ti s clip_b b l so400m: width, depth, heads, mlp_dim; any of the four below overrides it
            vocab_size=0,  # 0 = the tokenizer's
            length=77,  # the most tokens of a text
            width=0,
            depth=0,
            heads=0,
            mlp_dim=0,
            causal=True,  # a token sees itself and those before it
            sees_padding=False,  # padding is attended to and pooled like any token (SigLIP, with data.text.sticky)
            pooling="eot",  # eot (last token of the text: CLIP) | last (position: SigLIP) | cls | mean | map
            positions="learned",  # learned | sincos1d | none
            embed_scale=1.0,  # of word vectors, in front of positions
            activation="gelu",  # gelu | gelu_tanh (SigLIP) | quick_gelu (OpenAI's CLIP) | silu | relu
            norm_eps=1e-5,
            drop_path=0.0,  # rate of the last layer, rising linearly from 0
        )
        | changes
    )


def bert(**changes) -> dict:
    """The keys of a BERT, which fuses texts with videos from `fusion_layer` on (part; home `vfm.models`)."""
    return (
        dict(
            name="bert",
            size="b",  # ti mini s b l: width, depth, heads, mlp_dim; any of the four below overrides it
            vocab_size=0,  # 0 = the tokenizer's
            length=512,  # the most tokens of a text
            width=0,
            depth=0,
            heads=0,
            mlp_dim=0,
            fusion_layer=-1,  # first layer with cross-attention (UMT: 9 of b, 19 of l); -1 = none, 0 = all
            token_types=2,  # segments that tokens may belong to; 0 = none
            pooler=False,  # a dense layer and tanh behind the first token, where texts are pooled
            activation="gelu",
            norm_eps=1e-12,
            dropout=0.0,  # of embeddings and of what each layer adds (published: 0.1)
        )
        | changes
    )


def contrast(**changes) -> dict:
    """The keys of video-text contrast (objective); it needs `model.text` and `data.text.tokenizer`.

    VTM and MLM need a `bert` with a fusion_layer as `model.text`, or one of their own as `model.fusion`.
    """
    return (
        dict(
            name="contrast",
            # Weights of contrast, video-text matching and masked language modelling.
            losses=dict(vtc=1.0, vtm=0.0, mlm=0.0),
            kind="infonce",  # of contrast: infonce | sigmoid (SigLIP)
            directions="mean",  # of infonce's two: mean (CLIP) | sum (Frozen in Time, EgoVLP)
            positives="text_id",  # batch key whose equal values make pairs positives of each other; "" = none
            loss_chunk=0,  # columns of the similarity matrix that are in memory at a time; 0 = all
            chunks=1,  # parts of the batch that the towers see one by one, each computed twice (GradCache)
            # Temperatures, whatever is learned: "log_scale", its inverse's log, or the "temperature" itself.
            # CLIP: log_scale .07 in [.01, 1]; UMT, InternVideo2: temperature .07 in [.001, .5]; ViCLIP: temperature .01
            # from .01 up; Frozen in Time: fixed .05; SigLIP: log_scale .1 without bounds. high=0: no upper bound.
            temperature=dict(kind="log_scale", init=0.07, low=0.01, high=1.0, learned=True),
            bias=-10.0,  # initial, of the sigmoid loss only
            pool=dict(name="mean_pool"),  # part; home `vfm.models`: mean_ cls_ attention_ or map_pool
            dim=512,  # of the shared embedding; 0 = no projections
            projection_bias=False,
            mask={},  # part; home `vfm.masking`: tokens that are dropped in training (FLIP); {} = none
            image_mask={},  # of images; {} = the same
            mlm_rate=0.5,  # of words that are hidden: InternVideo2 0.5, EgoVLPv2 0.15
            mask_id=-1,  # that stands for a hidden word; -1 = the tokenizer's
            special_ids=(),  # never hidden; () = the tokenizer's
        )
        | changes
    )


def teacher(**changes) -> dict:
    """The keys of one frozen teacher in `teachers` (vfm/objectives/teachers.py)."""
    return (
        dict(
            run=placeholder(str),  # folder of the run that it was trained in; "" = untrained
            encoder=vit(),  # part; home `vfm.models`
            pool={},  # part: where targets or masks ask for its pooled vector or what that attends to; {} = none
            proj=0,  # width of its projection `video_proj` (CLIP's shared space); 0 = none
            proj_bias=False,
            per_frame=False,  # an image model: sees each frame by itself
            every=1,  # sees every so many-th frame of the batch's clips
            size=0,  # height and width that it sees, resized; 0 = as they are
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
        | changes
    )


def distill(**changes) -> dict:
    """The keys of distillation from `teachers` (objective)."""
    return (
        dict(
            name="distill",
            mask=dict(
                name="teacher_attention", teacher="clip", ratio=0.8, per="frame"
            ),  # part; home vfm.masking
            every=1,  # the student sees every so many-th frame of the batch's clips
            pool={},  # part; home `vfm.models`: where pooled vectors are aligned
            heads={},  # what is aligned, by name: layer_head(), pooled_head()
        )
        | changes
    )


def layer_head(
    teacher: str, layers: int, *, predictor=(), interval: float = 1.0, weight: float = 1.0, **target
) -> dict:
    """A head of distillation that aligns the last `layers` of student and teacher, token by token."""
    return dict(
        weight=weight,
        interval=interval,  # of the student's layers; the teacher's is the target's
        predictor=dict(name="align", positions="learned_from_sincos", head="linear") | dict(predictor),
        target=dict(
            name="teacher_features", teacher=teacher, layers=layers, interval=1.0, norm="all", project=False
        )
        | dict(unit=True, cls=False)
        | target,
        loss=dict(name="cosine"),
    )


def pooled_head(teacher: str, weight: float = 1.0) -> dict:
    """A head of distillation that aligns the pooled vectors."""
    return dict(weight=weight, target=dict(name="teacher_pooled", teacher=teacher), loss=dict(name="cosine"))


def language_model_rates(mode: str, encoder: float = 1.0) -> tuple:
    """`optim.lr_rules` of next-token prediction: the language model is "frozen", "full" or "lora"."""
    rules = {
        "frozen": ((r"lm/.*", 0.0),),
        "full": (),
        "lora": ((r"lm/.*/lora_[ab]", 1.0), (r"lm/.*", 0.0)),
    }[mode]
    return (*rules, (r"encoder/.*", encoder), (r".*", 1.0))


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
    d.train = placeholder(str)  # must be set: a CSV file or a folder of videos
    d.root = ""  # what relative paths in a CSV are relative to; "" = the CSV's own folder
    d.frames = 16
    d.sampling = "dense"  # dense: `frames` at `stride` | sparse: one from each of `frames` equal segments
    d.stride = 4  # in source frames
    d.size = 224  # height and width after cropping
    d.crop = "multiscale"  # multiscale (VideoMAE) | random_resized | center | resize (whole frame)
    d.crop_scales = (1.0, 0.875, 0.75, 0.66)  # of the short side, for multiscale
    d.crop_area = (0.5, 1.0)  # of the frame's area, for random_resized
    d.crop_aspect = (0.75, 1.3333333)  # width over height, for random_resized
    d.flip = False  # horizontal, with probability .5
    d.clips_per_video = 1  # repeated augmentation: clips drawn from one decoded video
    d.mean, d.std = IMAGENET_MEAN, IMAGENET_STD  # of pixels in [0, 1]; applied on the device
    d.cache = False  # keep decoded videos in memory (uint8, at `cache_size`); for sets that fit
    d.cache_size = 0  # short side of cached frames; 0 = as stored
    d.max_bad_fraction = 0.01  # stop when more of the distinct files than this cannot be decoded
    d.workers = 0  # decoding processes; 0 = threads of this process
    d.threads = 2  # decoding threads of each process
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
    d.images = ""  # a second source: of images with captions, as videos of one frame; "" = none
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
    for part in PARTS:  # or take single parts of the parameters, each from a run's folder
        i[part] = ""
    i.allow = ()  # regexes of parameters that may be missing or unused when parts are taken

    c.max_bad_steps = 10  # consecutive updates that may be skipped as not finite before the run stops
    c.log_every = "50 steps"  # duration
    c.wandb = False  # also log to Weights & Biases, if installed

    c.eval = e = ConfigDict()
    e.every = ""  # duration between frozen probes inside training; "" = never
    e.config = ""  # configs/eval/NAME.py that describes them
    return c

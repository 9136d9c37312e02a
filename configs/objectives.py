"""The keys of objectives that need more than a mask and a target; each with its default and its meaning."""

from typing import Any

from ml_collections.config_dict import FieldReference, placeholder

from configs.parts import vit

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def any_type(default: Any) -> FieldReference:
    """A key whose values need not have the type of its default."""
    return FieldReference(default, field_type=object)


def contrast(**changes) -> dict:
    """The keys of video-text contrast (objective); it needs `model.text` and `data.text.tokenizer`.

    VTM and MLM need a `bert` with a fusion_layer as `model.text`, or one of their own as `model.fusion`.
    """
    return (
        dict(
            name="contrast",
            # Weights of contrast, video-text matching, masked language modelling and alignment with `teachers`.
            losses=dict(vtc=1.0, vtm=0.0, mlm=0.0, uta=0.0),
            heads={},  # of uta: what is aligned, by name: layer_head(), pooled_head()
            kind="infonce",  # of contrast: infonce | sigmoid (SigLIP)
            directions="mean",  # of infonce's two: mean (CLIP) | sum (Frozen in Time, EgoVLP)
            positives="text_id",  # batch key whose equal values make pairs positives of each other; "" = none
            loss_chunk=0,  # columns of the similarity matrix that are in memory at a time; 0 = all
            # Parts of the batch that the towers see one by one, each computed twice (GradCache). It saves memory as
            # `accumulate` does elsewhere, which here would leave each pair only its micro-batch's negatives: an error.
            chunks=1,
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


def language_model_rates(mode: str, encoder: float = 1.0) -> tuple:
    """`optim.lr_rules` of next-token prediction: the language model is "frozen", "full" or "lora"."""
    rules = {
        "frozen": ((r"lm/.*", 0.0),),
        "full": (),
        "lora": ((r"lm/.*/lora_[ab]", 1.0), (r"lm/.*", 0.0)),
    }[mode]
    return (*rules, (r"encoder/.*", encoder), (r".*", 1.0))


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
            mean=any_type(IMAGENET_MEAN),  # as data.mean and data.std
            std=any_type(IMAGENET_STD),
        )
        | changes
    )

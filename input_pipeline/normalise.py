"""Mean and deviation of the pixels, in [0, 1], that published models expect: names for data.mean and data.std."""

from typing import Any

from vfm.errors import UserError

Three = tuple[float, float, float]

# name -> (mean, std)
NORMALISATIONS: dict[str, tuple[Three, Three]] = {
    # VideoMAE, V-JEPA, Unmasked Teacher, InternVideo2, VideoMamba, Frozen in Time
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # OpenAI's CLIP and what is made of it: open_clip, CLIP4Clip, LanguageBind
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    # SigLIP, Perception Encoder: [-1, 1]
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    # MAE-ST, HVM-1, TimeSformer
    "kinetics": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
    # VideoPrism: [0, 1] as it is
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
NORMALISATIONS |= {
    "openai": NORMALISATIONS["clip"],
    "half": NORMALISATIONS["siglip"],
    "inception": NORMALISATIONS["siglip"],
}


def values(given: Any, which: int, key: str) -> Three:
    """Three numbers from a name, or from the numbers themselves.

    Args:
      given: a name of NORMALISATIONS, or one number for each channel.
      which: 0 for the mean, 1 for the deviation.
      key: what errors call it.

    Raises:
      UserError: an unknown name, or not three numbers.
    """
    if isinstance(given, str):
        if given not in NORMALISATIONS:
            raise UserError(f"{key}='{given}': expected three numbers or one of {', '.join(NORMALISATIONS)}")
        return NORMALISATIONS[given][which]
    try:
        numbers = tuple(float(value) for value in given)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or (which == 1 and min(numbers) <= 0):
        above = " above 0" if which == 1 else ""
        raise UserError(
            f"{key}={given!r}: expected three numbers{above} or one of {', '.join(NORMALISATIONS)}"
        )
    return numbers


def statistics(keys: Any, name: str = "data") -> tuple[Three, Three]:
    """(mean, std) of a config that has both keys; `name` is what errors call it."""
    return values(keys.mean, 0, f"{name}.mean"), values(keys.std, 1, f"{name}.std")

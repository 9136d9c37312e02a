"""Counter-controls: what is left of a score when the clips lose their order, their motion, or themselves.

Axes: B clips, V views, T frames, H W pixels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from vfm.errors import UserError

CONTROLS = ("none", "shuffled", "reversed", "single_frame", "blind")


def check(names: Sequence[str]) -> None:
    """UserError for an unknown control, or none at all."""
    if not names:
        raise UserError(f"config.controls is empty; expected some of {', '.join(CONTROLS)}")
    for name in names:
        if name not in CONTROLS:
            raise UserError(f"config.controls: '{name}' is unknown; expected some of {', '.join(CONTROLS)}")


def shuffled_order(frames: int, seed: int, clip: int) -> Int[np.ndarray, " T"]:
    """A permutation of a clip's frames that depends on seed and clip alone and never leaves them all in place."""
    rng = np.random.default_rng((seed, clip))
    order = rng.permutation(frames)
    while frames > 1 and (order == np.arange(frames)).all():
        order = rng.permutation(frames)
    return order


def apply(
    name: str,
    video: UInt8[np.ndarray, "B V T H W 3"],
    ids: Int[np.ndarray, " B"],
    seed: int,
    mean: Sequence[float],
) -> UInt8[np.ndarray, "B V T H W 3"]:
    """The clips under a control; `mean`: the colour in 0..1 of a blind clip."""
    if name == "shuffled":
        frames = video.shape[2]
        return np.stack([v[:, shuffled_order(frames, seed, int(i))] for v, i in zip(video, ids, strict=True)])
    if name == "reversed":
        return video[:, :, ::-1]
    if name == "single_frame":
        middle = video.shape[2] // 2
        return np.broadcast_to(video[:, :, middle : middle + 1], video.shape)
    if name == "blind":
        colour = np.round(255 * np.asarray(mean, np.float64)).astype(np.uint8)
        return np.broadcast_to(colour, video.shape)
    return video

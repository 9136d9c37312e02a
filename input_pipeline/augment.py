"""Random changes of training clips, alike for all frames of a clip; every draw comes from the clip's own generator.

T frames, H height, W width, C = 3 channels.

The order is RandAugment, colour jitter, greyscale, blur, erasing. They see the clip as the model would: cropped,
resized and flipped. (VideoMAE's fine-tuning applies RandAugment to whole frames before the crop; on the crop it costs
a fraction, and the same share of the picture moves.)
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from input_pipeline import image_ops
from input_pipeline.normalise import statistics
from vfm.errors import UserError

Clip = UInt8[np.ndarray, "T H W 3"]

MOST = 10.0  # magnitude of RandAugment
ERASURES = ("pixel", "color", "const")
_ERASE_ASPECT = 0.3  # narrowest box, height over width; the widest is its inverse
_TRIES = 100  # to fit a box


class _Level(NamedTuple):
    """What a magnitude means: `share` of the largest one, and a sign that is drawn."""

    share: float
    sign: float
    increasing: bool
    height: int
    width: int

    def signed(self, most: float) -> float:
        return self.sign * self.share * most

    def enhance(self) -> float:
        """Factor of a blend: away from 1 in either direction, or from 0.1 (dull) to 1.9."""
        return 1 + self.signed(0.9) if self.increasing else 0.1 + self.share * 1.8

    def posterize(self, clip: Clip) -> Clip:
        bits = int(self.share * 4)
        return image_ops.posterize(clip, 4 - bits if self.increasing else bits)

    def solarize(self, clip: Clip) -> Clip:
        threshold = int(self.share * 256)
        return image_ops.solarize(clip, 256 - threshold if self.increasing else threshold)

    def rotate(self, clip: Clip) -> Clip:
        return image_ops.affine(clip, image_ops.rotate(self.signed(30), self.height, self.width))


# The 15 operations of timm's RandAugment, with its ranges.
OPERATIONS: dict[str, Callable[[Clip, _Level], Clip]] = {
    "autocontrast": lambda clip, _: image_ops.autocontrast(clip),
    "equalize": lambda clip, _: image_ops.equalize(clip),
    "invert": lambda clip, _: image_ops.invert(clip),
    "rotate": lambda clip, level: level.rotate(clip),
    "posterize": lambda clip, level: level.posterize(clip),
    "solarize": lambda clip, level: level.solarize(clip),
    "solarize_add": lambda clip, level: image_ops.solarize_add(clip, int(level.share * 110)),
    "color": lambda clip, level: image_ops.saturation(clip, level.enhance()),
    "contrast": lambda clip, level: image_ops.contrast(clip, level.enhance()),
    "brightness": lambda clip, level: image_ops.brightness(clip, level.enhance()),
    "sharpness": lambda clip, level: image_ops.sharpness(clip, level.enhance()),
    "shear_x": lambda clip, level: image_ops.affine(clip, image_ops.shear_x(level.signed(0.3))),
    "shear_y": lambda clip, level: image_ops.affine(clip, image_ops.shear_y(level.signed(0.3))),
    "translate_x": lambda clip, level: image_ops.affine(
        clip, image_ops.translate(level.signed(0.45 * level.width), 0)
    ),
    "translate_y": lambda clip, level: image_ops.affine(
        clip, image_ops.translate(0, level.signed(0.45 * level.height))
    ),
}


@dataclass(frozen=True)
class RandAugment:
    """`layers` operations, each drawn from all (with replacement) and applied with `probability` (Cubuk et al. 2019).

    Attributes:
      magnitude: 0 ... 10.
      deviation: of the magnitude, which is drawn anew for each operation from a normal distribution and cut off.
      increasing: every operation grows with the magnitude (otherwise some shrink, as in the paper).
    """

    magnitude: float = MOST
    layers: int = 2
    deviation: float = 0.0
    increasing: bool = False
    probability: float = 0.5

    @classmethod
    def from_text(cls, text: str) -> "RandAugment":
        """Reads timm's notation: "rand-m7-n4-mstd0.5-inc1" (and p0.5, the probability).

        Raises:
          UserError: it is something else.
        """
        names = {
            "m": "magnitude",
            "n": "layers",
            "mstd": "deviation",
            "inc": "increasing",
            "p": "probability",
        }
        name, *sections = text.split("-")
        found = [re.fullmatch(r"(mstd|inc|m|n|p)(\d+(?:\.\d+)?)", section) for section in sections]
        values = {names[match[1]]: float(match[2]) for match in found if match}
        if name != "rand" or not all(found) or len(values) < len(sections):
            raise UserError(
                f"data.augment.randaug='{text}': expected sections m, n, mstd, inc and p with a number each, such as "
                f"'rand-m7-n4-mstd0.5-inc1'"
            )
        values |= {
            key: kind(values[key]) for key, kind in (("layers", int), ("increasing", bool)) if key in values
        }
        made = cls(**values)
        if made.magnitude > MOST or made.probability > 1 or made.layers < 1:
            raise UserError(
                f"data.augment.randaug='{text}': expected m from 0 to {MOST:g}, n from 1 on and p from 0 to 1"
            )
        return made

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        operations = list(OPERATIONS.values())
        _, height, width, _ = clip.shape
        for _ in range(self.layers):
            operation = operations[int(rng.integers(len(operations)))]
            used, sign = rng.random() < self.probability, rng.choice((-1.0, 1.0))
            magnitude = self.magnitude + self.deviation * rng.standard_normal()
            if used:
                share = min(max(magnitude, 0.0), MOST) / MOST
                clip = operation(clip, _Level(share, sign, self.increasing, height, width))
        return clip


@dataclass(frozen=True)
class Augment:
    """Which changes, how likely and how strong; `config.data.augment` says what each means."""

    randaug: RandAugment | None
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey: float
    blur: float
    blur_sigma: tuple[float, float]
    erase: float
    erase_mode: str
    erase_area: tuple[float, float]
    erase_boxes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_config(cls, data: Any) -> "Augment | None":
        """Takes the keys out of `config.data`; None where nothing is changed.

        Raises:
          UserError: a value is impossible; the message names the key.
        """
        keys = data.get("augment")  # runs from before there was such a key lack it
        if not keys:
            return None
        mean, std = statistics(data)
        made = cls(
            randaug=RandAugment.from_text(keys.randaug) if keys.randaug else None,
            blur_sigma=tuple(keys.blur_sigma),
            erase_mode=keys.erase_mode,
            erase_area=tuple(keys.erase_area),
            erase_boxes=int(keys.erase_boxes),
            mean=mean,
            std=std,
            **{key: float(keys[key]) for key in (*_PROBABILITIES, *_AMOUNTS)},
        )
        made._check()
        return made if made.randaug or any(getattr(made, key) for key in _PROBABILITIES) else None

    def _check(self) -> None:
        for key in _PROBABILITIES:
            if not 0 <= (value := getattr(self, key)) <= 1:
                raise UserError(f"data.augment.{key}={value}: expected a probability, 0 to 1")
        for key, most in _AMOUNTS.items():
            if not 0 <= (value := getattr(self, key)) <= most:
                raise UserError(f"data.augment.{key}={value}: expected an amount from 0 to {most:g}")
        if self.erase_mode not in ERASURES:
            raise UserError(
                f"data.augment.erase_mode={self.erase_mode!r}: expected one of {', '.join(ERASURES)}"
            )
        if self.erase_boxes < 1:
            raise UserError(f"data.augment.erase_boxes={self.erase_boxes}: expected at least 1")
        for key, most in (("erase_area", 1.0), ("blur_sigma", 50.0)):
            value = getattr(self, key)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
                raise UserError(
                    f"data.augment.{key}={value}: expected (smallest, largest), above 0 and at most {most:g}"
                )

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The changed clip; the one given stays as it is."""
        if self.randaug:
            clip = self.randaug(clip, rng)
        if self.jitter and rng.random() < self.jitter:
            clip = self._jittered(clip, rng)
        if self.grey and rng.random() < self.grey:
            clip = image_ops.greyscale(clip)
        if self.blur and rng.random() < self.blur:
            clip = image_ops.blur(clip, rng.uniform(*self.blur_sigma))
        if self.erase and rng.random() < self.erase:
            clip = self._erased(clip, rng)
        return clip

    def _jittered(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Brightness, contrast, saturation and hue, in an order that is drawn (torchvision's ColorJitter)."""
        for which in rng.permutation(4):
            key = ("brightness", "contrast", "saturation", "hue")[which]
            amount = getattr(self, key)
            if not amount:
                continue
            change = getattr(image_ops, key)
            low, high = (-amount, amount) if key == "hue" else (max(1 - amount, 0.0), 1 + amount)
            clip = change(clip, rng.uniform(low, high))
        return clip

    def _erased(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Boxes through all frames, filled with noise, one colour or the mean (Zhong et al. 2017, VideoMAE's "cube").

        Noise and colour are normal with the mean and deviation that the model's input is normalised by.
        """
        _, height, width, _ = clip.shape
        clip = clip.copy()
        for _ in range(self.erase_boxes):
            box = _box(height, width, self.erase_area, self.erase_boxes, rng)
            if box is None:
                continue
            part = clip[:, box[0], box[1]]
            shape = {"pixel": part.shape, "color": (3,), "const": None}[self.erase_mode]
            noise = 0.0 if shape is None else rng.standard_normal(shape, dtype=np.float32)
            values = 255 * (np.float32(self.mean) + noise * np.float32(self.std))
            part[...] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return clip


_PROBABILITIES = ("jitter", "grey", "blur", "erase")
_AMOUNTS = {"brightness": 10.0, "contrast": 10.0, "saturation": 10.0, "hue": 0.5}


def _box(
    height: int, width: int, area: tuple[float, float], boxes: int, rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Rows and columns of a box of random area, aspect and place; None where none fits."""
    widest = math.log(1 / _ERASE_ASPECT)
    for _ in range(_TRIES):
        target = rng.uniform(*area) * height * width / boxes
        aspect = math.exp(rng.uniform(-widest, widest))
        rows, columns = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if rows < height and columns < width:
            top = int(rng.integers(height - rows + 1))
            left = int(rng.integers(width - columns + 1))
            return slice(top, top + rows), slice(left, left + columns)
    return None

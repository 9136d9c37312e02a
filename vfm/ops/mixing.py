"""Mixup and CutMix: clips of a batch mixed with each other, and their labels alike.

B batch, T H W C frames, height, width and channels of a video, K classes.

Row i is mixed with row B - 1 - i, with a share that is drawn (Zhang et al. 2017, Yun et al. 2019; as timm's Mixup).
Everything is a function of the key and of the global batch: run inside the jitted step, where a batch that is split
over devices and hosts is still one array, all of them agree.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vfm.errors import UserError

MODES = ("batch", "pair", "elem")


def mix(
    rng: Array,
    video: Float[Array, "B T H W C"],
    labels: Float[Array, "B K"],
    *,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    probability: float = 1.0,
    switch: float = 0.5,
    mode: str = "batch",
) -> tuple[Float[Array, "B T H W C"], Float[Array, "B K"]]:
    """Mixed clips and labels; the defaults are those of VideoMAE's fine-tuning.

    Args:
      labels: what to learn of each row, such as `soft_labels`.
      mixup: both parameters of the Beta distribution of mixup's share; 0 = no mixup.
      cutmix: the same of CutMix, whose box goes through all frames; 0 = no CutMix.
      probability: that anything is mixed.
      switch: probability of CutMix, where there are both.
      mode: one draw for the "batch", one for each "pair" of rows, or one for each "elem".
    """
    if not jnp.issubdtype(video.dtype, jnp.floating):
        raise ValueError(
            f"video of {video.dtype}: expected floats; clips are mixed after they are normalised"
        )
    if mode not in MODES:
        raise UserError(f"mixing mode '{mode}': expected one of {', '.join(MODES)}")
    if mixup < 0 or cutmix < 0 or not (mixup or cutmix):
        raise UserError(f"mixup={mixup}, cutmix={cutmix}: expected numbers from 0 on, one of them above 0")
    share, cut = _draw(rng, video.shape, mixup, cutmix, probability, switch, mode)
    other = video[::-1]
    weight = share[:, None, None, None, None].astype(video.dtype)
    faded = video * weight + other * (1 - weight)
    inside, boxed = cut
    mixed = jnp.where(
        boxed[:, None, None, None, None], jnp.where(inside[:, None, :, :, None], other, video), faded
    )
    area = inside.mean((1, 2), dtype=jnp.float32)
    kept = jnp.where(boxed, 1 - area, share)[:, None].astype(labels.dtype)  # boxes may be cut off at the edge
    return mixed, labels * kept + labels[::-1] * (1 - kept)


def _draw(
    rng: Array,
    shape: tuple[int, ...],
    mixup: float,
    cutmix: float,
    probability: float,
    switch: float,
    mode: str,
) -> tuple[Float[Array, "B"], tuple[Bool[Array, "B H W"], Bool[Array, "B"]]]:
    """Each row's share of itself, the box that it takes from the other, and whether it is the box that counts."""
    rows, (height, width) = shape[0], shape[2:4]
    count = {"batch": 1, "pair": -(-rows // 2), "elem": rows}[mode]
    keys = jax.random.split(rng, 6)
    boxed = jax.random.uniform(keys[0], (count,)) < (switch if mixup and cutmix else float(cutmix > 0))
    share = jnp.where(boxed, _beta(keys[1], cutmix, count), _beta(keys[2], mixup, count))
    share = jnp.where(jax.random.uniform(keys[3], (count,)) < probability, share, 1.0)
    inside = _inside(keys[4], height, share)[:, :, None] & _inside(keys[5], width, share)[:, None, :]
    place = jnp.arange(rows)
    place = {"batch": place * 0, "pair": jnp.minimum(place, rows - 1 - place), "elem": place}[mode]
    return share[place], (inside[place], boxed[place])


def _beta(rng: Array, alpha: float, count: int) -> Float[Array, "n"]:
    return jax.random.beta(rng, alpha, alpha, (count,)) if alpha else jnp.ones((count,))


def _inside(rng: Array, size: int, share: Float[Array, "n"]) -> Bool[Array, "n size"]:
    """Which places of an axis lie in the boxes, which are sqrt(1 - share) of it long; ends beyond it are cut off."""
    half = (size * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
    centre = jax.random.randint(rng, share.shape, 0, size)
    place = jnp.arange(size)
    return (place >= (centre - half)[:, None]) & (place < (centre + half)[:, None])


def soft_labels(labels: Int[Array, "B"], classes: int, smoothing: float = 0.1) -> Float[Array, "B K"]:
    """One-hot labels, of which `smoothing` is spread evenly over all classes."""
    return jax.nn.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes

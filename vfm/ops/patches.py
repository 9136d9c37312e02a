"""Video <-> patches: T H W of a clip, p0 p1 p2 of one tubelet, N = T H W tokens in raster order."""

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Int, Num

Grid = tuple[int, int, int]


def patchify(video: Num[Array, "B T H W C"], tubelet: int, patch: int) -> Num[Array, "B N P"]:
    """Cut a clip into tubelets; the P values of each are in (p0 p1 p2 c) order."""
    return rearrange(
        video, "b (t p0) (h p1) (w p2) c -> b (t h w) (p0 p1 p2 c)", p0=tubelet, p1=patch, p2=patch
    )


def unpatchify(patches: Num[Array, "B N P"], grid: Grid, tubelet: int, patch: int) -> Num[Array, "B T H W C"]:
    """Inverse of `patchify`."""
    t, h, w = grid
    return rearrange(
        patches,
        "b (t h w) (p0 p1 p2 c) -> b (t p0) (h p1) (w p2) c",
        t=t, h=h, w=w, p0=tubelet, p1=patch, p2=patch,
    )  # fmt: skip


def take(tokens: Num[Array, "B N P"], ids: Int[Array, "B K"]) -> Num[Array, "B K P"]:
    """The tokens that `ids` names, sample by sample."""
    return jnp.take_along_axis(tokens, ids[..., None], axis=1)

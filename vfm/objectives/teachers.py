"""Frozen teachers: other networks whose features a student learns, or whose attention says what it gets to see.

`config.teachers` names them; the trainer keeps their parameters apart from the state and hands them to the loss as
`teacher[name]`. A teacher may be an image model, which then sees each frame by itself.

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens of the clip in raster order, R class
tokens in front of them (0 or 1), K layers, D width, P width of a projection or a pooled vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from vfm import models
from vfm.errors import UserError
from vfm.models.alignment import last_layers
from vfm.models.layers import Attention, Dense, Norm
from vfm.ops.patches import Grid
from vfm.ops.resize import resize
from vfm.targets import unit_pixels

NORMS = ("none", "all", "last")


def build(config: Any) -> dict[str, "Teacher"]:
    """The teachers of a run config, by name."""
    found = config.get("teachers", {})
    return {name: Teacher(name, part, config.precision) for name, part in found.items()}


def look(
    teachers: Mapping[str, "Teacher"], trees: Mapping[str, Any], batch: Mapping[str, Array]
) -> dict[str, "Look"]:
    """What each teacher sees in a batch; nothing is computed before it is asked for."""
    return {name: Look(teacher, trees[name], batch["video"]) for name, teacher in teachers.items()}


class Teacher:
    """A teacher's network; `common.teacher` explains its keys. Parameters: {"encoder", "pool"?, "video_proj"?}."""

    def __init__(self, name: str, config: Any, precision: str):
        self.name, self.config = name, config
        self.record = 1  # how many of the last layers are looked at; whoever asks for more raises it
        self.mean, self.std = (jnp.asarray(x, jnp.float32) for x in (config.mean, config.std))
        self.encoder = models.build(config.encoder, precision=precision)
        self.pool = models.build(config.pool, precision=precision) if config.pool else None
        self.proj = (
            Dense(config.proj, config.proj_bias, precision=self.encoder.precision) if config.proj else None
        )

    def init(self, rng: PRNGKeyArray, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Untrained parameters, for batches of this shape."""
        rngs = jax.random.split(rng, 3)
        video = jnp.zeros(self.clip_shape((1, *batch["video"].shape[1:])))
        features, encoder = self.encoder.init_with_output(rngs[0], video)
        params = {"encoder": encoder["params"]}
        if self.pool is not None:
            params["pool"] = self.pool.init(rngs[1], features.tokens, features.cls).get("params", {})
        if self.proj is not None:
            params["video_proj"] = self.proj.init(rngs[2], features.tokens)["params"]
        return {part: tree for part, tree in params.items() if tree}

    def clip_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """[B,T,H,W,C] of what its encoder sees of a batch's video; single frames are in the batch's axis."""
        batch, frames, height, width, channels = shape
        frames = len(range(0, frames, self.config.every))
        if self.config.size:
            height = width = self.config.size
        if self.config.per_frame:
            batch, frames = batch * frames, 1
        return batch, frames, height, width, channels

    def grid(self, shape: tuple[int, ...]) -> Grid:
        """The token grid of the whole clip."""
        time, height, width = self.encoder.grid_of(self.clip_shape(shape))
        return len(range(0, shape[1], self.config.every)) if self.config.per_frame else time, height, width

    def width(self, projected: bool) -> int:
        """Width of a token, or of a projected one."""
        if projected and not self.config.proj:
            raise UserError(
                f"a target projects teacher '{self.name}', which has no projection: set "
                f"config.teachers.{self.name}.proj"
            )
        return self.config.proj if projected else self.encoder.width

    def will_show(self, layers: int) -> None:
        """Say before anything is computed that outputs of so many of the last layers will be asked for."""
        if not 0 < layers <= self.encoder.depth:
            raise UserError(
                f"teacher '{self.name}' has {self.encoder.depth} layers, a target or mask needs its last {layers}"
            )
        self.record = max(self.record, layers)

    @property
    def pooled_width(self) -> int:
        """Width of the pooled vector."""
        if self.pool is None:
            raise UserError(
                f"a target pools teacher '{self.name}', which has no pool: set config.teachers.{self.name}.pool"
            )
        return getattr(self.pool, "width", self.encoder.width)


@dataclass
class Look:
    """A teacher looking at the videos of one batch."""

    teacher: Teacher
    params: Any
    video: Array

    @property
    def grid(self) -> Grid:
        """The token grid of the whole clip."""
        return self.teacher.grid(self.video.shape)

    def layers(
        self, count: int, interval: float = 1.0, norm: str = "all", projected: bool = False
    ) -> Float[Array, "K B M D"]:
        """Outputs of the last layers, ascending, class token first (M = R + N; of frames the mean class token).

        Args:
          norm: which of them pass the final norm: none | all (CLIP, Unmasked Teacher) | last.
          projected: through the projection.
        """
        if norm not in NORMS:
            raise UserError(f"target.norm='{norm}': expected one of {', '.join(NORMS)}")
        network = self.teacher.encoder
        below = network.depth - np.array(last_layers(network.depth, count, interval))
        if below.max() > self.teacher.record:
            raise ValueError(
                f"teacher {self.teacher.name} records {self.teacher.record} layers, not {below.max()}"
            )
        x = self._seen[1][-below]
        if norm != "none":
            tree = self.params["encoder"].get("norm")
            if tree is None:
                raise UserError(
                    f"target.norm='{norm}', but teacher '{self.teacher.name}' has no final norm; set it to 'none'"
                )
            normed = Norm(network.norm, network.norm_eps).apply({"params": tree}, x)
            x = normed if norm == "all" else jnp.concatenate([x[:-1], normed[-1:]])
        if projected:
            x = self.teacher.proj.apply({"params": self.params["video_proj"]}, x)
        return self._whole(x)

    @property
    def pooled(self) -> Float[Array, "B P"]:
        """The pooled vector; of frames their mean."""
        pooled = self._pooled[0]
        if self.teacher.config.per_frame:
            pooled = rearrange(pooled, "(b t) p -> b t p", b=len(self.video)).mean(1)
        return pooled

    @property
    def importance(self) -> Float[Array, "B N"]:
        """How much the pool, or where there is none the class token in the last layer, attends to each token."""
        if self.teacher.pool is not None:
            weights = self._pooled[1].get("weights")
            if weights is None:
                raise UserError(
                    f"the pool of teacher '{self.teacher.name}' does not tell what it attends to; use attention_pool"
                )
            weights = weights[0]
        else:
            weights = self._class_attention()
        return rearrange(weights[:, self._rows :], "(b t) n -> b (t n)", b=len(self.video))

    @property
    def _rows(self) -> int:
        return int(self.teacher.encoder.cls_token)

    @cached_property
    def _seen(self) -> tuple[Any, Float[Array, "K F M D"]]:
        """Features of the encoder, and the outputs of its last layers."""
        config, video = self.teacher.config, self.video[:, :: self.teacher.config.every]
        video = (unit_pixels(video) - self.teacher.mean) / self.teacher.std
        if config.size:
            video = resize(video, {2: config.size, 3: config.size}, "cubic")
        if config.per_frame:
            video = rearrange(video, "b t h w c -> (b t) 1 h w c")
        network, variables = self.teacher.encoder, {"params": self.params["encoder"]}
        if hasattr(network, "record"):
            network = network.clone(record=self.teacher.record)
            features, seen = network.apply(variables, video, mutable=["recorded"])
            return features, seen["recorded"]["layers"][0]
        features, seen = network.apply(variables, video, mutable=["intermediates"])
        return features, seen["intermediates"]["blocks"]["output"][0]

    @cached_property
    def _pooled(self) -> tuple[Array, Any]:
        features, _ = self._seen
        pooled, seen = self.teacher.pool.apply(
            {"params": self.params.get("pool", {})}, features.tokens, features.cls, mutable=["intermediates"]
        )
        return pooled, seen.get("intermediates", {})

    def _whole(self, x: Float[Array, "K F M D"]) -> Float[Array, "K B M D"]:
        """Tokens of frames as tokens of their clip."""
        if not self.teacher.config.per_frame:
            return x
        x = rearrange(x, "k (b t) m d -> k b t m d", b=len(self.video))
        tokens = rearrange(x[:, :, :, self._rows :], "k b t n d -> k b (t n) d")
        return jnp.concatenate([x[:, :, :, 0].mean(2)[:, :, None], tokens], 2) if self._rows else tokens

    def _class_attention(self) -> Float[Array, "F M"]:
        """The class token's row of the last layer's attention, averaged over heads."""
        network, tree = self.teacher.encoder, self.params["encoder"]
        if not self._rows or not hasattr(network, "heads") or self.teacher.record < 2:
            raise UserError(
                f"a mask asks what teacher '{self.teacher.name}' attends to: it needs a ViT of two or more layers with "
                "cls_token=True, or a pool that attends; choose another mask"
            )
        x = self._seen[1][-2]
        last = jax.tree.map(lambda leaf: leaf[-1], tree["blocks"])
        x = Norm(network.norm, network.norm_eps).apply({"params": last["norm1"]}, x)
        attend = Attention(
            network.heads,
            network.qkv_bias,
            network.qk_norm,
            network.norm,
            network.norm_eps,
            network.qk_scale,
            network.precision,
            qk_norm_over=network.qk_norm_over,
            weights=True,
        )
        return attend.apply({"params": last["attn"]}, x)

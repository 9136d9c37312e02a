"""A language model over the codes of videos, as an encoder of videos (Toto).

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens, K codes, M kept tokens, D width.

Source: Rajasegaran et al. 2025, "An Empirical Study of Autoregressive Pre-training from Videos" (arXiv 2501.05453).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vfm import parts
from vfm.models.features import Features
from vfm.models.lm import lm
from vfm.ops.patches import Grid, take


def code_lm(
    tokenizer: Mapping[str, Any],
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
    **language_model: Any,
) -> "CodeLM":
    """A frozen tokenizer (part; home `vfm.models`) and a causal transformer on its codes.

    Args:
      language_model: keys of `vfm.models.lm` but vocab_size, which follows from the tokenizer: RMSNorm, SwiGLU,
        rotary positions.
    """
    run_time = dict(precision=precision, remat=remat, unroll=unroll)
    inner = parts.build(tokenizer, "vfm.models", **run_time)
    # One more word, that stands in front of every clip.
    model = parts.build(
        dict(name="lm", **language_model), lm.__module__, vocab_size=inner.codes + 1, **run_time
    )
    return CodeLM(inner, model)


class CodeLM(nn.Module):
    """An encoder: `(video, keep=None, train=False) -> Features`; make one with `code_lm`.

    The feature of a token has seen the start, the tokens before it in raster order, and itself.

    Intermediates (`mutable=["intermediates"]`): "lm/blocks/output" [L,B,1+N,D], the start in front.
    """

    tokenizer: nn.Module
    lm: nn.Module

    @property
    def width(self) -> int:
        return self.lm.width

    @property
    def depth(self) -> int:
        return self.lm.depth

    @property
    def precision(self) -> str:
        return self.lm.precision

    @property
    def tubelet(self) -> int:
        return self.tokenizer.tubelet

    @property
    def patch(self) -> int:
        return self.tokenizer.patch

    @property
    def codes(self) -> int:
        """K."""
        return self.tokenizer.codes

    @nn.nowrap
    def grid_of(self, shape: tuple[int, ...]) -> Grid:
        """The (T, H, W) token grid of a video of shape [..., T, H, W, C]."""
        return self.tokenizer.grid_of(shape)

    def __call__(
        self, video: Float[Array, "B T H W C"], keep: Int[Array, "B M"] | None = None, train: bool = False
    ) -> Features:
        """Encode a normalised video; of kept tokens the codes are read in the order of their ids."""
        del train  # the tokenizer is frozen, and the transformer drops nothing
        codes = self.tokenizer.tokenize(video)[1].codes
        positions = None
        if keep is not None:
            codes = take(codes[..., None], keep)[..., 0]
            positions = jnp.pad(keep + 1, ((0, 0), (1, 0)))
        hidden, _ = self.lm.hidden(self.behind_start(codes), positions=positions)
        self.lm.logits(hidden[:, :1])  # so that initialisation meets every parameter
        return Features(hidden[:, 1:], None, self.grid_of(video.shape))

    def predict(self, codes: Int[Array, "B N"]) -> tuple[Float[Array, "B N D"], Float[Array, "D V"]]:
        """Hidden states, of which that at i has seen the start and codes 0 to i - 1, and the kernel to logits."""
        hidden, _ = self.lm.hidden(self.behind_start(codes)[:, :-1])
        return hidden, self.lm.output_kernel()

    @nn.nowrap
    def behind_start(self, codes: Int[Array, "B N"]) -> Int[Array, "B 1+N"]:
        """Codes behind the start."""
        return jnp.pad(codes, ((0, 0), (1, 0)), constant_values=self.codes)

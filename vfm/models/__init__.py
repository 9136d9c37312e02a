"""Networks, by the names that configs use: `vit`, `mamba` (encoders) and `decoder` (a predictor).

An encoder is `(video [B,T,H,W,C], keep=None, train=False) -> Features` with attributes `width`, `tubelet`,
`patch` and `grid_of(video_shape)`.
A predictor is `(tokens, keep, masked, grid, train) -> predictions [B,M,P]`.
A connector is `(tokens, grid) -> [B,M,O]`, the few tokens that a language model (`lm`) of width O reads.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from vfm import parts
from vfm.models.alignment import align
from vfm.models.bert import bert
from vfm.models.caption_decoder import caption_decoder, query_pool
from vfm.models.code_lm import code_lm
from vfm.models.connectors import (
    linear_connector,
    mamba_compressor,
    mlp_connector,
    qformer,
    resampler,
)
from vfm.models.decoders import decoder
from vfm.models.features import Features, TextFeatures
from vfm.models.heads import mlp_head
from vfm.models.lm import lm
from vfm.models.mamba import mamba
from vfm.models.poolers import attention_pool, cls_pool, map_pool, mean_pool
from vfm.models.text import text
from vfm.models.video_tokenizer import pixel_decoder, video_tokenizer
from vfm.models.vit import vit

__all__ = [
    "Features",
    "TextFeatures",
    "align",
    "attention_pool",
    "bert",
    "build",
    "caption_decoder",
    "cls_pool",
    "code_lm",
    "decoder",
    "linear_connector",
    "lm",
    "mamba",
    "mamba_compressor",
    "map_pool",
    "mean_pool",
    "mlp_connector",
    "mlp_head",
    "pixel_decoder",
    "query_pool",
    "qformer",
    "resampler",
    "text",
    "video_tokenizer",
    "vit",
]


def build(
    part: Mapping[str, Any], precision: str = "float32", remat: str = "none", unroll: int = 1, **extra: Any
) -> nn.Module:
    """The module of a config's part, such as `{"name": "vit", "size": "b"}`.

    Args:
      precision: auto | float32 | bfloat16 | bfloat16_dots (`vfm.ops.dot`).
      remat: what layers recompute in the backward pass: none | dots | full.
      unroll: layers in one turn of the loop over layers; 0 = all.
      extra: arguments that the caller knows, such as a decoder's `out_dim`.

    Raises:
      UserError: an unknown name, key or value.
    """
    return parts.build(part, __name__, precision=precision, remat=remat, unroll=unroll, **extra)

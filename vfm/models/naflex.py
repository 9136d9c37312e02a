"""A ViT for images of any resolution and aspect ratio, as padded lists of patches (NaFlex of SigLIP 2).

Letters: B batch, N patches of the longest list, P values of a patch, D width.

Sources: Tschannen et al. 2025 (SigLIP 2, arXiv 2502.14786); Dehghani et al. 2023 (NaViT, arXiv 2307.06304).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vfm.models.layers import Block, Dense, Norm, drop_rates, scanned
from vfm.ops import dot
from vfm.ops.resize import linear_rows


class NaFlexViT(nn.Module):
    """`(patches, places, sees) -> tokens`: a pre-norm ViT whose position table is resized to each image's own grid.

    Parameters have the names of a ViT with learned positions, and for equal grids the same meaning.
    Intermediates: "embed" [B,N,D], tokens after positions, and "blocks/output", stacked over layers.
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    native: tuple[int, int]  # rows and columns of the position table
    norm_eps: float = 1e-6
    activation: str = "gelu_tanh"
    precision: str = "float32"

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "B N P"],
        places: Int[Array, "B N 2"],
        sees: Bool[Array, "B _ _ N"],
    ) -> Float[Array, "B N D"]:
        """Encode images.

        Args:
          patches: values in (p p c) order.
          places: row and column of each patch; an image is as large as its highest places. Padding is (0, 0).
          sees: which patch (third axis, or 1 for all) sees which (fourth axis).
        """
        x = Dense(self.width, precision=self.precision, name="patch_embed")(patches)
        rows, columns = self.native
        table = self.param("pos", nn.initializers.normal(self.width**-0.5), (rows * columns, self.width))
        sizes = places.max(1, keepdims=True) + 1
        codes = jnp.einsum(
            "bnh,bnw,hwd->bnd",
            linear_rows(places[..., 0], sizes[..., 0], rows),
            linear_rows(places[..., 1], sizes[..., 1], columns),
            table.reshape(rows, columns, -1),
            precision="highest",
        )
        x += codes.astype(dot.activation_dtype(self.precision))
        self.sow("intermediates", "embed", x)
        blocks = scanned(Block, self.depth, shared=1)(
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            norm_eps=self.norm_eps,
            qkv_bias="qkv",
            activation=self.activation,
            precision=self.precision,
            name="blocks",
        )
        x, _ = blocks(x, drop_rates(0.0, self.depth), sees)
        return Norm("layernorm", self.norm_eps, name="norm")(x)

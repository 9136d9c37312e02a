"""Predictors: small networks from visible tokens to a prediction for each masked token.

Letters: B batch, K visible and M masked tokens, D width of the encoder, P values of one prediction.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vfm.models.layers import Block, Dense, Norm, drop_rates, scanned
from vfm.models.vit import at
from vfm.ops import dot, positions
from vfm.ops.patches import Grid


def decoder(
    out_dim: int,
    width: int = 192,
    depth: int = 4,
    heads: int = 3,
    mlp_ratio: float = 4.0,
    mlp_dim: int = 0,
    norm_eps: float = 1e-6,
    final_norm_eps: float = 0.0,
    qkv_bias: str = "qv",
    qk_scale: float = 0.0,
    layer_scale: float = 0.0,
    activation: str = "gelu",
    drop_path: float = 0.0,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "Decoder":
    """VideoMAE's decoder.

    Args:
      out_dim: P, values predicted for each masked token.
      mlp_dim: hidden size of the MLPs; 0 = int(width * mlp_ratio).
      final_norm_eps: epsilon of the last norm; 0 = norm_eps.
      qk_scale: of the attention logits; 0 = head size ** -0.5.
    """
    return Decoder(
        out_dim=out_dim,
        width=width,
        depth=depth,
        heads=heads,
        mlp_dim=mlp_dim or int(width * mlp_ratio),
        norm_eps=norm_eps,
        final_norm_eps=final_norm_eps or norm_eps,
        qkv_bias=qkv_bias,
        qk_scale=qk_scale,
        layer_scale=layer_scale,
        activation=activation,
        drop_path=drop_path,
        precision=dot.resolve_precision(precision),
        remat=remat,
        unroll=unroll,
    )


class Decoder(nn.Module):
    """A predictor: `(tokens, keep, masked, grid, train) -> predictions`; make one with `decoder`.

    Its input is the visible tokens followed by one mask token for each masked position, each with the
    sinusoid of its flat index; they are never put back into raster order (VideoMAE, Tong et al. 2022).
    Intermediates: "blocks/output" [L,B,K+M,width].
    """

    out_dim: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    norm_eps: float = 1e-6
    final_norm_eps: float = 1e-6
    qkv_bias: str = "qv"
    qk_scale: float = 0.0
    layer_scale: float = 0.0
    activation: str = "gelu"
    drop_path: float = 0.0
    precision: str = "float32"
    remat: str = "none"
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B K D"],
        keep: Int[Array, "B K"],
        masked: Int[Array, "B M"],
        grid: Grid,
        train: bool = False,
    ) -> Float[Array, "B M P"]:
        """Predict the masked tokens, in the order of `masked`, from the visible ones."""
        dtype = dot.activation_dtype(self.precision)
        visible = Dense(self.width, use_bias=False, precision=self.precision, name="embed")(tokens)
        mask_token = self.param("mask_token", nn.initializers.truncated_normal(0.02), (1, self.width))
        hidden = jnp.broadcast_to(mask_token.astype(dtype), (*masked.shape, self.width))
        table = positions.sincos1d(grid[0] * grid[1] * grid[2], self.width)
        codes = at(table, jnp.concatenate([keep, masked], axis=1))
        x = jnp.concatenate([visible, hidden], axis=1) + codes.astype(dtype)

        if self.depth:
            blocks = scanned(Block, self.depth, self.remat, self.unroll)(
                heads=self.heads,
                mlp_dim=self.mlp_dim,
                norm_eps=self.norm_eps,
                qkv_bias=self.qkv_bias,
                qk_scale=self.qk_scale,
                layer_scale=self.layer_scale,
                activation=self.activation,
                precision=self.precision,
                dropping=train and self.drop_path > 0,
                name="blocks",
            )
            x, _ = blocks(x, drop_rates(self.drop_path, self.depth))
        x = Norm("layernorm", self.final_norm_eps, name="norm")(x[:, keep.shape[1] :])
        return Dense(self.out_dim, precision=self.precision, name="head")(x)

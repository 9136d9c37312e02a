"""Heads: small networks from each token to a prediction at it, without attention between tokens.

Letters: B batch, N tokens, D width, P values of one prediction.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from vfm.models.layers import Dense, Mlp, Norm, drop_rates, scanned
from vfm.ops import dot


def mlp_head(
    out_dim: int,
    depth: int = 12,
    width: int = 0,
    mlp_ratio: float = 4.0,
    norm: str = "layernorm",
    norm_eps: float = 1e-6,
    activation: str = "gelu",
    use_bias: bool = False,
    precision: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> "MlpHead":
    """Residual MLPs on each token by itself, then a linear prediction (AIM, El-Nouby et al. 2024: 12 of them).

    Args:
      out_dim: P, values predicted at each token.
      width: 0 = the tokens' own; another one is come to by a linear layer.
      use_bias: of the MLPs.
    """
    return MlpHead(
        out_dim=out_dim,
        depth=depth,
        width=width,
        mlp_ratio=mlp_ratio,
        norm=norm,
        norm_eps=norm_eps,
        activation=activation,
        use_bias=use_bias,
        precision=dot.resolve_precision(precision),
        remat=remat,
        unroll=unroll,
    )


class MlpLayer(nn.Module):
    """`x + MLP(norm(x))`."""

    mlp_dim: int
    norm: str
    norm_eps: float
    activation: str
    use_bias: bool
    precision: str

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], rate: Float[Array, ""]) -> tuple[Array, None]:
        del rate  # layers that are scanned get a drop path rate; a head drops nothing
        mlp = Mlp(self.mlp_dim, self.activation, self.precision, use_bias=self.use_bias, name="mlp")
        return x + mlp(Norm(self.norm, self.norm_eps, name="norm")(x)), None


class MlpHead(nn.Module):
    """`tokens [B,N,D] -> predictions [B,N,P]`; make one with `mlp_head`."""

    out_dim: int
    depth: int
    width: int
    mlp_ratio: float
    norm: str
    norm_eps: float
    activation: str
    use_bias: bool
    precision: str
    remat: str
    unroll: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N P"]:
        x = tokens
        if self.width and self.width != x.shape[-1]:
            x = Dense(self.width, precision=self.precision, name="embed")(x)
        if self.depth:
            layers = scanned(MlpLayer, self.depth, self.remat, self.unroll)(
                mlp_dim=int(x.shape[-1] * self.mlp_ratio),
                norm=self.norm,
                norm_eps=self.norm_eps,
                activation=self.activation,
                use_bias=self.use_bias,
                precision=self.precision,
                name="blocks",
            )
            x, _ = layers(x, drop_rates(0.0, self.depth))
            x = Norm(self.norm, self.norm_eps, name="norm")(x)
        return Dense(self.out_dim, precision=self.precision, name="head")(x)

"""An encoder with a classification head, for fine-tuning and for published classifiers.

Letters: B batch, T H W C frames, height, width and channels of a video, D width, K classes.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from vfm.errors import UserError
from vfm.models.layers import Dense, Norm, require

POOLINGS = ("mean", "first", "cls")


def head_kernel(scale: float) -> nn.initializers.Initializer:
    """A truncated normal of deviation .02, times `scale` (VideoMAE fine-tunes from a head of nearly zero)."""
    normal = nn.initializers.truncated_normal(0.02)
    return lambda *arguments: scale * normal(*arguments)


class Classifier(nn.Module):
    """`(video, train=False) -> logits [B, K]` in the encoder's activation dtype.

    pooling: mean of all tokens | first token | the encoder's cls token.
    norm: normalise the pooled features (then the encoder usually has no final norm of its own).
    dropout: of the pooled features, in training.
    Intermediates: "tokens" [B, N, D] and "features" [B, D], what the head sees; the encoder's under "encoder".
    """

    encoder: nn.Module
    classes: int
    pooling: str = "mean"
    norm: bool = True
    norm_eps: float = 1e-6
    dropout: float = 0.0
    head_scale: float = 1.0

    @nn.compact
    def __call__(self, video: Float[Array, "B T H W C"], train: bool = False) -> Float[Array, "B K"]:
        require("pooling", self.pooling, POOLINGS)
        features = self.encoder(video, train=train)
        self.sow("intermediates", "tokens", features.tokens)
        if self.pooling == "cls":
            if features.cls is None:
                raise UserError("pooling 'cls' needs an encoder with cls_token=True; use 'mean' without one")
            x = features.cls
        else:
            x = features.tokens.mean(1) if self.pooling == "mean" else features.tokens[:, 0]
        if self.norm:
            x = Norm("layernorm", self.norm_eps, name="norm")(x)
        self.sow("intermediates", "features", x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(
            self.classes,
            kernel_init=head_kernel(self.head_scale),
            precision=self.encoder.precision,
            name="head",
        )(x)

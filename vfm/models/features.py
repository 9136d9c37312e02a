"""What an encoder returns.

Letters: B batch, N tokens of a video, L tokens of a text, D width.
"""

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class Features:
    """Tokens of a video in raster order (time slowest, width fastest), or in the order of `keep`."""

    tokens: Float[Array, "B N D"]
    cls: Float[Array, "B D"] | None = None  # the class token, where the encoder has one
    grid: tuple[int, int, int] = flax.struct.field(pytree_node=False, default=(0, 0, 0))  # of the whole video


@flax.struct.dataclass
class TextFeatures:
    """Tokens of a text, and the one vector that its encoder makes of them."""

    tokens: Float[Array, "B L D"]
    pooled: Float[Array, "B D"]

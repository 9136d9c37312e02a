"""The quickstart with a VideoMamba encoder: same data, mask, predictor and target.

Fixed positions of unit size matter here too: with learned ones, which start near zero, the loss stays on its first
plateau much longer. Half the usual states make the step twice as fast on a CPU.
"""

from ml_collections import ConfigDict

from configs import common, quickstart


def get_config() -> ConfigDict:
    c = quickstart.get_config()
    c.total_steps = 2000
    c.model.encoder = ConfigDict(
        common.mamba(
            width=128, depth=4, frames=16, image_size=32, tubelet=2, patch=8, positions="sincos3d", cls_token=False,
            d_state=8, init="mamba",
        )
    )  # fmt: skip
    return c

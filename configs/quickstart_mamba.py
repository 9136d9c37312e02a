"""The quickstart with a VideoMamba encoder: same data, mask, predictor and target."""

from ml_collections import ConfigDict

from configs import common, quickstart


def get_config() -> ConfigDict:
    c = quickstart.get_config()
    c.model.encoder = ConfigDict(
        common.mamba(
            width=128, depth=4, frames=16, image_size=32, tubelet=2, patch=8, cls_token=False, init="mamba"
        )
    )
    return c

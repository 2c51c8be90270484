"""What the two perceptual distances look at: a picture and its features in the evaluation's own network.

EfficientNet-Lite0 at five depths (``latpix.efficientnet``); training never uses it. A picture's features are computed
once and compared as often as wanted. Letters: b batch, H W pixels.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.efficientnet import EfficientNetLite


@dataclass(frozen=True)
class Features:
    """A picture in [0, 1] and its features, finest first."""

    picture: Float[Tensor, "b 3 H W"]
    depths: list[Float[Tensor, "b _ _ _"]]


@torch.no_grad()
def features_of(pixels: Float[Tensor, "b 3 H W"]) -> Features:
    """Features of pixels in [-1, 1], computed in float32 where the pixels are.

    Raises:
        MissingExtraError: the package with the network's weights is not installed.
    """
    pixels = pixels.float()
    with torch.autocast(pixels.device.type, enabled=False):
        return Features((pixels + 1) / 2, _network(str(pixels.device))(pixels))


@cache
def _network(device: str) -> EfficientNetLite:
    return EfficientNetLite.load("lite0").to(device)

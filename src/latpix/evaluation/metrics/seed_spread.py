"""Seed spread: how much two seeds differ, where the picture has texture and where it is flat.

    spread = sqrt(mean over the tiles of the variance over seeds), in levels of 255

over the quarter of the tiles of a reference with the most detail, and the quarter with the least. A diffusion decoder
has a large first number and a small second one; a resizer in disguise has two zeros. Letters: s seeds, H W pixels,
n tiles.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TILE = 16
SHARE = 0.25


class SeedSpread(NamedTuple):
    """In levels of 255."""

    textured: float
    flat: float


def seed_spread(pixels: Float[Tensor, "s 3 H W"], reference: Float[Tensor, "1 3 H W"]) -> SeedSpread:
    """Of one latent's decodes with several seeds; the reference says where texture is."""
    between = F.avg_pool2d(pixels.var(0, keepdim=True), TILE).mean(1).flatten()  # [n]
    mean, square = F.avg_pool2d(reference, TILE), F.avg_pool2d(reference.square(), TILE)
    order = (square - mean.square()).mean(1).flatten().argsort()  # [n], least detail first
    count = max(1, int(SHARE * len(order)))
    levels = torch.stack([between[order[-count:]].mean(), between[order[:count]].mean()]).sqrt() * 127.5
    return SeedSpread(*levels.tolist())

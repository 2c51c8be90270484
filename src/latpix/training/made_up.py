"""Made-up pictures: overlapping leaves of random size, colour and grain, so that edges and detail lie at every scale.

They let a recipe run where no photographs are. Source: dead leaves, Lee, Mumford & Huang 2001, sizes as r^-3.
"""

import math

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

LEAST, MOST = 4.0, 160.0  # radius in pixels
COVER = 3.0  # how often the leaves' area covers the picture's
MEAN_AREA = 2 * math.pi * math.log(MOST / LEAST) * LEAST**2


def leaves(side: int, *, seed: int) -> UInt8[Tensor, "3 side side"]:
    """One picture; the same on every machine."""
    generator = np.random.default_rng(seed)
    levels = np.full((3, side, side), 128, np.int64)
    for _ in range(round(COVER * side**2 / MEAN_AREA)):
        top, left = generator.random(2) * side
        share = generator.random()
        radius = (LEAST**-2 + share * (MOST**-2 - LEAST**-2)) ** -0.5
        colour, grain = generator.integers(12, 244, (3, 1, 1)), int(generator.integers(1, 24))
        y0, y1 = max(0, int(top - radius)), min(side, int(top + radius) + 1)
        x0, x1 = max(0, int(left - radius)), min(side, int(left + radius) + 1)
        y, x = np.mgrid[y0:y1, x0:x1]
        inside = (y - top) ** 2 + (x - left) ** 2 < radius**2
        texture = generator.integers(-grain, grain + 1, inside.shape)
        part = levels[:, y0:y1, x0:x1]
        part[:, inside] = (colour + texture)[:, inside]
    return torch.from_numpy(levels.clip(0, 255).astype(np.uint8))

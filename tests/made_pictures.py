"""Small pictures that are the same on every machine."""

import numpy as np
import torch
from torch.nn import functional as F


def dead_leaves(height, width, *, seed=0, count=400):
    """Overlapping discs of random size and colour, in 256 levels: edges at every scale. Gives [1, 3, height, width]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    levels = np.full((3, height, width), 128.0)
    for _ in range(count):
        top, left, size = generator.random() * height, generator.random() * width, 3 / (0.04 + generator.random())
        inside = (y - top) ** 2 + (x - left) ** 2 < size**2
        texture = generator.integers(-12, 13, size=(height, width))
        levels[:, inside] = (generator.integers(12, 244, size=(3, 1, 1)) + texture)[:, inside]
    return torch.from_numpy(levels).float()[None] / 127.5 - 1


def coarse(pixels):
    """Blocks of 4x4 of one level each; exact, so that no machine rounds it differently."""
    levels = ((pixels + 1) * 127.5).round()
    return F.interpolate(F.avg_pool2d(levels, 4).floor(), scale_factor=4) / 127.5 - 1

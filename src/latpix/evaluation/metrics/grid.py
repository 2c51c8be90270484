"""Grid probe: are the network's patches seen?

    ratio = mean |step| across the patch borders / mean |step| across the other multiples of 4 pixels

A step is the difference of two neighbouring pixels. The multiples of 4 are where a plain 4x upscale has its own period,
so they are compared with each other only. A picture without a grid has the ratio of its original, about 1.
Letters: b batch, H W pixels.
"""

import torch
from jaxtyping import Float
from torch import Tensor

PATCH = 16
PERIOD = 4


def grid_ratio(pixels: Float[Tensor, "b 3 H W"], *, patch: int = PATCH) -> Float[Tensor, "b 2"]:
    """Across horizontal borders, and across vertical ones."""
    return torch.stack([_ratio(pixels, patch), _ratio(pixels.mT, patch)], dim=1)  # [b, 2]


def _ratio(pixels: Float[Tensor, "b 3 H W"], patch: int) -> Float[Tensor, " b"]:
    steps = pixels.diff(dim=2).abs().mean((1, 3))  # [b, H - 1]
    place = torch.arange(1, pixels.shape[2], device=pixels.device)  # step k lies between rows k - 1 and k
    border = place % patch == 0
    other = (place % PERIOD == 0) & ~border
    return steps[:, border].mean(1) / steps[:, other].mean(1)  # [b]

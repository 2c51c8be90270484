"""Seam probe: do the parts that a picture was painted in meet without a line?

    ratio = mean |step| across the lines where parts meet / mean |step| across the other multiples of 16 pixels

A step is the difference of two neighbouring pixels. The lines are the edges of tiles, or of latent cells where the
picture was painted whole; all of them are patch borders, so they are compared with patch borders only. A picture
without seams has the ratio of its original, about 1. Letters: b batch, H W pixels.
"""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

PERIOD = 16


def seam_ratio(
    pixels: Float[Tensor, "b 3 H W"], rows: Collection[int], columns: Collection[int]
) -> Float[Tensor, "b 2"]:
    """Across the horizontal lines above ``rows``, and the vertical ones left of ``columns``; NaN without lines."""
    return torch.stack([_ratio(pixels, rows), _ratio(pixels.mT, columns)], dim=1)  # [b, 2]


def _ratio(pixels: Float[Tensor, "b 3 H W"], lines: Collection[int]) -> Float[Tensor, " b"]:
    steps = pixels.diff(dim=2).abs().mean((1, 3))  # [b, H - 1]
    place = torch.arange(1, pixels.shape[2], device=pixels.device)  # step k lies between rows k - 1 and k
    seam = torch.isin(place, torch.tensor(sorted(lines), dtype=place.dtype, device=pixels.device))
    other = (place % PERIOD == 0) & ~seam
    return steps[:, seam].mean(1) / steps[:, other].mean(1)  # [b]

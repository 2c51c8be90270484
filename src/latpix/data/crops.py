"""Where to crop: anywhere, or more often where there is detail; flat sky teaches little.

Detail of a crop: rms of what lies above half the Nyquist frequency, in levels of 255.
"""

import numpy as np
from torch.nn import functional as F

from latpix.data.pictures import Levels

CANDIDATES = 8  # places among which detail decides
DETAIL_RANGE = (1.0, 8.0)  # levels: below and above, more or less detail changes a crop's chance no further


def pick_place(
    levels: Levels, side: int, generator: np.random.Generator, *, grid: int = 1, by_detail: bool = False
) -> tuple[int, int]:
    """Top and left of a square crop.

    Args:
        levels: the picture, ``side`` pixels or more both ways.
        side: of the crop.
        generator: draws as much whatever the picture.
        grid: the place is a multiple of this, which the latent's cells cover.
        by_detail: draw several places, and one of them by its detail.
    """
    height, width = levels.shape[1:]
    rows, columns = (height - side) // grid + 1, (width - side) // grid + 1
    draws = generator.random((CANDIDATES, 2))
    choice = generator.random()
    places = [(int(y * rows) * grid, int(x * columns) * grid) for y, x in draws]
    if not by_detail:
        return places[0]
    chances = [detail(levels[:, top : top + side, left : left + side]) for top, left in places]
    shares = np.cumsum(np.clip(chances, *DETAIL_RANGE))
    return places[min(int(np.searchsorted(shares / shares[-1], choice, side="right")), CANDIDATES - 1)]


def detail(levels: Levels) -> float:
    """Of a crop."""
    luma = levels.float().mean(0)[None, None]  # [1, 1, H, W]
    coarse = F.interpolate(F.avg_pool2d(luma, 2), size=luma.shape[-2:], mode="bilinear", align_corners=False)
    return float((luma - coarse).square().mean().sqrt())

"""What a picture of references tells a decode: which colours to keep, and where to paint freely.

    locked = pixels + enlarged( coarse(reference) - coarse(pixels) )          coarse: means of cells of 16 native pixels

Letters: b batch, H W output pixels, y x pixels of another picture.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CELL = 16  # native pixels a side; what is finer is left alone
ROUNDS = 3  # enlarging smooths, so that a round leaves up to a quarter of the difference


def lock_colours(
    pixels: Float[Tensor, "b 3 H W"], reference: Float[Tensor, "b 3 y x"], *, scale: float
) -> Float[Tensor, "b 3 H W"]:
    """Hold what is coarse in a picture to a reference of it; both in [-1, 1], as is the result.

    Args:
        pixels: of the picture.
        reference: of the same subject, of any size.
        scale: output side / native side.
    """
    height, width = pixels.shape[2:]
    grid = tuple(max(1, round(side / (CELL * scale))) for side in (height, width))
    wanted = F.interpolate(reference, size=grid, mode="area")
    for _ in range(ROUNDS):
        off = wanted - F.interpolate(pixels, size=grid, mode="area")
        pixels = pixels + F.interpolate(off, size=(height, width), mode="bilinear")
    return pixels.clamp(-1, 1)


def freedom_of(picture: Float[Tensor, "1 3 y x"], rows: int, columns: int) -> Float[Tensor, "1 rows columns"]:
    """A picture's brightness on a grid that it is stretched to: 0 where it is black, 1 where it is white."""
    grey = (picture.float().mean(1, keepdim=True) + 1) / 2
    return F.interpolate(grey, size=(rows, columns), mode="bilinear", antialias=True)[:, 0].clamp(0, 1)

"""Fixed pattern: what a decoder adds at the same place of every latent cell, specks above all.

    pattern = mean over cells of (picture - original),  v = its variance over places, less what chance gives:
    figure = sqrt(max(0, v - mean over places of the variance over cells / cells)),  in levels of 255

Letters: b batch, H W pixels, n cells of s pixels a side.
"""

from jaxtyping import Float
from torch import Tensor


def fixed_pattern(
    pixels: Float[Tensor, "b 3 H W"], original: Float[Tensor, "b 3 H W"], *, cell: int
) -> Float[Tensor, " b"]:
    """Of each picture; NaN where fewer than two whole cells fit."""
    rows, columns = pixels.shape[-2] // cell, pixels.shape[-1] // cell
    residual = (pixels - original)[..., : rows * cell, : columns * cell]
    cells = residual.unflatten(3, (columns, cell)).unflatten(2, (rows, cell))  # [b, 3, rows, s, columns, s]
    cells = cells.transpose(3, 4).flatten(2, 3)  # [b, 3, n, s, s]
    if cells.shape[2] < 2:
        return pixels.new_full((len(pixels),), float("nan"))
    chance = cells.var(2).mean((2, 3)) / cells.shape[2]  # [b, 3]
    pattern = cells.mean(2).flatten(2).var(2, unbiased=False)  # [b, 3]
    return (pattern - chance).clamp(min=0).mean(1).sqrt() * 127.5  # [b]

"""Fixed pattern: a speck that a decoder leaves at the same place of every latent cell.

    r = picture - original, less its mean over 3x3;    figure = max over places of |median over cells of r|

in levels of 255. The median forgets what single cells lost of their structure, which a mean does not: a plain upscale
of a photograph has 2 to 6, a speck of 32 levels about 28. Letters: b batch, H W pixels, n cells of s pixels a side.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LEAST_CELLS = 4  # that a median can be taken of


def fixed_pattern(
    pixels: Float[Tensor, "b 3 H W"], original: Float[Tensor, "b 3 H W"], *, cell: int
) -> Float[Tensor, " b"]:
    """Of each picture; NaN where fewer than four whole cells fit."""
    rows, columns = pixels.shape[-2] // cell, pixels.shape[-1] // cell
    residual = pixels - original
    residual = residual - F.avg_pool2d(residual, 3, stride=1, padding=1, count_include_pad=False)
    residual = residual[..., : rows * cell, : columns * cell]
    cells = residual.reshape(len(pixels), 3, rows, cell, columns, cell)
    cells = cells.transpose(3, 4).flatten(2, 3)  # [b, 3, n, s, s]
    if cells.shape[2] < LEAST_CELLS:
        return pixels.new_full((len(pixels),), float("nan"))
    specks: Tensor = cells.median(2).values.abs().amax((1, 2, 3)) * 127.5  # [b]
    return specks

"""Peak signal-to-noise ratio:  10 log10(2^2 / mean((a - b)^2))  of pixels in [-1, 1], in dB.

Letters: b batch, H W pixels.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def psnr(pixels: Float[Tensor, "b 3 H W"], original: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
    """Of each picture; infinite for equal ones."""
    return 10 * torch.log10(4 / (pixels - original).square().mean((1, 2, 3)))  # [b]

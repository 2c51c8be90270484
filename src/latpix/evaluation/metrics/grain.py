"""Grain: what a decoder leaves on areas that should be flat.

    grain = sqrt(mean over channels of the variance over places), in levels of 255

measured on the decode of a flat latent, away from the picture's borders, where convolutions see the padding.
Letters: b batch, H W pixels.
"""

from jaxtyping import Float
from torch import Tensor


def grain(pixels: Float[Tensor, "b 3 H W"], *, border: int = 0) -> Float[Tensor, " b"]:
    """Of each picture, without ``border`` pixels on every side."""
    height, width = pixels.shape[-2:]
    inner = pixels[..., border : height - border, border : width - border]
    return inner.var((2, 3), unbiased=False).mean(1).sqrt() * 127.5  # [b]

"""How large a latent's picture is: as it is painted at the trained scale, and as it is resampled.

Letters: h and w latent cells, H and W output pixels, y and x those of the picture as it was painted.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.checkpoints.registry import Checkpoint
from latpix.errors import OptionError
from latpix.files.latent_files import Latent
from latpix.latents.spaces import LATENT_SPACES

LEAST_CELLS = 8  # a side; smaller latents are padded inside
SCALES = (0.5, 16.0)


def padded_size(h: int, w: int) -> tuple[int, int]:
    """Height and width in cells that are decoded."""
    return max(h, LEAST_CELLS), max(w, LEAST_CELLS)


def native_size(latent: Latent, row: Checkpoint) -> tuple[int, int]:
    """Height and width of the native picture, without the padding that encoding added."""
    h, w = (side * LATENT_SPACES[row.space].downsample for side in latent.tensor.shape[-2:])
    return min(latent.native_height or h, h), min(latent.native_width or w, w)


def painted_size(latent: Latent, row: Checkpoint) -> tuple[int, int]:
    """Height and width of the picture at the trained scale."""
    height, width = native_size(latent, row)
    return height * row.scale, width * row.scale


def target_size(
    latent: Latent, row: Checkpoint, scale: float | None, size: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Height and width to resample to; None keeps what the network paints.

    Raises:
        OptionError: a scale outside ``SCALES``, or both a scale and a size.
    """
    if size is not None and scale is not None:
        raise OptionError("scale and size were both given; give one of them.")
    native = native_size(latent, row)
    if size is not None:
        least, most = ([round(bound * side) for side in native] for bound in SCALES)
        if not all(low <= side <= high for low, side, high in zip(least, size, most, strict=True)):
            raise OptionError(
                f"size is {size[1]}x{size[0]} pixels; a native picture of {native[1]}x{native[0]} can become "
                f"{least[1]}x{least[0]} to {most[1]}x{most[0]}."
            )
        return size
    if scale is None or scale == row.scale:
        return None
    if not SCALES[0] <= scale <= SCALES[1]:
        raise OptionError(f"scale is {scale}; expected {SCALES[0]} to {SCALES[1]}.")
    return round(native[0] * scale), round(native[1] * scale)


def resampled(pixels: Float[Tensor, "1 3 y x"], target: tuple[int, int] | None) -> Float[Tensor, "1 3 H W"]:
    """At (height, width), where that is another size."""
    if target is None or target == tuple(pixels.shape[2:]):
        return pixels
    return F.interpolate(pixels, size=target, mode="bicubic", antialias=True).clamp_(-1, 1)

"""A training picture from bytes to pixels: decoded, scaled and cropped to its bucket, reduced, in explicit ranges.

    levels 0..255 (uint8) -> pixels = levels / 127.5 - 1        never guessed from the values at hand

Letters: H W and h w pixels, y x native pixels.
"""

import io
import warnings

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from latpix.data.buckets import Size
from latpix.errors import PictureError

RANGE = (0, 255)  # of stored levels
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # the formats that a sample's picture may have

Levels = UInt8[Tensor, "3 H W"]


def decode(data: bytes, name: str) -> Levels:
    """The levels of a sample's picture: plain 8-bit RGB, as ``encode`` writes it.

    Raises:
        PictureError: it is damaged, or something else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's limit of size, which was checked when the picture was packed
        try:
            with Image.open(io.BytesIO(data), formats=tuple(SUFFIXES)) as image:
                if image.mode != "RGB":
                    raise PictureError(f"{name} has mode {image.mode}; samples are 8-bit RGB.")
                return _to_tensor(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise PictureError(f"{name} is damaged: {error}.") from error


def encode(levels: Levels) -> bytes:
    """A PNG of levels."""
    data = io.BytesIO()
    _to_image(levels).save(data, "PNG", compress_level=4)
    return data.getvalue()


def kind_of(data: bytes) -> str | None:
    """The suffix of a picture's bytes, if a sample may hold them as they are."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    return "webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None


def fit(levels: Levels, resized: Size, crop: Size) -> UInt8[Tensor, "3 h w"]:
    """Scale by Lanczos, in whole numbers and so the same everywhere, and cut out the middle."""
    if levels.shape[-2:] != (resized.height, resized.width):
        levels = _to_tensor(_to_image(levels).resize(resized, Image.Resampling.LANCZOS))
    top, left = (resized.height - crop.height) // 2, (resized.width - crop.width) // 2
    return levels[:, top : top + crop.height, left : left + crop.width]


def to_pixels(levels: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b 3 H W"]:
    """Levels 0..255 to pixels in [-1, 1]."""
    return levels.float() / 127.5 - 1


def reduced(pixels: Float[Tensor, "b 3 H W"], scale: int) -> Float[Tensor, "b 3 y x"]:
    """What a decoder that enlarges ``scale`` times is to start from: bicubic with antialiasing, sides rounded down."""
    size = (pixels.shape[2] // scale, pixels.shape[3] // scale)
    return F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def halved(levels: Levels) -> UInt8[Tensor, "3 h w"]:
    """Half size by a box of 2x2, which adds no ringing; an odd last row or column is left out."""
    return F.avg_pool2d(levels[None].float(), 2)[0].round().to(torch.uint8)


def _to_tensor(image: Image.Image) -> Levels:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # [H, W, 3] -> [3, H, W]


def _to_image(levels: Levels) -> Image.Image:
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())

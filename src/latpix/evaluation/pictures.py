"""Validation pictures: originals, the inputs that are a quarter of their size, and the plain 4x upscale to beat.

The list is closed: the 24 Kodak pictures, and crops of 2048x2048 of two photographs of
the Debian package lomiri-wallpapers-16.04. None of them is on the training list.
Letters: b batch, H W pixels, y x native pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latpix.errors import UsageError
from latpix.files.picture_files import read_picture

SCALE = 4
KODAK = 24
CROP = 2048
# Name, file, top, left. The files are JPEGs: their blocks of 8 must stay off the multiples of 4, which the grid probe
# reads.
CROPS = (
    ("dandelion", "seeding_by_Clements_Engelhardt.jpg", 150, 250),
    ("dogs", "friends_by_Aitzol_Berasategi.jpg", 482, 2),
    ("fence", "friends_by_Aitzol_Berasategi.jpg", 1038, 2),
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One original and the picture whose latent is decoded; both in [-1, 1], at the 256 levels of a file."""

    name: str
    original: Float[Tensor, "1 3 H W"]
    native: Float[Tensor, "1 3 y x"]


def kodak(folder: Path, count: int = KODAK) -> Iterator[Sample]:
    """The first ``count`` Kodak pictures, 768x512 or 512x768, by their number.

    Raises:
        UsageError: they are not there.
    """
    files = sorted((file for file in folder.glob("*") if file.stem.strip("kodim").isdigit()), key=_number)
    if len(files) < count:
        raise UsageError(f"{folder} holds {len(files)} Kodak pictures, expected {count}, named by their number")
    for file in files[:count]:
        yield sample(f"kodak {_number(file)}", read_picture(file))


def crops(folder: Path) -> Iterator[Sample]:
    """Crops of 2048x2048 of two large photographs.

    Raises:
        UsageError: they are not there.
    """
    for name, file, top, left in CROPS:
        if not (folder / file).is_file():
            raise UsageError(f"no {file} in {folder}: `apt-get download lomiri-wallpapers-16.04`, then `dpkg -x` it")
        yield sample(name, read_picture(folder / file)[..., top : top + CROP, left : left + CROP])


def sample(name: str, original: Float[Tensor, "1 3 H W"]) -> Sample:
    """An original with its input, a quarter of the size."""
    return Sample(name=name, original=original, native=shrink(original))


def shrink(pixels: Float[Tensor, "b 3 H W"], *, scale: int = SCALE) -> Float[Tensor, "b 3 y x"]:
    """A quarter of the size, bicubic with antialiasing, as a file would hold it."""
    size = (pixels.shape[-2] // scale, pixels.shape[-1] // scale)
    return rounded(F.interpolate(pixels, size=size, mode="bicubic", antialias=True))


def plain_upscale(pixels: Float[Tensor, "1 3 y x"], *, size: tuple[int, int] | None = None) -> Float[Tensor, "1 3 H W"]:
    """To ``size`` (height, width; default four times), by Pillow's Lanczos filter, from 256 levels to 256 levels: what
    a user does today.
    """
    import numpy as np
    from PIL import Image

    levels = ((pixels[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())  # [y, x, 3]
    height, width = size or (image.height * SCALE, image.width * SCALE)
    large = image.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(large)).permute(2, 0, 1)[None].float().to(pixels.device) / 127.5 - 1


def rounded(pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Clamped to [-1, 1] and rounded to 256 levels."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def _number(file: Path) -> int:
    return int(file.stem.strip("kodim"))

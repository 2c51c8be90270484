"""The training photographs: which files, how they are read, and where their detail is.

The list is closed: two folders taken whole, and named files of two Debian packages.
Pictures that validation uses lie in the same packages and are never on it. Large pictures are softer per pixel than
small ones, so they are also given at half size. Detail of a tile: rms of what lies above half the Nyquist frequency, in
levels of 255.

Letters: H W pixels, r rows and c columns of tiles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from latpix.data.pictures import reduced
from latpix.errors import UsageError
from latpix.files.picture_files import read_picture

LARGE = 1024  # pixels of the shorter side: from here on a picture is also used at half size

FOLDERS = {  # folder under `assets`, in the list's order: licence
    "photos/cid22": "CC-BY-SA-4.0 (Cloudinary)",
    "photos/clic2025": "Unsplash licence",
}
LOMIRI_FOLDER = "lomiri-wallpapers-16.04/usr/share/backgrounds"
LOMIRI = (
    "aitzgorri_by_Aitzol_Berasategi", "life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi",
    "sunset_by_Aitzol_Berasategi", "Picture_0B_by_freespace", "Picture_1A_by_freespace", "Wine_by_Jakkub_Mede",
    "Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "free_by_Peter_Nerlich",
)  # fmt: skip
PLASMA_FOLDER = "plasma-workspace-wallpapers/usr/share/wallpapers"
PLASMA = (
    "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Kite",
    "OneStandsOut", "Path", "summer_1am",
)  # fmt: skip
SUFFIXES = (".webp", ".jpg", ".png")


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One picture of the list. `source` is the folder or package that it comes from."""

    path: Path
    source: str
    license: str


def training_photographs(assets: Path) -> list[Photograph]:
    """The training list, in a fixed order, sharp and small pictures first.

    Args:
        assets: the folder that holds `photos/clic2025` and `photos/cid22`, and, if they are to be used, `packages` with
            the two Debian packages, each unpacked (`dpkg -x`) into a folder of its name.

    Raises:
        UsageError: a folder or a file of the list is missing.
    """
    found = []
    for folder, license in FOLDERS.items():
        if not (assets / folder).is_dir():
            raise UsageError(f"no folder {folder} in {assets}: --assets names the folder that holds photos/")
        files = sorted(file for file in (assets / folder).iterdir() if file.suffix in SUFFIXES)
        found += [Photograph(path=file, source=folder.split("/")[1], license=license) for file in files]
    packages = assets / "packages"
    if packages.is_dir():
        found += [_listed(packages / path, license) for path, license in _packaged()]
    return found


def _packaged() -> Iterator[tuple[str, str]]:
    for name in PLASMA:
        yield f"{PLASMA_FOLDER}/{name}/contents/images/2560x1600.jpg", "LGPL-3 (metadata), GPL-2+ (package)"
    for name in LOMIRI:
        yield f"{LOMIRI_FOLDER}/{name}.jpg", "CC-BY-4.0, CC-BY-SA-4.0 or CC0-1.0, per file"


def _listed(path: Path, license: str) -> Photograph:
    if not path.is_file():
        raise UsageError(
            f"{path} is missing: unpack its package with `apt-get download NAME && dpkg -x NAME_*.deb NAME`"
        )
    source = "lomiri-wallpapers-16.04" if LOMIRI_FOLDER in str(path) else "plasma-workspace-wallpapers"
    return Photograph(path=path, source=source, license=license)


def sources(photographs: Sequence[Photograph]) -> str:
    """How many pictures of which source under which licence: for the metadata of weights made from them."""
    counts = Counter((photograph.source, photograph.license) for photograph in photographs)
    return "; ".join(f"{count} of {name} ({license})" for (name, license), count in counts.items())


def read(photograph: Photograph) -> UInt8[Tensor, "3 H W"]:
    """The picture's levels: RGB, sides cut down to multiples of 16."""
    pixels = read_picture(photograph.path)[0]  # [3, H, W]
    height, width = (side // 16 * 16 for side in pixels.shape[-2:])
    return to_levels(pixels[:, :height, :width])


def halve(levels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
    """Half size by a box of 2x2, which adds no ringing; sides cut down to multiples of 16 again."""
    half = F.avg_pool2d(levels[None].float(), 2)[0].round().to(torch.uint8)
    height, width = (side // 16 * 16 for side in half.shape[-2:])
    return half[:, :height, :width].contiguous()


def reduce(levels: UInt8[Tensor, "3 H W"], by: int) -> UInt8[Tensor, "3 h w"]:
    """A ``by``-th of the size, bicubic with antialiasing, as a picture file would hold it."""
    return to_levels(reduced(to_pixels(levels)[None], by)[0])


def to_pixels(levels: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b 3 H W"]:
    """Levels 0..255 to pixels in [-1, 1]."""
    return levels.float() / 127.5 - 1


def to_levels(pixels: Float[Tensor, "*b 3 H W"]) -> UInt8[Tensor, "*b 3 H W"]:
    """Pixels in [-1, 1] to levels 0..255, to the nearest."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def detail(levels: UInt8[Tensor, "3 H W"], tile: int) -> Float[Tensor, "r c"]:
    """How much of each tile lies above half the Nyquist frequency: rms, in levels. Zero for flat tiles."""
    luma = levels.float().mean(0)[None, None]  # [1, 1, H, W]
    coarse = F.interpolate(F.avg_pool2d(luma, 2), size=luma.shape[-2:], mode="bilinear", align_corners=False)
    return F.avg_pool2d((luma - coarse).square(), tile)[0, 0].sqrt()  # [r, c]

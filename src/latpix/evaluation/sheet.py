"""A contact sheet: one row for each picture, one column for each way to make it, labelled, for looking.

Crops are shown pixel for pixel. Letters: s side of a crop, H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latpix.files.picture_files import save_picture

SIDE = 256
LABEL_HEIGHT = 22
GAP = 4


@dataclass(frozen=True)
class Row:
    """One picture made in several ways, by their names, and where its crop lies."""

    name: str
    pictures: Mapping[str, Float[Tensor, "1 3 H W"]]
    top: int
    left: int


def busiest(original: Float[Tensor, "1 3 H W"], side: int = SIDE) -> tuple[int, int]:
    """Top and left of the crop with the most fine detail (energy above half the Nyquist frequency)."""
    fine = original - F.interpolate(F.avg_pool2d(original, 2), size=original.shape[-2:], mode="bilinear")
    energy = F.avg_pool2d(fine.square().mean(1, keepdim=True), side, stride=side // 4)[0, 0]  # [rows, columns]
    row, column = divmod(int(energy.argmax()), energy.shape[1])
    return row * (side // 4), column * (side // 4)


def contact_sheet(rows: Sequence[Row], path: Path, *, side: int = SIDE) -> None:
    """Write the sheet, replacing one that is there; all rows have the same columns."""
    strips = []
    for row in rows:
        cells = []
        for title, picture in row.pictures.items():
            crop = picture[0, :, row.top : row.top + side, row.left : row.left + side].cpu()
            assert crop.shape[1:] == (side, side), f"the crop of {row.name} leaves its {title}"
            cells.append(torch.cat([label(f"{row.name}: {title}", side), crop], dim=1))
        strips.append(torch.cat([F.pad(cell, (0, GAP, 0, GAP), value=1.0) for cell in cells], dim=2))
    save_picture(torch.cat(strips, dim=1), path, overwrite=True)


def label(text: str, width: int) -> Float[Tensor, "3 H W"]:
    """Black text on white."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, LABEL_HEIGHT), "white")
    ImageDraw.Draw(image).text((3, 3), text, fill="black", font=ImageFont.load_default(13))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1

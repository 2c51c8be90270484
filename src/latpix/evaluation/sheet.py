"""A contact sheet: one row for each picture, one column for each way to make it, labelled, for looking.

Crops are shown pixel for pixel, where the original has the most detail. Letters: s side of a crop, H W pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latpix.files.picture_files import save_picture

SIDE = 256
LABEL_HEIGHT = 22
GAP = 4


def busiest(original: Float[Tensor, "1 3 H W"], side: int = SIDE) -> tuple[int, int]:
    """Top and left of the crop with the most fine detail (energy above half the Nyquist frequency)."""
    fine = original - F.interpolate(F.avg_pool2d(original, 2), size=original.shape[-2:], mode="bilinear")
    energy = F.avg_pool2d(fine.square().mean(1, keepdim=True), side, stride=side // 4)[0, 0]  # [rows, columns]
    row, column = divmod(int(energy.argmax()), energy.shape[1])
    return row * (side // 4), column * (side // 4)


def contact_sheet(
    rows: Mapping[str, Sequence[Float[Tensor, "1 3 H W"]]], columns: Sequence[str], path: Path, *, side: int = SIDE
) -> None:
    """Write the sheet; of each row the first picture is the original and says where to crop.

    Args:
        rows: a name, and pictures of one size each.
        columns: what each picture of a row is.
        path: replaced when it is there.
    """
    strips = []
    for name, pictures in rows.items():
        assert len(pictures) == len(columns), f"{name} has {len(pictures)} pictures for {len(columns)} columns"
        top, left = busiest(pictures[0], side)
        cells = [
            torch.cat(
                [label(f"{name}: {title}", side), picture[0, :, top : top + side, left : left + side].cpu()], dim=1
            )
            for title, picture in zip(columns, pictures, strict=True)
        ]
        strips.append(torch.cat([F.pad(cell, (0, GAP, 0, GAP), value=1.0) for cell in cells], dim=2))
    save_picture(torch.cat(strips, dim=1), path, overwrite=True)


def label(text: str, width: int) -> Float[Tensor, "3 H W"]:
    """Black text on white."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, LABEL_HEIGHT), "white")
    ImageDraw.Draw(image).text((3, 3), text, fill="black", font=ImageFont.load_default(13))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1

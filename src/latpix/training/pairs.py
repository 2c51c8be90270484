"""Square photographs with the latents of their reduction, and crops of both that lie on each other.

    picture [3, 4y, 4y] -> reduced 4 times, bicubic with antialiasing -> latent [128, y/16, y/16] -> native picture
    [3, y, y]

Latents are TAEF2's and flux2-lite's. Networks on both ends see a whole picture in their norms, so a picture is encoded
whole, and its latent stays whole too: crops are of pixels. The native picture is what the latent stands for at its own
size: of TAEF2's latents TAEF2's decode, whose colours a user of the codec sees; of flux2-lite's, whose decode is poorer
than the latent, the reduced photograph. Crops are drawn by detail: flat sky teaches little.
Letters: b batch, h latent cells of a picture's side, n native pixels and p output pixels of a crop's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, Int, UInt8
from torch import Tensor

from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import Taef2
from latpix.training.photographs import detail, reduce, to_pixels

SCALE = 4
CELL = 16  # native pixels per side of a latent cell
WHOLE = SCALE * CELL  # output pixels per side of a latent cell
DETAIL_RANGE = (1.0, 8.0)  # levels: below and above, more or less detail changes a crop's chance no further


@dataclass(frozen=True)
class Pair:
    """One picture, its latents (TAEF2's and flux2-lite's) and what they stand for at native size."""

    picture: UInt8[Tensor, "3 H H"]
    latents: Float16[Tensor, "2 128 h h"]
    natives: Float16[Tensor, "2 3 y y"]
    hint: Float16[Tensor, "64 _ _"] | None  # features of TAEF2's decoder
    chances: np.ndarray[tuple[int], np.dtype[np.float64]]  # of each crop position, row-major
    columns: int


@dataclass(frozen=True)
class PairBatch:
    """Crops of some pairs: what the network reads, and what it should paint."""

    latent: Float[Tensor, "b 128 h h"]  # of the whole picture
    corner: Int[Tensor, "b 2"]  # of the crop in it: rows down and columns to the right, in cells
    native: Float[Tensor, "b 3 n n"]
    pixels: Float[Tensor, "b 3 p p"]
    hint: Float[Tensor, "b 64 _ _"] | None  # of the whole picture


def stack(crops: Sequence[PairBatch]) -> PairBatch:
    """Crops as of ``cut``, as one batch."""
    hints = [crop.hint for crop in crops if crop.hint is not None]
    return PairBatch(
        latent=torch.cat([crop.latent for crop in crops]),
        corner=torch.cat([crop.corner for crop in crops]),
        native=torch.cat([crop.native for crop in crops]),
        pixels=torch.cat([crop.pixels for crop in crops]),
        hint=torch.cat(hints) if hints else None,
    )


def cut(pair: Pair, place: int, kind: int, side: int) -> PairBatch:
    """One crop of a pair, as a batch of one.

    Args:
        pair: that is cut.
        place: of the crop, row-major.
        kind: 0 for TAEF2's latent, 1 for flux2-lite's.
        side: in latent cells.
    """
    corner = torch.tensor([divmod(place, pair.columns)])
    return PairBatch(
        latent=pair.latents[kind : kind + 1].float(),
        corner=corner,
        native=crop(pair.natives[kind : kind + 1], corner, side, CELL).float(),
        pixels=to_pixels(crop(pair.picture[None], corner, side, WHOLE)),
        hint=None if pair.hint is None else pair.hint[None].float(),
    )


def crop(whole: Tensor, corner: Int[Tensor, "b 2"], side: int, cell: int) -> Tensor:
    """Crops of ``side`` cells, one of each sample [b, c, H, W], where a cell is ``cell`` places wide."""
    return torch.stack(
        [
            sample[:, top * cell : (top + side) * cell, left * cell : (left + side) * cell]
            for sample, (top, left) in zip(whole, corner.tolist(), strict=True)
        ]
    )


@torch.no_grad()
def make_pair(
    picture: UInt8[Tensor, "3 H H"], taef2: Taef2 | None, codec: Codec, *, side: int, hint: int | None = None
) -> Pair:
    """Reduce a picture, encode it both ways, and weigh its crops; without TAEF2 both latents are flux2-lite's.

    ``hint`` keeps the features of TAEF2's decoder at 1/8 (0), 1/4 (1) or 1/2 (2) of the native size.
    """
    native = to_pixels(reduce(picture, SCALE))[None]
    ours, kept = codec.encode(native), None
    if taef2 is None:
        latents, natives = ours.repeat(2, 1, 1, 1), native.repeat(2, 1, 1, 1)
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            theirs = taef2.encode(native.contiguous(memory_format=torch.channels_last)).float()
            decoded, levels = taef2.decode_levels(theirs.contiguous(memory_format=torch.channels_last))
        latents, natives = torch.cat([theirs, ours]), torch.cat([decoded.float(), native])
        kept = None if hint is None else levels[hint][0].half().contiguous()
    tiles = detail(picture, WHOLE).square()[None, None]
    crops = F.avg_pool2d(tiles, side, stride=1)[0, 0].sqrt().clamp(*DETAIL_RANGE)  # [rows, columns]
    return Pair(
        picture=picture,
        latents=latents.half(),
        natives=natives.half(),
        hint=kept,
        chances=crops.flatten().double().numpy(),
        columns=crops.shape[1],
    )

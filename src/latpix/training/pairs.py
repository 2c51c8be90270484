"""Photographs with the latents of their reduction, and crops of both that lie on each other.

    photograph [3, 4y, 4x] -> reduced 4 times, bicubic with antialiasing -> latent [128, y/16, x/16] -> native picture
    [3, y, x]

Latents are TAEF2's and flux2-lite's, encoded whole and cut afterwards. The native picture is what the latent stands for
at its own size: of TAEF2's latents TAEF2's decode, whose colours a user of the codec sees; of flux2-lite's, whose
decode is poorer than the latent, the reduced photograph. Crops are drawn by detail: flat sky teaches little.
Letters: b batch, s side of a crop in latent cells, m with its margin, n native pixels, p output pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import Taef2
from latpix.network.base_decoder import overview
from latpix.training.photographs import detail, reduce, to_pixels

SCALE = 4
CELL = 16  # native pixels per side of a latent cell
UNPATCHIFY = 2
MARGIN = 2  # cells around a crop that its base picture should know of
LEAST_CELLS = 8  # smaller pictures are left out
DETAIL_RANGE = (1.0, 8.0)  # levels: below and above, more or less detail changes a crop's chance no further


@dataclass(frozen=True)
class Pair:
    """One picture, its latents (TAEF2's and flux2-lite's) and what they stand for at native size."""

    picture: UInt8[Tensor, "3 H W"]
    latents: Float16[Tensor, "2 128 h w"]
    natives: Float16[Tensor, "2 3 y x"]
    hints: tuple[Float16[Tensor, "64 _ _"], ...]  # features of TAEF2's decoder at 1/8, 1/4 and 1/2; none without it
    chances: np.ndarray[tuple[int], np.dtype[np.float64]]  # of each crop position, row-major
    columns: int


@dataclass(frozen=True)
class PairBatch:
    """Crops of some pairs: what the network reads, and what it should paint."""

    surroundings: Float[Tensor, "b 128 m m"]  # the latent with ``MARGIN`` cells around the crop
    seen: Float[Tensor, "b 64"]  # the base decoder's overview of the whole latent
    native: Float[Tensor, "b 3 n n"]
    pixels: Float[Tensor, "b 3 p p"]
    hinted: Float[Tensor, " b"]  # 1 where there are hints, 0 where they are zeros
    hints: tuple[Float[Tensor, "b 64 _ _"], ...]

    @property
    def latent(self) -> Float[Tensor, "b 128 s s"]:
        """The crop of the latent itself."""
        return self.surroundings[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def stack(crops: Sequence[tuple[Tensor, ...]]) -> PairBatch:
    """Crops as of ``cut``, as a batch."""
    latent, seen, native, pixels, hinted, *hints = (torch.stack(column) for column in zip(*crops, strict=True))
    return PairBatch(latent, seen, native, pixels, hinted, tuple(hints))


def cut(pair: Pair, place: int, kind: int, side: int) -> tuple[Tensor, ...]:
    """One crop of a pair: the fields of ``PairBatch`` in their order, without a batch axis.

    Args:
        pair: that is cut.
        place: of the crop, row-major.
        kind: 0 for TAEF2's latent, 1 for flux2-lite's.
        side: in latent cells.
    """
    top, left = divmod(place, pair.columns)

    def inside(tensor: Tensor, cell: int) -> Tensor:
        return tensor[:, top * cell : (top + side) * cell, left * cell : (left + side) * cell]

    latent = pair.latents[kind].float()
    hinted = bool(pair.hints) and kind == 0
    around = F.pad(latent[None], (MARGIN,) * 4, mode="replicate")[0]
    wide = side + 2 * MARGIN
    return (
        around[:, top : top + wide, left : left + wide],
        overview(latent[None], UNPATCHIFY)[0],
        inside(pair.natives[kind], CELL).float(),
        to_pixels(inside(pair.picture, SCALE * CELL)),
        torch.tensor(float(hinted)),
        *(inside(hint, 2 << level).float() * hinted for level, hint in enumerate(pair.hints)),
    )


@torch.no_grad()
def make_pair(
    picture: UInt8[Tensor, "3 H W"], taef2: Taef2 | None, codec: Codec, *, side: int, hints: bool = False
) -> Pair:
    """Reduce a picture, encode it both ways, and weigh its crops; without TAEF2 both latents are flux2-lite's.

    ``hints`` keeps the features of TAEF2's decoder: 42 bytes for each native pixel.
    """
    native = to_pixels(reduce(picture, SCALE))[None]
    ours, levels = codec.encode(native), list[Tensor]()
    if taef2 is None:
        latents, natives = ours.repeat(2, 1, 1, 1), native.repeat(2, 1, 1, 1)
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            theirs = taef2.encode(native.contiguous(memory_format=torch.channels_last)).float()
            decoded, levels = taef2.decode_levels(theirs.contiguous(memory_format=torch.channels_last))
        latents, natives = torch.cat([theirs, ours]), torch.cat([decoded.float(), native])
    tiles = detail(picture, SCALE * CELL).square()[None, None]
    crops = F.avg_pool2d(tiles, side, stride=1)[0, 0].sqrt().clamp(*DETAIL_RANGE)  # [rows, columns]
    return Pair(
        picture=picture,
        latents=latents.half(),
        natives=natives.half(),
        hints=tuple(level[0].half().contiguous() for level in levels) if hints else (),
        chances=crops.flatten().double().numpy(),
        columns=crops.shape[1],
    )

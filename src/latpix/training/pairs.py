"""Photographs with the latents of their reduction, and crops of both that lie on each other.

    photograph [3, 4y, 4x] -> reduced 4 times, bicubic with antialiasing -> latent [128, y/16, x/16] -> base picture
    [3, y, x]

Every picture stands in the store twice, as it is and mirrored, each with the latent of TAEF2 and of flux2-lite, encoded
whole and cut afterwards. The base picture is flux2-lite's decode. Crops are drawn by detail: flat sky teaches little.
Letters: b batch, s side of a crop in latent cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from latpix.backbones.codec import Codec
from latpix.backbones.lite import overview
from latpix.backbones.taef2 import Taef2
from latpix.training.photographs import detail, to_levels, to_pixels

SCALE = 4
CELL = 16  # native pixels per side of a latent cell
MARGIN = 2  # cells around a crop that its decode should know of
LEAST_CELLS = 8  # smaller pictures are left out
DETAIL_RANGE = (1.0, 8.0)  # levels: below and above, more or less detail changes a crop's chance no further


@dataclass(frozen=True)
class Pair:
    """One picture, its latents (TAEF2's and flux2-lite's) and their base pictures."""

    picture: UInt8[Tensor, "3 H W"]
    latents: Float16[Tensor, "2 128 h w"]
    bases: Float16[Tensor, "2 3 y x"]
    chances: np.ndarray[tuple[int], np.dtype[np.float64]]  # of each crop position, row-major
    columns: int


@dataclass(frozen=True)
class PairBatch:
    """Crops of some pairs: what the network reads, and what it should paint."""

    surroundings: Float[Tensor, "b 128 m m"]  # the latent with ``MARGIN`` cells around the crop
    seen: Float[Tensor, "b 64"]  # flux2-lite's overview of the whole latent
    base: Float[Tensor, "b 3 n n"]
    pixels: Float[Tensor, "b 3 p p"]

    @property
    def latent(self) -> Float[Tensor, "b 128 s s"]:
        """The crop of the latent itself."""
        return self.surroundings[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


class PairStore:
    """All pairs in memory, and how crops are drawn."""

    def __init__(self, pictures: Sequence[Tensor], taef2: Taef2, codec: Codec, *, side: int) -> None:
        self.side = side
        self.pairs: list[Pair] = []
        whole = SCALE * CELL
        for picture in pictures:
            height, width = (length // whole * whole for length in picture.shape[-2:])
            if min(height, width) < LEAST_CELLS * whole:
                continue
            trimmed = picture[:, :height, :width]
            for variant in (trimmed, trimmed.flip(-1)):
                self.pairs.append(make_pair(variant.contiguous(), taef2, codec, side=side))
        self.weights = np.array([pair.chances.sum() for pair in self.pairs])
        self.weights /= self.weights.sum()

    def draw(self, generator: np.random.Generator, count: int) -> PairBatch:
        """``count`` crops, half of TAEF2's latents and half of flux2-lite's on average."""
        drawn = [self._crop(generator) for _ in range(count)]
        return PairBatch(*(torch.stack(tensors) for tensors in zip(*drawn, strict=True)))

    def _crop(self, generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pair = self.pairs[int(generator.choice(len(self.pairs), p=self.weights))]
        place = int(generator.choice(len(pair.chances), p=pair.chances / pair.chances.sum()))
        kind = int(generator.integers(2))
        return cut(pair, place, kind, self.side)


def cut(pair: Pair, place: int, kind: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One crop of a pair, as ``PairBatch`` stacks them: latent with its margin, overview, base picture, picture.

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
    around = F.pad(latent[None], (MARGIN,) * 4, mode="replicate")[0]
    wide = side + 2 * MARGIN
    return (
        around[:, top : top + wide, left : left + wide],
        overview(latent[None])[0],
        inside(pair.bases[kind], CELL).float(),
        to_pixels(inside(pair.picture, SCALE * CELL)),
    )


@torch.no_grad()
def make_pair(picture: UInt8[Tensor, "3 H W"], taef2: Taef2, codec: Codec, *, side: int) -> Pair:
    """Reduce a picture, encode it both ways, decode both latents, and weigh its crops."""
    reduced = reduce(to_pixels(picture)[None])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        from_taef2 = taef2.encode(reduced.contiguous(memory_format=torch.channels_last)).float()
    latents = torch.cat([from_taef2, codec.encode(reduced)])
    tiles = detail(picture, SCALE * CELL).square()[None, None]
    crops = F.avg_pool2d(tiles, side, stride=1)[0, 0].sqrt().clamp(*DETAIL_RANGE)  # [rows, columns]
    return Pair(
        picture=picture,
        latents=latents.half(),
        bases=codec.decode(latents).half(),
        chances=crops.flatten().double().numpy(),
        columns=crops.shape[1],
    )


def reduce(pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 y x"]:
    """A quarter of the size, bicubic with antialiasing, rounded to levels as a picture file would be."""
    size = (pixels.shape[-2] // SCALE, pixels.shape[-1] // SCALE)
    small = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
    return to_pixels(to_levels(small))

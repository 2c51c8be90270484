"""Cut a large decode into overlapping tiles that agree at every step.

At each step every tile predicts its part of the picture; the predictions are blended with weights that fall smoothly
towards the tiles' edges, and the sampler renoises the whole. The network places each tile like a whole picture, so
tiles change the picture; one tile is the whole-picture result bit for bit.
Letters: b batch, h and w output pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

OVERLAP = 2  # latent cells that neighbouring tiles share


@dataclass(frozen=True)
class Tile:
    """A rectangle of latent cells."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, picture: Float[Tensor, "b c h w"], cell: int = 1) -> Float[Tensor, "b c th tw"]:
        """The tile's part of a picture whose latent cells are ``cell`` pixels a side."""
        rows = slice(self.top * cell, (self.top + self.height) * cell)
        columns = slice(self.left * cell, (self.left + self.width) * cell)
        return picture[..., rows, columns]


def cut_tiles(height: int, width: int, side: int) -> list[Tile]:
    """Tiles of at most ``side`` x ``side`` cells that cover a latent, evenly spread, row-major."""
    rows, columns = _spread(height, side), _spread(width, side)
    return [Tile(y, x, min(side, height), min(side, width)) for y in rows for x in columns]


def _spread(length: int, side: int) -> list[int]:
    """Where tiles of ``side`` start so that they cover ``length`` and share at least ``OVERLAP`` cells."""
    if side >= length:
        return [0]
    count = -(-(length - OVERLAP) // (side - OVERLAP))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


Predict = Callable[[Float[Tensor, "b 3 h w"], Float[Tensor, " b"]], Float[Tensor, "b 3 h w"]]


def tiled(
    predict: Sequence[Predict | None],
    tiles: Sequence[Tile],
    cell: int,
    add_up: Callable[[Tensor], Tensor] = lambda own: own,
) -> Predict:
    """One prediction for the whole picture out of one per tile.

    Args:
        predict: for each tile, the network with that tile's condition bound; None where another process has the tile.
        tiles: of ``cut_tiles``.
        cell: output pixels per side of a latent cell.
        add_up: over all processes, what each has of the blended picture.
    """
    if len(tiles) == 1 and predict[0] is not None:
        return predict[0]

    def whole(x_t: Float[Tensor, "b 3 h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
        total, weight = torch.zeros_like(x_t), x_t.new_zeros(x_t.shape[-2:])
        for tile, predict_tile in zip(tiles, predict, strict=True):
            ramp = _ramp(tile, x_t, cell)
            tile.crop(weight[None, None], cell)[0, 0].add_(ramp)
            if predict_tile is not None:
                tile.crop(total, cell).add_(predict_tile(tile.crop(x_t, cell), t) * ramp)
        return add_up(total) / weight

    return whole


def _ramp(tile: Tile, like: Tensor, cell: int) -> Float[Tensor, "h w"]:
    """Blending weights: 1 inside, falling linearly over the overlap to almost 0 at the edges."""

    def side(length: int) -> Float[Tensor, " n"]:
        distance = torch.arange(length * cell, device=like.device, dtype=like.dtype) + 0.5
        return torch.minimum(distance, distance.flip(0)).div(OVERLAP * cell).clamp(max=1)

    return side(tile.height)[:, None] * side(tile.width)

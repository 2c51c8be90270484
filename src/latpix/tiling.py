"""Cut a large decode into overlapping tiles that agree at every step.

    x0 = sum over tiles  weight * x0 of the tile,        x_t' = step(x_t, x0, noise)        of the whole picture

At each step every tile predicts its part; the predictions are blended with weights that rise and fall smoothly where
tiles overlap and add up to 1, and one step of the sampler, with one noise field, makes the next state of the whole.
(The network's output is blended: at one place all tiles start from one x_t, so x0, linear in it, is blended alike.)
Letters: b batch, h and w pixels of a part, n pixels along a side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.canvas import Canvas
from latpix.sampling.paths import Pixels, Prediction
from latpix.sampling.samplers import Denoise, Noise, OnStep, Step, step_multistep
from latpix.sampling.schedules import Times, check_times

BLOCK = 16  # latent cells a side of the parts that a base picture is painted in, where it goes into a file
PIECE = 1024  # pixels a side of what is stepped at a time


@dataclass(frozen=True)
class Tile:
    """A rectangle of latent cells, or of pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.left, self.left + self.width)

    def times(self, cell: int) -> "Tile":
        """The same rectangle where a cell is ``cell`` pixels a side."""
        return Tile(self.top * cell, self.left * cell, self.height * cell, self.width * cell)

    def crop(self, picture: Float[Tensor, "b c h w"], cell: int = 1) -> Float[Tensor, "b c th tw"]:
        """The tile's part of a picture whose latent cells are ``cell`` pixels a side."""
        tile = self.times(cell)
        return picture[..., tile.rows, tile.columns]

    def grown(self, margin: int, height: int, width: int) -> "Tile":
        """The rectangle with ``margin`` around it, as far as ``height`` x ``width`` reach."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom, right = min(height, self.rows.stop + margin), min(width, self.columns.stop + margin)
        return Tile(top, left, bottom - top, right - left)


def overlap_of(side: int) -> int:
    """Latent cells that neighbouring tiles of ``side`` cells share at least."""
    return max(2, side // 8)


def cut_tiles(height: int, width: int, side: int) -> list[Tile]:
    """Tiles of at most ``side`` x ``side`` cells that cover a latent, evenly spread, row-major."""
    rows, columns = _spread(height, side), _spread(width, side)
    return [Tile(y, x, min(side, height), min(side, width)) for y in rows for x in columns]


def count_tiles(height: int, width: int, side: int) -> int:
    """How many of them there are."""
    return len(_spread(height, side)) * len(_spread(width, side))


def _spread(length: int, side: int) -> list[int]:
    """Where tiles of ``side`` start so that they cover ``length`` and share at least ``overlap_of(side)`` cells."""
    if side >= length:
        return [0]
    overlap = overlap_of(side)
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def cut_pieces(height: int, width: int) -> Iterator[Tile]:
    """Rectangles of at most ``PIECE`` a side that cover a picture and share nothing."""
    for top in range(0, height, PIECE):
        for left in range(0, width, PIECE):
            yield Tile(top, left, min(PIECE, height - top), min(PIECE, width - left))


class Weights:
    """How much each tile counts at each of its pixels."""

    def __init__(self, tiles: Sequence[Tile], cell: int, device: torch.device | str = "cpu") -> None:
        pixels = [tile.times(cell) for tile in tiles]
        self._rows = _ramps(sorted({(tile.top, tile.height) for tile in pixels}), device)
        self._columns = _ramps(sorted({(tile.left, tile.width) for tile in pixels}), device)

    def of(self, tile: Tile) -> Float[Tensor, "h w"]:
        """Of a tile, given in pixels; those of all tiles at one place add up to 1."""
        return self._rows[tile.top][:, None] * self._columns[tile.left]


def _ramps(spans: Sequence[tuple[int, int]], device: torch.device | str) -> dict[int, Float[Tensor, " n"]]:
    """Along one axis, by start: half a wave of sin^2 up and down over what spans (start, length) share."""
    ramps = {start: torch.ones(length, dtype=torch.float64) for start, length in spans}
    for (start, length), (next_start, _) in pairwise(spans):
        shared = start + length - next_start
        wave = torch.sin(torch.pi / 2 * (torch.arange(shared, dtype=torch.float64) + 0.5) / shared).square()
        ramps[next_start][:shared] *= wave
        ramps[start][-shared:] *= wave.flip(0)
    total = torch.zeros(max(start + length for start, length in spans), dtype=torch.float64)
    for start, length in spans:
        total[start : start + length] += ramps[start]
    return {
        start: (ramps[start] / total[start : start + length]).float().to(device)  # three may overlap
        for start, length in spans
    }


def _part_of(noise: Callable[[int, Tile], Pixels], piece: Tile) -> Noise:
    return lambda draw: noise(draw, piece)


@torch.no_grad()
def sample_in_tiles(
    step: Step,
    bind: Callable[[Tile], Denoise],
    noise: Callable[[int, Tile], Pixels],
    times: Times,
    tiles: Sequence[Tile],
    cell: int,
    new_canvas: Callable[[], Canvas],
    *,
    prediction: Prediction,
    on_step: OnStep,
    own: Sequence[Tile] | None = None,
    add_up: Callable[[Tensor], Tensor] | None = None,
) -> Canvas:
    """Go through a schedule, the network seeing a tile at a time.

    Args:
        step: of the sampler.
        bind: the network with the condition of a tile, which is given in cells; it is let go after the tile.
        noise: of a draw, for a rectangle of pixels.
        times: falling to 0.
        tiles: of ``cut_tiles``.
        cell: output pixels per side of a latent cell.
        new_canvas: as large as the picture.
        prediction: what the network puts out.
        on_step: as of a sampler; its picture is valid during the call only.
        own: those of the tiles that this process predicts; default all.
        add_up: over all processes, what each has of a blended part; default there is one process.

    Returns:
        The picture, not clamped.
    """
    check_times(times)
    state, output = new_canvas(), new_canvas()
    last = new_canvas() if step is step_multistep else None
    times = times.to(state.device)
    weights = Weights(tiles, cell, state.device)
    pieces = list(cut_pieces(state.height, state.width))
    for piece in pieces:
        state.write(piece.rows, piece.columns, noise(0, piece))
    for i, t in enumerate(times[:-1]):
        output.clear()
        for tile in tiles if own is None else own:
            part = tile.times(cell)
            predicted = bind(tile)(state.read(part.rows, part.columns), t.expand(1))
            output.add(part.rows, part.columns, predicted.float().mul_(weights.of(part)))
            del predicted
        for piece in pieces:
            at = (piece.rows, piece.columns)
            x_t, x0 = step(
                times,
                i,
                state.read(*at),
                output.read(*at) if add_up is None else add_up(output.read(*at).contiguous()),
                _part_of(noise, piece),
                last.read(*at) if last and i else None,
                prediction,
            )
            state.write(*at, x_t)
            output.write(*at, x0)  # in the place of what it came from
            if last:
                last.write(*at, x0)
        on_step(i + 1, len(times) - 1, output.whole())
    return state

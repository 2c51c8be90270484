"""Convolutions over a map beyond memory: layer by layer, in bands of rows, the maps in files.

    norm(x) = x * scale + shift,  both from sums over all bands         conv(band with a row more on either side)

A convolution of 3x3 needs a row more than it makes; a group norm needs sums over the whole map, which come first. So
the numbers are those of the layers on the whole map to rounding, and what is held is a few bands.
Letters: c channels, r rows of a band, R C rows and columns of the map.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.canvas import Canvas
from latpix.network.precision import GroupNorm

BAND = 2**15  # places of a map that are computed at once

Rows = Callable[[int, int], Float[Tensor, "1 c r C"]]  # from a row up to another -> a map there


class Bands:
    """Layers run over a map, band by band."""

    def __init__(
        self, rows: int, columns: int, channels: int, dtype: torch.dtype, folder: Path, device: torch.device
    ) -> None:
        """For maps of ``channels``, in files in ``folder``; what is computed with is on ``device``."""
        self.rows, self.columns, self.channels, self.dtype = rows, columns, channels, dtype
        self.folder, self.device = folder, device
        height = max(1, BAND // columns)
        self.bands = [(top, min(top + height, rows)) for top in range(0, rows, height)]

    def run(self, layer: Rows, *, reach: int, into: Canvas | None = None) -> Canvas:
        """A layer's output, on a new map or on ``into``; it sees ``reach`` rows further."""
        out = into or Canvas(
            self.rows, self.columns, channels=self.channels, dtype=self.dtype, device=self.device, folder=self.folder
        )
        for top, end in self.bands:
            above, below = max(0, top - reach), min(self.rows, end + reach)
            out.write(slice(top, end), slice(None), layer(above, below)[:, :, top - above : end - above])
        return out

    def normed(self, norm: GroupNorm, x: Rows) -> Rows:
        """norm(x)"""
        scale, shift = self._moments(norm, x)
        return lambda top, end: torch.addcmul(shift, x(top, end).float(), scale)

    def _moments(self, norm: GroupNorm, x: Rows) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
        """What a group norm multiplies each channel by, and adds to it."""
        channels = norm.num_channels
        sums = torch.zeros(2, channels, dtype=torch.float64)
        for top, end in self.bands:
            values = x(top, end).float()
            sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))]).double().cpu()
        mean, square = (sums.unflatten(1, (norm.num_groups, -1)).mean(2) / (self.rows * self.columns)).unbind(0)
        deviation = (square - mean.square() + norm.eps).sqrt()
        mean, deviation = (part.repeat_interleave(channels // norm.num_groups) for part in (mean, deviation))
        scale = norm.weight.double().cpu() / deviation
        shift = norm.bias.double().cpu() - mean * scale
        placed = [part.float().to(self.device).view(-1, 1, 1) for part in (scale, shift)]
        return placed[0], placed[1]

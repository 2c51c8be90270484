"""Convolutions over a map beyond memory: layer by layer, in bands of rows, the maps in files.

    norm(x) = (x - mean) * scale + bias,  both of all bands             conv(band with a row more on either side)

A convolution of 3x3 needs a row more than it makes; a group norm needs the whole map's mean and spread, which come
first. So the numbers are those of the layers on the whole map to rounding, and what is held is a few bands.
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
        mean, variance = self._moments(norm.num_groups, x)
        each = norm.num_channels // norm.num_groups
        centre = mean.repeat_interleave(each).view(-1, 1, 1)
        scale = (norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(each)).view(-1, 1, 1)
        bias = norm.bias.view(-1, 1, 1)
        return lambda top, end: torch.addcmul(bias, x(top, end).float() - centre, scale)

    def _moments(self, groups: int, x: Rows) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
        """Mean and variance of each group of channels.

        Each band's are taken about its own mean and merged, as sums of squares would lose the digits of a small spread
        about a large mean. Source: Chan, Golub & LeVeque 1983, eq. 2.1.
        """
        mean, variance = torch.zeros(2, groups, dtype=torch.float64).unbind()
        for top, end in self.bands:
            values = x(top, end).float().unflatten(1, (groups, -1))
            found = torch.var_mean(values, (0, 2, 3, 4), correction=0)
            own_variance, own_mean = (part.double() for part in torch.stack(found).cpu())
            share = (end - top) / end  # of the rows so far
            away = own_mean - mean
            variance = variance + share * (own_variance - variance + (1 - share) * away.square())
            mean = mean + share * away
        return mean.float().to(self.device), variance.float().to(self.device)

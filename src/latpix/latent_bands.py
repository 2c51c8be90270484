"""The latent projection of a picture beyond memory: layer by layer, in bands of rows, its maps in files.

    norm(x) = x * scale + shift,  both from sums over all bands         conv(band with a row more on either side)

A convolution of 3x3 needs a row more than it makes; a group norm needs sums over the whole picture, which come first.
So the numbers are those of ``LatentProjection.project`` to rounding, and what is held is a few bands.
Letters: c channels, g latent width, r rows of a band, R C rows and columns of the patch grid.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.canvas import Canvas
from latpix.network.latent_projection import (
    ConvStack,
    LatentProjection,
    ResidualBlock,
    align_latent,
    fold_to_grid,
    patches_per_cell,
)
from latpix.network.precision import Conv2d, GroupNorm

BAND = 2**15  # patches that are computed at once

Rows = Callable[[int, int], Float[Tensor, "1 c r C"]]  # from a row up to another -> a map there


def project_in_bands(
    projection: LatentProjection,
    latent: Float[Tensor, "1 c h w"],
    native: Rows | None,
    rows: int,
    columns: int,
    folder: Path,
) -> Canvas:
    """What ``projection.project`` makes of a latent, and of a picture at native size where there is one.

    Args:
        projection: of a network whose cells are a whole number of patches.
        latent: of the whole picture.
        native: rows of the picture at native size; it is asked for whole patches.
        rows, columns: of the patch grid.
        folder: for the maps.
    """
    config, fold = projection.config, projection.native_fold
    per_cell, cells = patches_per_cell(config)
    assert cells == 1, "a patch of several cells"
    per_cell *= config.latent_unpatchify
    bands = _Bands(rows, columns, projection, folder, latent.device)

    def aligned(top: int, end: int) -> Float[Tensor, "1 c r C"]:
        first, last = top // per_cell, -(-end // per_cell)
        part = align_latent(latent[:, :, first:last], (last - first) * per_cell, columns, config=config)
        return part[:, :, top - first * per_cell : end - first * per_cell]

    features = bands.stack(projection.latent_stack, aligned)
    if native is None:
        return features

    def folded(top: int, end: int) -> Float[Tensor, "1 c r C"]:
        return fold_to_grid(native(top * fold, end * fold), end - top, columns, fold)

    from_image = bands.stack(projection.image_stack, folded)

    def merged(top: int, end: int) -> Float[Tensor, "1 c r C"]:
        both = [part.read(slice(top, end)) for part in (from_image, features)]
        return F.silu(projection.merge_in(torch.cat(both, dim=1)))

    out = bands.run(merged, reach=0)
    bands.residuals(projection.merge_blocks, out)
    return out


class _Bands:
    """Layers run over a patch grid, band by band."""

    def __init__(
        self, rows: int, columns: int, projection: LatentProjection, folder: Path, device: torch.device
    ) -> None:
        self.rows, self.columns, self.folder, self.device = rows, columns, folder, device
        self.width = projection.config.latent_width
        self.dtype = projection.latent_stack.conv_in.weight.dtype
        height = max(1, BAND // columns)
        self.bands = [(top, min(top + height, rows)) for top in range(0, rows, height)]

    def run(self, layer: Rows, *, reach: int, into: Canvas | None = None) -> Canvas:
        """A layer's output, on a new map or on ``into``; it sees ``reach`` rows further."""
        out = into or Canvas(
            self.rows, self.columns, channels=self.width, dtype=self.dtype, device=self.device, folder=self.folder
        )
        for top, end in self.bands:
            above, below = max(0, top - reach), min(self.rows, end + reach)
            out.write(slice(top, end), slice(None), layer(above, below)[:, :, top - above : end - above])
        return out

    def stack(self, stack: ConvStack, given: Rows) -> Canvas:
        """A whole stack on rows of its input."""
        opened = self.run(lambda top, end: stack.conv_in(given(top, end)), reach=1)
        x = self.run(lambda top, end: stack.conv_mid(F.silu(opened.read(slice(top, end)))), reach=1)
        self.residuals(stack.blocks, x)
        return x

    def residuals(self, blocks: Iterable[nn.Module], x: Canvas) -> None:
        """Residual blocks, in place."""
        for block in blocks:
            assert isinstance(block, ResidualBlock)
            inner = self.run(self._normed(block.norm1, block.conv1, x), reach=1)
            self.run(_added(x, self._normed(block.norm2, block.conv2, inner)), reach=1, into=x)

    def _normed(self, norm: GroupNorm, conv: Conv2d, x: Canvas) -> Rows:
        """conv(silu(norm(x)))"""
        scale, shift = self._moments(norm, x)
        return lambda top, end: conv(F.silu(torch.addcmul(shift, x.read(slice(top, end)).float(), scale)))

    def _moments(self, norm: GroupNorm, x: Canvas) -> tuple[Float[Tensor, "g 1 1"], Float[Tensor, "g 1 1"]]:
        """What a group norm multiplies each channel by, and adds to it."""
        sums = torch.zeros(2, self.width, dtype=torch.float64)
        for top, end in self.bands:
            values = x.read(slice(top, end)).float()
            sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))]).double().cpu()
        mean, square = (sums.unflatten(1, (norm.num_groups, -1)).mean(2) / (self.rows * self.columns)).unbind(0)
        deviation = (square - mean.square() + norm.eps).sqrt()
        mean, deviation = (part.repeat_interleave(self.width // norm.num_groups) for part in (mean, deviation))
        scale = norm.weight.double().cpu() / deviation
        shift = norm.bias.double().cpu() - mean * scale
        scale, shift = (part.float().to(self.device).view(-1, 1, 1) for part in (scale, shift))
        return scale, shift


def _added(x: Canvas, change: Rows) -> Rows:
    return lambda top, end: x.read(slice(top, end)) + change(top, end)

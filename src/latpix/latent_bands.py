"""The latent projection of a picture beyond memory, in bands of rows.

Letters: c latent channels, h w latent cells, g latent width, r rows of a band, C columns of the patch grid.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.bands import Bands, Rows
from latpix.canvas import Canvas
from latpix.network.latent_projection import (
    ConvStack,
    LatentProjection,
    ResidualBlock,
    align_latent,
    fold_to_grid,
    patches_per_cell,
)


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
    dtype = projection.latent_stack.conv_in.weight.dtype
    bands = Bands(rows, columns, config.latent_width, dtype, folder, latent.device)

    def aligned(top: int, end: int) -> Float[Tensor, "1 c r C"]:
        first, last = top // per_cell, -(-end // per_cell)
        part = align_latent(latent[:, :, first:last], (last - first) * per_cell, columns, config=config)
        return part[:, :, top - first * per_cell : end - first * per_cell]

    features = _stack(bands, projection.latent_stack, aligned)
    if native is None:
        return features

    def folded(top: int, end: int) -> Float[Tensor, "1 c r C"]:
        return fold_to_grid(native(top * fold, end * fold), end - top, columns, fold)

    from_image = _stack(bands, projection.image_stack, folded)

    def merged(top: int, end: int) -> Float[Tensor, "1 c r C"]:
        both = [part.read(slice(top, end)) for part in (from_image, features)]
        return F.silu(projection.merge_in(torch.cat(both, dim=1)))

    out = bands.run(merged, reach=0)
    _residuals(bands, projection.merge_blocks, out)
    return out


def _stack(bands: Bands, stack: ConvStack, given: Rows) -> Canvas:
    """A whole stack on rows of its input."""
    opened = bands.run(lambda top, end: stack.conv_in(given(top, end)), reach=1)
    x = bands.run(lambda top, end: stack.conv_mid(F.silu(opened.read(slice(top, end)))), reach=1)
    _residuals(bands, stack.blocks, x)
    return x


def _residuals(bands: Bands, blocks: Iterable[nn.Module], x: Canvas) -> None:
    """Residual blocks, in place."""
    for block in blocks:
        assert isinstance(block, ResidualBlock)
        _residual(bands, block, x)


def _residual(bands: Bands, block: ResidualBlock, x: Canvas) -> None:
    normed = bands.normed(block.norm1, lambda top, end: x.read(slice(top, end)))
    inner = bands.run(lambda top, end: block.conv1(F.silu(normed(top, end))), reach=1)
    again = bands.normed(block.norm2, lambda top, end: inner.read(slice(top, end)))
    bands.run(lambda top, end: x.read(slice(top, end)) + block.conv2(F.silu(again(top, end))), reach=1, into=x)

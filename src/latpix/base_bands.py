"""The base decoder's coarse level of a picture beyond memory, in bands of rows.

Letters: c latent channels, h w latent cells, d width.
"""

from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.bands import Bands
from latpix.canvas import Canvas
from latpix.network.base_decoder import BaseDecoder, Level, WideBlock, modulate


def coarse_in_bands(
    base: BaseDecoder, latent: Float[Tensor, "1 c h w"], latent_sigma: Float[Tensor, "1"], folder: Path
) -> Canvas:
    """What ``base.finish`` makes the picture of: the coarse level's map, in a file in ``folder``."""
    fold, enter, told = base.unpatchify, base.enter, base.tell(latent_sigma)
    height, width = (side * fold for side in latent.shape[2:])
    bands = Bands(height, width, enter.out_channels, enter.weight.dtype, folder, latent.device)

    def entered(top: int, end: int) -> Tensor:
        first, last = top // fold, -(-end // fold)
        unpacked = F.pixel_shuffle(latent[:, :, first:last], fold)
        return modulate(enter(unpacked[:, :, top - first * fold : end - first * fold]), base.modulation(told))

    x = bands.run(entered, reach=1)
    level = base.levels[0]
    assert isinstance(level, Level)
    for block in level:
        assert isinstance(block, WideBlock)
        _wide_block(bands, block, x, told)
    return x


def _wide_block(bands: Bands, block: WideBlock, x: Canvas, told: Tensor) -> None:
    """A block after its side branch, in place."""

    def wide(top: int, end: int) -> Tensor:
        expanded: Tensor = block.expand(x.read(slice(top, end)))
        return expanded

    normed = bands.normed(block.norm, wide)
    bands.run(lambda top, end: x.read(slice(top, end)) + block.contract(F.relu(normed(top, end))), reach=0, into=x)
    inner = bands.run(
        lambda top, end: F.relu(modulate(block.conv1(x.read(slice(top, end))), block.modulation(told))), reach=1
    )
    bands.run(lambda top, end: x.read(slice(top, end)) + block.conv2(inner.read(slice(top, end))), reach=1, into=x)

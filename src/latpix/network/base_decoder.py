"""Base decoder: the picture that a latent alone implies, painted in one pass; the denoiser paints its detail on top.

    latent -> conv -> blocks at 1/8 -> at 1/4 ------> at 1/2 -> at native size -> conv, pixel shuffle -> detail
                                          conv, pixel shuffle -> native picture, enlarged  + detail
    block:  x + conv(relu(conv(x) * (1 + scale) + shift)),    scale, shift = MLP(overview of the latent, latent_sigma)

The overview, mean and deviation of each latent channel over the whole picture, is all that it knows of far away: codecs
whose norms see the whole picture put a part of its colour there. A noised latent is read more carefully than a clean
one, so ``latent_sigma`` enters too. Only the convolutions to pixels are float32: bfloat16 has few steps of grey.
Nothing depends on time: it runs once per decode.

Source: residual blocks, He et al. 2016; sub-pixel convolution, Shi et al. 2016; conditioning, Perez et al. 2018 (FiLM).
Letters: b batch, c latent channels, u unpacked ones, h w latent cells, r rows and q columns inside, d width, H W output
pixels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.config import NetworkConfig
from latpix.network.latent_projection import zero_linear
from latpix.network.precision import Conv2d, Linear

ABOUT_WIDTH = 64  # of what the blocks are told about the whole latent
BAND = 16  # cells of height whose finer levels are painted at once


def overview(latent: Float[Tensor, "b c h w"], unpatchify: int) -> Float[Tensor, "b two_u"]:
    """Mean and deviation of each unpacked channel over the whole picture."""
    values = latent.float().unflatten(1, (-1, unpatchify**2)).flatten(2)  # [b, u, cells]
    return torch.cat([values.mean(2), (values.var(2, correction=0) + 1e-4).sqrt()], dim=1)


def reach_of(config: NetworkConfig) -> int:
    """How far the finer levels see, in latent cells: a convolution of 3x3 adds one place of its level."""
    fold = config.latent_downsample // config.latent_unpatchify // 2  # native pixels per place of the first finer level
    native = 1 + -(-2 // fold)  # its convolution, and the two pixels of bicubic
    places = 1  # around its own that ``detail`` sees
    for level in range(len(config.base_blocks) - 1, 0, -1):
        if level == 1:
            places = max(places, native)
        places = -(-(2 * config.base_blocks[level] + places) // 2)  # of the level before
    return -(-places // config.latent_unpatchify)


class BaseBlock(nn.Module):
    """A residual block that is told about the whole latent; a fresh one is the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(width, width, 3, padding=1)
        self.conv2 = Conv2d(width, width, 3, padding=1)
        self.modulation = zero_linear(ABOUT_WIDTH, 2 * width)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Float[Tensor, "b d r q"], about: Float[Tensor, "b k"]) -> Float[Tensor, "b d r q"]:
        inner = F.relu(modulate(self.conv1(x), self.modulation(about)), inplace=True)
        out: Tensor = x + self.conv2(inner)
        return out


class Level(nn.ModuleList):
    """The blocks of one size."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(BaseBlock(width) for _ in range(count))

    def forward(self, x: Float[Tensor, "b d r q"], about: Float[Tensor, "b k"]) -> Float[Tensor, "b d r q"]:
        for block in self:
            x = block(x, about)
        return x


class BaseDecoder(nn.Module):
    """See above. ``config.base_widths`` and ``base_blocks`` go from 1/8 of the native size to the native size."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.unpatchify, self.scale, widths = config.latent_unpatchify, config.scale, config.base_widths
        unpacked = config.latent_channels // self.unpatchify**2
        cell = config.latent_downsample // self.unpatchify
        assert cell == 2 ** (len(widths) - 1), "the levels do not lead from the latent to the native size"
        self.about = nn.Sequential(Linear(2 * unpacked + 1, ABOUT_WIDTH), nn.ReLU())
        self.enter = Conv2d(unpacked, widths[0], 3, padding=1)
        self.modulation = zero_linear(ABOUT_WIDTH, 2 * widths[0])
        self.levels = nn.ModuleList(
            Level(width, count) for width, count in zip(widths, config.base_blocks, strict=True)
        )
        self.up = nn.ModuleList(Conv2d(coarse, 4 * fine, 1) for coarse, fine in pairwise(widths))
        self.reach = reach_of(config)
        self.fold = cell // 2  # native pixels per side of a place of the level that the native picture leaves from
        self.native = nn.Conv2d(widths[1], 3 * self.fold**2, 3, padding=1)  # float32
        self.detail = nn.Conv2d(widths[-1], 3 * self.scale**2, 3, padding=1)  # float32
        for parameter in self.detail.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        latent: Float[Tensor, "b c h w"],
        latent_sigma: Float[Tensor, " b"],
        seen: Float[Tensor, "b two_u"] | None = None,
    ) -> Float[Tensor, "b 3 H W"]:
        """The picture at output size, float32, about [-1, 1], not clamped.

        Args:
            latent: normalized values.
            latent_sigma: noise level of each.
            seen: the ``overview`` of the whole latent, where this is a crop of one.
        """
        about = self._tell(overview(latent, self.unpatchify) if seen is None else seen, latent_sigma)
        return self._finer(self._coarse(latent, about), about)

    def levels_of(
        self, latent: Float[Tensor, "b c h w"], latent_sigma: Float[Tensor, " b"], seen: Float[Tensor, "b two_u"]
    ) -> tuple[Float[Tensor, "b 3 H W"], list[Float[Tensor, "b _ _ _"]]]:
        """The same, and the features of every level, coarsest first."""
        about = self._tell(seen, latent_sigma)
        levels = [self._coarse(latent, about)]
        return self._finer(levels[0], about, levels), levels

    def paint(self, latent: Float[Tensor, "b c h w"], latent_sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 3 H W"]:
        """The same in less memory: the coarse level at once, the finer ones in bands of rows."""
        about = self._tell(overview(latent, self.unpatchify), latent_sigma)
        coarse, fold = self._coarse(latent, about), self.unpatchify  # a latent cell is ``fold`` coarse rows
        height, bands = latent.shape[2], []
        for top in range(0, height, BAND):
            end = min(top + BAND, height)
            above, below = max(top - self.reach, 0), min(end + self.reach, height)
            painted = self._finer(coarse[:, :, above * fold : below * fold], about)
            cell = painted.shape[2] // (below - above)
            bands.append(painted[:, :, (top - above) * cell : (end - above) * cell])
        return torch.cat(bands, dim=2)

    def _tell(self, seen: Float[Tensor, "b two_u"], latent_sigma: Float[Tensor, " b"]) -> Float[Tensor, "b k"]:
        told: Tensor = self.about(torch.cat([seen, latent_sigma.float()[:, None]], dim=1))
        return told

    def _coarse(self, latent: Float[Tensor, "b c h w"], about: Float[Tensor, "b k"]) -> Float[Tensor, "b d r q"]:
        x = F.pixel_shuffle(latent, self.unpatchify).contiguous(memory_format=torch.channels_last)
        x = modulate(self.enter(x), self.modulation(about))
        coarse: Tensor = self.levels[0](x, about)
        return coarse

    def _finer(
        self, x: Float[Tensor, "b d r q"], about: Float[Tensor, "b k"], levels: list[Tensor] | None = None
    ) -> Float[Tensor, "b 3 H W"]:
        """The picture; the features of the finer levels are put into ``levels``, else kept no longer than needed."""
        plain = None
        for up, level in zip(self.up, self.levels[1:], strict=True):
            x = level(F.pixel_shuffle(up(x), 2).contiguous(memory_format=torch.channels_last), about)
            if levels is not None:
                levels.append(x)
            if plain is None:
                native = F.pixel_shuffle(wide(self.native, x), self.fold)
                plain = F.interpolate(native, scale_factor=self.scale, mode="bicubic")
        assert plain is not None
        return plain + F.pixel_shuffle(wide(self.detail, x), self.scale)


def wide(conv: nn.Conv2d, x: Float[Tensor, "b d r q"]) -> Float[Tensor, "b c r q"]:
    """A convolution in float32, under training's autocast too."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = conv(x.float())
    return out


def modulate(x: Float[Tensor, "b d r q"], told: Float[Tensor, "b two_d"]) -> Float[Tensor, "b d r q"]:
    """x * (1 + scale) + shift, a scale and a shift per channel."""
    scale, shift = told[..., None, None].chunk(2, dim=1)
    return torch.addcmul(shift, x, 1 + scale)

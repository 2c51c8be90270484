"""Base decoder: the picture that a latent alone implies, painted in one pass; the denoiser paints its detail on top.

    latent -> conv -> blocks at 1/8 -> at 1/4 -> at 1/2 -> at native size -> conv -> native picture, enlarged
                                                                          -> conv, pixel shuffle -> + detail
    block:    x + conv(relu(conv(x) * (1 + scale) + shift)),               scale, shift = MLP(latent_sigma)
    at 1/8:   x + contract(relu(norm(expand(x)))) before each block;       the norm is over the whole picture

Codecs whose norms see the whole picture put a part of its colour and contrast there; the norms of the coarsest level
find it again, and the finer levels see no further than their convolutions. A noised latent is read more carefully than
a clean one, so ``latent_sigma`` enters too. The convolutions to pixels are float32, as bfloat16 has few steps of grey,
and so are the norms. Nothing depends on time: it runs once per decode.

Source: residual blocks, He et al. 2016; sub-pixel convolution, Shi et al. 2016; conditioning, Perez et al. 2018 (FiLM);
group norm, Wu & He 2018. Letters: b batch, c latent channels, u unpacked ones, h w latent cells, r rows and q columns
inside, d width, k of what the blocks are told, H W output pixels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.config import NetworkConfig
from latpix.network.latent_projection import zero_linear
from latpix.network.precision import Conv2d, GroupNorm, Linear

TOLD_WIDTH = 64  # of what the blocks are told about latent_sigma
GROUPS, EXPANSION = 4, 4  # of the side branches that see the whole picture
BAND = 16  # cells of height whose finer levels are painted at once


def reach_of(config: NetworkConfig) -> int:
    """How far the finer levels see, in latent cells: a convolution of 3x3 adds one place of its level."""
    places = 3  # of the native size: its convolution, and the two pixels of bicubic
    for blocks in reversed(config.base_blocks[1:]):
        places = -(-(2 * blocks + places) // 2)  # of the level before
    return -(-places // config.latent_unpatchify)


class BaseBlock(nn.Module):
    """A residual block that is told about the latent's noise; a fresh one is the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(width, width, 3, padding=1)
        self.conv2 = Conv2d(width, width, 3, padding=1)
        self.modulation = zero_linear(TOLD_WIDTH, 2 * width)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Float[Tensor, "b d r q"], told: Float[Tensor, "b k"]) -> Float[Tensor, "b d r q"]:
        inner = F.relu(modulate(self.conv1(x), self.modulation(told)), inplace=True)
        out: Tensor = x + self.conv2(inner)
        return out


class WideBlock(BaseBlock):
    """A block after a side branch that sees the whole picture; a fresh one is the identity too."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.expand = Conv2d(width, EXPANSION * width, 1, bias=False)
        self.norm = GroupNorm(GROUPS, EXPANSION * width)
        self.contract = Conv2d(EXPANSION * width, width, 1, bias=False)
        nn.init.zeros_(self.contract.weight)

    def forward(self, x: Float[Tensor, "b d r q"], told: Float[Tensor, "b k"]) -> Float[Tensor, "b d r q"]:
        side: Tensor = self.contract(F.relu(self.norm(self.expand(x))))
        return super().forward(x + side, told)


class Level(nn.ModuleList):
    """The blocks of one size."""

    def forward(self, x: Float[Tensor, "b d r q"], told: Float[Tensor, "b k"]) -> Float[Tensor, "b d r q"]:
        for block in self:
            x = block(x, told)
        return x


class BaseDecoder(nn.Module):
    """See above. ``config.base_widths`` and ``base_blocks`` go from 1/8 of the native size to the native size."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.unpatchify, self.scale, widths = config.latent_unpatchify, config.scale, config.base_widths
        unpacked = config.latent_channels // self.unpatchify**2
        cell = config.latent_downsample // self.unpatchify
        assert cell == 2 ** (len(widths) - 1), "the levels do not lead from the latent to the native size"
        self.told = nn.Sequential(Linear(1, TOLD_WIDTH), nn.ReLU())
        self.enter = Conv2d(unpacked, widths[0], 3, padding=1)
        self.modulation = zero_linear(TOLD_WIDTH, 2 * widths[0])
        self.levels = nn.ModuleList(
            Level((BaseBlock if level else WideBlock)(width) for _ in range(count))
            for level, (width, count) in enumerate(zip(widths, config.base_blocks, strict=True))
        )
        self.up = nn.ModuleList(Conv2d(coarse, 4 * fine, 1) for coarse, fine in pairwise(widths))
        self.reach = reach_of(config)
        self.native = nn.Conv2d(widths[-1], 3, 3, padding=1)  # float32
        self.detail = nn.Conv2d(widths[-1], 3 * self.scale**2, 3, padding=1)  # float32
        for parameter in self.detail.parameters():
            nn.init.zeros_(parameter)

    def forward(self, latent: Float[Tensor, "b c h w"], latent_sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 3 H W"]:
        """The picture at output size, float32, about [-1, 1], not clamped.

        Args:
            latent: normalized values, of a whole picture.
            latent_sigma: noise level of each.
        """
        return self.picture(self.features(latent, latent_sigma, len(self.levels)))

    def features(
        self, latent: Float[Tensor, "b c h w"], latent_sigma: Float[Tensor, " b"], levels: int
    ) -> Float[Tensor, "b d r q"]:
        """What comes out of the first ``levels`` levels."""
        told = self.tell(latent_sigma)
        return self._finer(self._coarse(latent, told), told, levels)

    def native_picture(self, features: Float[Tensor, "b d r q"]) -> Float[Tensor, "b 3 r q"]:
        """The picture at native size, from all levels' features."""
        return wide(self.native, features)

    def picture(self, features: Float[Tensor, "b d r q"]) -> Float[Tensor, "b 3 H W"]:
        """The picture at output size, from all levels' features."""
        plain = F.interpolate(self.native_picture(features), scale_factor=self.scale, mode="bicubic")
        return plain + F.pixel_shuffle(wide(self.detail, features), self.scale)

    def paint(self, latent: Float[Tensor, "b c h w"], latent_sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 3 H W"]:
        """The same in less memory: the coarse level at once, the finer ones in bands of rows."""
        told = self.tell(latent_sigma)
        coarse, fold = self._coarse(latent, told), self.unpatchify  # a latent cell is ``fold`` coarse rows
        height, bands = latent.shape[2], []
        for top in range(0, height, BAND):
            end = min(top + BAND, height)
            above, below = max(top - self.reach, 0), min(end + self.reach, height)
            painted = self.finish(coarse[:, :, above * fold : below * fold], told)
            cell = painted.shape[2] // (below - above)
            bands.append(painted[:, :, (top - above) * cell : (end - above) * cell])
        return torch.cat(bands, dim=2)

    def finish(self, coarse: Float[Tensor, "b d r q"], told: Float[Tensor, "b k"]) -> Float[Tensor, "b 3 H W"]:
        """The picture at output size, from the coarse level of a part; cut ``reach`` cells off where it goes on."""
        return self.picture(self._finer(coarse, told, len(self.levels)))

    def tell(self, latent_sigma: Float[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """What the blocks are told."""
        told: Tensor = self.told(latent_sigma.float()[:, None])
        return told

    def _coarse(self, latent: Float[Tensor, "b c h w"], told: Float[Tensor, "b k"]) -> Float[Tensor, "b d r q"]:
        x = F.pixel_shuffle(latent, self.unpatchify).contiguous(memory_format=torch.channels_last)
        coarse: Tensor = self.levels[0](modulate(self.enter(x), self.modulation(told)), told)
        return coarse

    def _finer(
        self, x: Float[Tensor, "b d r q"], told: Float[Tensor, "b k"], levels: int
    ) -> Float[Tensor, "b d2 r2 q2"]:
        for up, level in zip(self.up[: levels - 1], self.levels[1:levels], strict=True):
            x = level(F.pixel_shuffle(up(x), 2).contiguous(memory_format=torch.channels_last), told)
        return x


def wide(conv: nn.Conv2d, x: Float[Tensor, "b d r q"]) -> Float[Tensor, "b c r q"]:
    """A convolution in float32, under training's autocast too."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = conv(x.float())
    return out


def modulate(x: Float[Tensor, "b d r q"], told: Float[Tensor, "b two_d"]) -> Float[Tensor, "b d r q"]:
    """x * (1 + scale) + shift, a scale and a shift per channel."""
    scale, shift = told[..., None, None].chunk(2, dim=1)
    return torch.addcmul(shift, x, 1 + scale)

"""flux2-lite: a small convolutional codec for the FLUX.2 latent space, trained by us to imitate TAEF2.

    block:    out = x + conv(relu(conv(x)))
    encoder:  unshuffle 4 -> conv -> blocks at 1/4 -> conv, stride 2 -> blocks at 1/8 -> conv -> 32 channels -> patchify
    decoder:  the same way back, pixel shuffles instead of the stride; after its first conv
              x <- x * (1 + scale) + shift,    scale, shift = MLP(mean and deviation of each latent channel)

TAEF2's group norms tie a latent to its whole picture: a decoder without that overview is off by 3 levels in mean colour
(worst 8). No other layer sees further than its kernel, so a picture can be coded in bands (`REACH` cells of overlap)
with the same result.
Patchify: channel c*4 + dy*2 + dx of the 128 comes from row 2i+dy, column 2j+dx of the 32-channel form at 1/8.

Source: pixel shuffle, Shi et al. 2016; residual blocks, He et al. 2016; patchify as FLUX.2. Letters: b batch, H W
pixels, h w cells of 16 pixels, r rows and c columns inside, d width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_CHANNELS = 128
DOWNSAMPLE = 16
UNPATCHIFY = 2
UNPACKED = 32  # channels of the latent at 1/8, before patchify
STEM = 4  # pixels per side that one fine position holds

FINE_WIDTH = 96  # at 1/4
FINE_BLOCKS = 3
COARSE_WIDTH = 128  # at 1/8
OVERVIEW_WIDTH = 48
ENCODER_BLOCKS = 4
DECODER_BLOCKS = 5

REACH = 8  # cells: what lies further away cannot change a cell's latent, or a cell's pixels


class Block(nn.Module):
    """out = x + conv(relu(conv(x))); a fresh block is the identity, so that depth does no harm at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Float[Tensor, "b d r c"]) -> Float[Tensor, "b d r c"]:
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(count)))


class LiteEncoder(nn.Module):
    """Picture in [-1, 1] to the normalised FLUX.2 latent."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3 * STEM**2, FINE_WIDTH, 3, padding=1)
        self.fine = _blocks(FINE_WIDTH, FINE_BLOCKS)
        self.down = nn.Conv2d(FINE_WIDTH, COARSE_WIDTH, 3, stride=2, padding=1)
        self.coarse = _blocks(COARSE_WIDTH, ENCODER_BLOCKS)
        self.leave = nn.Conv2d(COARSE_WIDTH, UNPACKED, 3, padding=1)

    def forward(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 128 h w"]:
        x = F.pixel_unshuffle(pixels, STEM)  # [b, 48, 4h, 4w]
        x = self.fine(self.enter(x))  # [b, d, 4h, 4w]
        x = self.coarse(self.down(x))  # [b, d, 2h, 2w]
        return F.pixel_unshuffle(self.leave(x), UNPATCHIFY)  # [b, 32, 2h, 2w] -> [b, 128, h, w]


def overview(latent: Float[Tensor, "b 128 h w"]) -> Float[Tensor, "b 64"]:
    """Mean and deviation of each unpacked channel over the whole picture."""
    values = latent.float().unflatten(1, (UNPACKED, UNPATCHIFY**2)).flatten(2)  # [b, 32, cells]
    return torch.cat([values.mean(2), (values.var(2, correction=0) + 1e-4).sqrt()], dim=1)


class LiteDecoder(nn.Module):
    """The normalised FLUX.2 latent to a picture at native size, about [-1, 1], not clamped.

    A crop or band of a picture is decoded as in the whole when `seen` is the overview of the whole latent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(UNPACKED, COARSE_WIDTH, 3, padding=1)
        modulation = nn.Linear(OVERVIEW_WIDTH, 2 * COARSE_WIDTH)
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        self.overview = nn.Sequential(nn.Linear(2 * UNPACKED, OVERVIEW_WIDTH), nn.ReLU(), modulation)
        self.coarse = _blocks(COARSE_WIDTH, DECODER_BLOCKS)
        self.up = nn.Conv2d(COARSE_WIDTH, 4 * FINE_WIDTH, 1)
        self.fine = _blocks(FINE_WIDTH, FINE_BLOCKS)
        self.leave = nn.Conv2d(FINE_WIDTH, 3 * STEM**2, 3, padding=1)

    def forward(
        self, latent: Float[Tensor, "b 128 h w"], seen: Float[Tensor, "b 64"] | None = None
    ) -> Float[Tensor, "b 3 H W"]:
        x = self.enter(F.pixel_shuffle(latent, UNPATCHIFY))  # [b, 128, h, w] -> [b, d, 2h, 2w]
        seen = overview(latent) if seen is None else seen
        scale, shift = self.overview(seen)[..., None, None].chunk(2, dim=1)
        x = self.coarse(x * (1 + scale) + shift)  # [b, d, 2h, 2w]
        x = self.fine(F.pixel_shuffle(self.up(x), 2))  # [b, d, 4h, 4w]
        return F.pixel_shuffle(self.leave(x), STEM)  # [b, 48, 4h, 4w] -> [b, 3, H, W]


class Lite(nn.Module):
    """Encoder and decoder as one file holds them: keys `encoder.*` and `decoder.*`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = LiteEncoder()
        self.decoder = LiteDecoder()

    def forward(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        out: Tensor = self.decoder(self.encoder(pixels))
        return out


def parameters(model: nn.Module) -> int:
    """How many numbers the model learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def channels_last(model: nn.Module) -> None:
    """Lay the weights out as CPUs compute these convolutions fastest (measured: 1.1 to 2 times)."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

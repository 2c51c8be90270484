"""TAEF2, the tiny FLUX.2 autoencoder, for training and measuring only; its weights come from a folder given by path.

    block:        out = relu(conv(relu(conv(relu(conv(x))))) + x)
    side branch:  x <- x + expand^-1(relu(groupnorm_4(expand(x))))        first, in the blocks of the deepest level
    decoder in:   tanh(z / 3) * 3

Its group norms see the whole picture: encode whole pictures and crop afterwards. Pictures are in [-1, 1] here ([0, 1]
inside); latents are the normalised FLUX.2 latent in its 128-channel form.

Source: TAEF2, Ollin Boer Bohan (weights: MIT). Letters: b batch, H W pixels, h w cells of 16 pixels, r rows and
c columns inside.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latpix.errors import CheckpointError

WIDTH = 64
PACKED_CHANNELS = 128
CHANNELS = 32  # of the latent before patchify, at 1/8
LEVEL_ENDS = (5, 10, 15)  # the decoder's last blocks at 1/8, 1/4 and 1/2


class Block(nn.Module):
    """Three convolutions and a skip; at the deepest level after a side branch that sees the whole picture."""

    def __init__(self, *, sees_all: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        )  # fmt: skip
        if sees_all:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False), nn.GroupNorm(4, 4 * WIDTH), nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )  # fmt: skip
        self.sees_all = sees_all

    def forward(self, x: Float[Tensor, "b 64 r c"]) -> Float[Tensor, "b 64 r c"]:
        if self.sees_all:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class Squash(nn.Module):
    """tanh(z / 3) * 3: the decoder's guard against latents far out."""

    def forward(self, latent: Float[Tensor, "b 32 r c"]) -> Float[Tensor, "b 32 r c"]:
        return torch.tanh(latent / 3) * 3


def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), Block()]
    for level in range(3):
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False))
        layers.extend(Block(sees_all=level == 2) for _ in range(3))
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, CHANNELS, 3, padding=1))


def _decoder() -> nn.Sequential:
    layers: list[nn.Module] = [Squash(), nn.Conv2d(CHANNELS, WIDTH, 3, padding=1), nn.ReLU()]
    for level in range(3):
        layers.extend(Block(sees_all=level == 0) for _ in range(3))
        layers.extend([nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)])
    return nn.Sequential(*layers, Block(), nn.Conv2d(WIDTH, 3, 3, padding=1))


class Taef2(nn.Module):
    """Both halves; `Taef2()` has random weights, `Taef2.load(folder)` the published ones."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _encoder()
        self.decoder = _decoder()

    @classmethod
    def load(cls, folder: str | Path) -> Taef2:
        """Read taef2_encoder.pth and taef2_decoder.pth (weights-only, float16) from a folder; float32, frozen.

        Raises:
            CheckpointError: a file is missing, or its keys are not TAEF2's.
        """
        model = cls()
        for part, name in ((model.encoder, "taef2_encoder.pth"), (model.decoder, "taef2_decoder.pth")):
            path = Path(folder) / name
            if not path.is_file():
                raise CheckpointError(f"no {name} in {folder}: give the folder that holds TAEF2's two .pth files")
            state = torch.load(path, map_location="cpu", weights_only=True)
            expected = part.state_dict()
            if {key: value.shape for key, value in state.items()} != {k: v.shape for k, v in expected.items()}:
                strange = sorted(state.keys() ^ expected.keys()) or "same keys, other shapes"
                raise CheckpointError(f"{path} is not TAEF2's {name}: {strange}")
            part.load_state_dict({key: value.float() for key, value in state.items()})
        return model.eval().requires_grad_(False)

    def encode(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 128 h w"]:
        """Pictures in [-1, 1], sides multiples of 16, to the normalised latent."""
        return F.pixel_unshuffle(self.encoder(pixels * 0.5 + 0.5), 2)  # [b, 32, 2h, 2w] -> [b, 128, h, w]

    def decode(self, latent: Float[Tensor, "b 128 h w"]) -> Float[Tensor, "b 3 H W"]:
        """The normalised latent to pictures, clamped to [-1, 1]."""
        return self.decode_unclamped(latent).clamp(-1, 1)

    def decode_levels(
        self, latent: Float[Tensor, "b 128 h w"]
    ) -> tuple[Float[Tensor, "b 3 H W"], list[Float[Tensor, "b 64 _ _"]]]:
        """The picture as of ``decode``, and the decoder's features at 1/8, 1/4 and 1/2."""
        x, levels = F.pixel_shuffle(latent, 2), []
        for index, layer in enumerate(self.decoder):
            x = layer(x)
            if index in LEVEL_ENDS:
                levels.append(x)
        return (x * 2 - 1).clamp(-1, 1), levels

    def decode_unclamped(self, latent: Float[Tensor, "b 128 h w"]) -> Float[Tensor, "b 3 H W"]:
        """As `decode`, but with gradients outside [-1, 1] too: the training's loss needs them."""
        pixels: Tensor = self.decoder(F.pixel_shuffle(latent, 2))  # [b, 32, 2h, 2w] -> [b, 3, H, W]
        return pixels * 2 - 1

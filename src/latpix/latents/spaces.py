"""The table of latent spaces: one row each, with all that tells a latent of one from a latent of another.

Sources: the VAEs' published configurations (flux1, sd3, sdxl: scaling and shift; qwen: mean and standard deviation per
channel); FLUX.2's VAE keeps batch statistics in its file; RAE (dinov2) and Scale-RAE (siglip), Zheng et al. 2025.

Letters: b batch, c channels, h and w cells.
"""

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from latpix.errors import LatentError

NoisingRule = Literal["flow", "vp"]


@dataclass(frozen=True, kw_only=True)
class Affine:
    """latent = scale * (raw - shift)."""

    scale: float
    shift: float

    @property
    def raw_std(self) -> float:
        """Of the raw latent, where that of the latent is 1."""
        return 1 / self.scale


@dataclass(frozen=True, kw_only=True)
class PerChannel:
    """latent = (raw - mean[c]) / std[c]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def raw_std(self) -> float:
        """Of the raw latent over all channels, where that of each channel of the latent is 1."""
        count = len(self.mean)
        middle = sum(self.mean) / count
        return math.sqrt(sum(s**2 + (m - middle) ** 2 for m, s in zip(self.mean, self.std, strict=True)) / count)


@dataclass(frozen=True, kw_only=True)
class FromFile:
    """latent = (raw - mean) / sqrt(var + eps), with mean and var read from a file of the space's encoder."""

    eps: float
    mean_key: str
    var_key: str
    file: str  # what to ask people for
    raw_std: None = None  # the file knows


@dataclass(frozen=True, kw_only=True)
class PerToken:
    """latent = (raw - mean over c) / sqrt(variance over c + eps), for each cell by itself; it cannot be undone."""

    eps: float
    raw_std: None = None  # whatever the encoder emits


Normalization = Affine | PerChannel | FromFile | PerToken


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """The latents of one family of encoders."""

    name: str
    channels: int
    downsample: int  # native pixels per side of a cell
    normalization: Normalization
    noising: NoisingRule = "flow"
    patchify: int = 1  # cells of the raw latent per side of a cell
    token_side: int | None = None  # cells per side of a packed token; None where pipelines do not pack
    fixed_size: int | None = None  # cells a side, where the encoder knows no other

    @property
    def raw_channels(self) -> int:
        """Channels of the raw latent."""
        return self.channels // self.patchify**2


_FLUX2 = FromFile(
    eps=1e-4,
    mean_key="bn.running_mean",
    var_key="bn.running_var",
    file="the FLUX.2 VAE, flux2_ae.safetensors or a diffusers folder's vae/diffusion_pytorch_model.safetensors",
)
_QWEN = PerChannel(
    mean=(
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ),
    std=(
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    ),
)  # fmt: skip
_DINOV2 = FromFile(eps=1e-5, mean_key="mean", var_key="var", file="the statistics of RAE's DINOv2 encoder, stat.pt")

_ROWS = (
    LatentSpace(
        name="flux1", channels=16, downsample=8, normalization=Affine(scale=0.3611, shift=0.1159), token_side=2
    ),
    LatentSpace(name="sd3", channels=16, downsample=8, normalization=Affine(scale=1.5305, shift=0.0609)),
    LatentSpace(name="sdxl", channels=4, downsample=8, normalization=Affine(scale=0.13025, shift=0.0), noising="vp"),
    LatentSpace(name="qwen", channels=16, downsample=8, normalization=_QWEN, token_side=2),
    LatentSpace(name="flux2", channels=128, downsample=16, normalization=_FLUX2, patchify=2, token_side=1),
    LatentSpace(name="dinov2", channels=768, downsample=16, normalization=_DINOV2, fixed_size=32),
    LatentSpace(name="siglip", channels=1152, downsample=16, normalization=PerToken(eps=1e-6), fixed_size=16),
)
LATENT_SPACES = {row.name: row for row in _ROWS}


def find_space(name: str) -> LatentSpace:
    """The row of a space.

    Raises:
        LatentError: no space has that name.
    """
    if name in LATENT_SPACES:
        return LATENT_SPACES[name]
    near = get_close_matches(name, LATENT_SPACES, n=1)
    meant = f' Did you mean "{near[0]}"?' if near else ""
    raise LatentError(f'no latent space is called "{name}"; there are {", ".join(LATENT_SPACES)}.{meant}')

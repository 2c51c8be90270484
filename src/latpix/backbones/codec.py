"""Codec: picture to FLUX.2 latent and back, at native size, with flux2-lite's weights.

    encode:  pixels [b,3,H,W] -> edge-padded to multiples of 16 -> normalised latent [b,128,ceil(H/16),ceil(W/16)]
    decode:  latent [b,128,h,w] -> pixels [b,3,16h,16w], clamped to [-1, 1]

Both run in bands of rows where a picture is large: the network is convolutional, but for the decoder's overview, which
is taken of the whole latent first. So the result is the same and the memory is bounded.
Letters: b batch, H W pixels, h w cells of 16 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latpix import resources
from latpix.backbones.lite import DOWNSAMPLE, LATENT_CHANNELS, REACH, Lite, overview
from latpix.backbones.lite_file import NAME, load_lite
from latpix.devices import pick_device, pick_dtype
from latpix.errors import CheckpointError, LatentError, PictureError

BAND = 64  # cells of height that are computed at once: 1024 rows of pixels


class Codec:
    """flux2-lite, loaded once. Records no gradients.

    Attributes:
        space: the latent space's name, "flux2".
        sha256: of the weights.
        device, dtype: where and in which precision it computes; pictures and latents are float32 outside.
    """

    space = "flux2"
    downsample = DOWNSAMPLE
    native_side = None  # it takes pictures of all sizes

    def __init__(self, model: Lite, sha256: str, device: torch.device, dtype: torch.dtype) -> None:
        self.sha256 = sha256
        self.device = device
        self.dtype = dtype
        self._model = model.to(device)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = NAME,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> Self:
        """Load the shipped codec by its name, or a codec file by its path.

        Args:
            name_or_path: "flux2-lite", or a .safetensors file of the training recipe.
            device: "auto" (an accelerator where there is one), or a torch device.
            dtype: "auto" (bfloat16 on accelerators and on CPUs with bf16 units, else float32), or its name.

        Raises:
            CheckpointError: no such codec, or a file that is none.
            OptionError: no such device or dtype.
        """
        if name_or_path == NAME:
            path = resources.weight(NAME)
        elif Path(name_or_path).suffix == ".safetensors":
            path = Path(name_or_path)
        else:
            raise CheckpointError(f'no codec "{name_or_path}": give "{NAME}", or a .safetensors file')
        where = pick_device(device)
        model, sha256 = load_lite(path)
        return cls(model, sha256, where, pick_dtype(dtype, where))

    def encode(self, pixels: Tensor) -> Float[Tensor, "b 128 h w"]:
        """Pictures in [-1, 1] to normalised latents; sides that are no multiples of 16 are padded with their edge.

        Raises:
            PictureError: not [b, 3, H, W], or a side below 16 pixels.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise PictureError(f"the picture is {list(pixels.shape)}, expected [b, 3, H, W]: RGB, values in [-1, 1]")
        height, width = pixels.shape[-2:]
        if min(height, width) < DOWNSAMPLE:
            raise PictureError(f"the picture is {width}x{height}; a side must have at least {DOWNSAMPLE} pixels")
        padded = F.pad(pixels.float(), (0, -width % DOWNSAMPLE, 0, -height % DOWNSAMPLE), mode="replicate")
        return self._in_bands(self._model.encoder, padded, rows_in=DOWNSAMPLE, rows_out=1)

    def decode(self, latent: Tensor, *, seen: Tensor | None = None) -> Float[Tensor, "b 3 H W"]:
        """Normalised latents to pictures at native size, in [-1, 1].

        Args:
            latent: of the codec's space.
            seen: the ``overview`` of the whole latent, where this is a crop of one.

        Raises:
            LatentError: not [b, 128, h, w].
        """
        if latent.ndim != 4 or latent.shape[1] != LATENT_CHANNELS:
            raise LatentError(
                f'the latent is {list(latent.shape)}; the codec "{NAME}" reads [b, {LATENT_CHANNELS}, h, w] of space '
                f'"{self.space}"'
            )
        whole = (overview(latent.detach()) if seen is None else seen).to(self.device)

        def decoder(band: Tensor) -> Tensor:
            out: Tensor = self._model.decoder(band, whole)
            return out

        return self._in_bands(decoder, latent.float(), rows_in=1, rows_out=DOWNSAMPLE).clamp(-1, 1)

    def _in_bands(self, half: Callable[[Tensor], Tensor], whole: Tensor, *, rows_in: int, rows_out: int) -> Tensor:
        """Run one half of the network on bands of rows, each with `REACH` cells of its neighbours, and join them."""
        cells = whole.shape[-2] // rows_in
        bands = []
        for top in range(0, cells, BAND):
            end = min(top + BAND, cells)
            above, below = max(top - REACH, 0), min(end + REACH, cells)
            band = whole[:, :, above * rows_in : below * rows_in].to(self.device)
            out = self._compute(half, band)
            bands.append(out[:, :, (top - above) * rows_out : (end - above) * rows_out].to(whole.device))
        return torch.cat(bands, dim=2)

    @torch.no_grad()
    def _compute(self, half: Callable[[Tensor], Tensor], band: Tensor) -> Tensor:
        band = band.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return half(band).float()

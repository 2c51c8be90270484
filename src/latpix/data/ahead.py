"""Latents made ahead: of a sample's picture in its bucket, reduced as the decoder will enlarge it.

    picture [3, H, W] -> fit to its bucket -> reduced ``scale`` times -> codec -> latent [c, H / cell, W / cell]

in float16, clean (latent_sigma 0; training noises it). A mirrored picture has another latent than its latent mirrored,
so one of that is made too where training is to mirror.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import safetensors.torch
import torch
from jaxtyping import Float16
from safetensors import SafetensorError
from torch import Tensor

from latpix.data.pictures import Levels, reduced, to_pixels
from latpix.data.shards import LatentFacts
from latpix.errors import DataError, OptionError

Latent = Float16[Tensor, "c h w"]


@runtime_checkable
class Codec(Protocol):
    """What encodes: any of ``backbones.encode.load_codec``."""

    space: str
    downsample: int

    @property
    def native_side(self) -> int | None:
        """Pixels a side of all its pictures, where it knows no other size."""

    @property
    def sha256(self) -> str:
        """Of what encodes."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures [b,3,H,W] in [-1, 1] to normalised latents [b,c,h,w], float32."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Which latents to make ahead."""

    codec: Codec
    scale: int = 4
    mirrored: bool = False

    @property
    def facts(self) -> LatentFacts:
        """As samples tell it.

        Raises:
            OptionError: the codec squeezes every picture into a square, so that its latents fit no crop.
        """
        codec = self.codec
        if codec.native_side is not None:
            raise OptionError(
                f'space "{codec.space}" knows squares of {codec.native_side} pixels only, and buckets have other '
                "shapes; pack without --encode and let training encode."
            )
        return LatentFacts(
            space=codec.space,
            scale=self.scale,
            downsample=codec.downsample,
            codec_sha256=codec.sha256,
            mirrored=self.mirrored,
        )

    def encode(self, levels: Levels) -> bytes:
        """The latents of a picture that fits its bucket, as the bytes of a safetensors file."""
        latents = {"latent": self._one(levels)}
        if self.mirrored:
            latents["mirrored"] = self._one(levels.flip(-1))
        return safetensors.torch.save(latents)

    @torch.no_grad()
    def _one(self, levels: Levels) -> Latent:
        native = reduced(to_pixels(levels)[None].to(self.codec.device), self.scale)
        latent = self.codec.encode(native)[0].half().cpu().contiguous()
        if not latent.isfinite().all():
            raise DataError(f"the codec of space {self.codec.space} gave values that are no numbers in float16.")
        return latent


def decode_latents(data: bytes, facts: LatentFacts, name: str) -> dict[str, Latent]:
    """``latent`` and maybe ``mirrored``.

    Raises:
        DataError: the bytes are something else.
    """
    expected = {"latent", "mirrored"} if facts.mirrored else {"latent"}
    try:
        found = safetensors.torch.load(data)
    except SafetensorError as error:
        raise DataError(f"the latents of {name} are damaged: {error}.") from error
    if found.keys() != expected or any(one.dtype != torch.float16 or one.ndim != 3 for one in found.values()):
        raise DataError(
            f"the latents of {name} are {', '.join(found)}; expected {', '.join(sorted(expected))}, float16."
        )
    return found

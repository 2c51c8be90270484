"""Vae: pictures to latents and back with a VAE of diffusers.

    encode:  pixels [b,3,H,W] -> edge-padded to whole cells -> mean of the posterior -> normalised latent [b,c,h,w]
    decode:  latent [b,c,h,w] -> raw latent -> pixels [b,3,H,W], clamped to [-1, 1]

The numbers of the normalization are the module's own: scaling and shift, mean and deviation per channel, or the batch
statistics in its buffers. The module computes in its own type; between float32 values and it there is one rounding.
Letters: b batch, c channels, H W pixels, h w cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latpix.backbones.registry import encoder_of
from latpix.devices import parse_bytes
from latpix.errors import CheckpointError, LatentError, PictureError
from latpix.files.digest import digest
from latpix.latents.normalize import Statistics, denormalize, normalize
from latpix.latents.spaces import LATENT_SPACES, Affine, FromFile, LatentSpace, PerChannel, PerToken, find_space

LEAST_SIDE = 16  # pixels
PROCESS_BYTES = 500 * 2**20  # of an interpreter with torch and diffusers loaded, on a CPU
# The widest moment of a whole picture, in maps of the first level's width at full size; measured at 512 pixels.
MAPS = {"AutoencoderKL": (5, 9), "AutoencoderKLFlux2": (5, 9), "AutoencoderKLQwenImage": (14, 25)}  # encode, decode


class Vae:
    """A VAE of diffusers and the latent space of its latents. Records no gradients.

    Attributes:
        module: the VAE, on its device and in its type; pictures and latents are float32 outside.
        space: the latent space's name.
        downsample: pixels per side of a cell.
        native_side: None: it takes pictures of all sizes.
    """

    native_side = None

    def __init__(self, module: nn.Module, space: LatentSpace, *, memory_limit: str | int | None = None) -> None:
        self.module: Any = module
        self.space = space.name
        self.downsample = space.downsample
        self._row = space
        self._limit = None if memory_limit is None else parse_bytes(memory_limit)

    @classmethod
    def of(cls, module: nn.Module, space: str, *, memory_limit: str | int | None = None) -> Self:
        """Wrap a VAE that is loaded, such as a pipeline's ``vae``.

        Args:
            module: of the class that the space's backbones have; it stays as it is.
            space: of its latents.
            memory_limit: such as "6GiB"; a picture that would need more is cut into tiles, as diffusers does it.

        Raises:
            CheckpointError: the module is another class, or its configuration is another space's.
        """
        row = find_space(space)
        _check(module, row)
        return cls(module, row, memory_limit=memory_limit)

    @property
    def device(self) -> torch.device:
        """Where it computes: of a module that a pipeline offloads, where it is brought when it is called."""
        brought = getattr(getattr(self.module, "_hf_hook", None), "execution_device", None)
        return torch.device(next(self.module.parameters()).device if brought is None else brought)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        dtype: torch.dtype = next(self.module.parameters()).dtype
        return dtype

    @cached_property
    def sha256(self) -> str:
        """Of the weights, in the type they are in; taken when it is first asked for."""
        return digest(self.module.state_dict())

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Float[Tensor, "b c h w"]:
        """Pictures in [-1, 1] to normalised latents; sides that are no whole cells are padded with their edge.

        Raises:
            PictureError: not [b, 3, H, W], or a side below 16 pixels.
        """
        check_pixels(pixels)
        height, width = pixels.shape[-2:]
        padded = F.pad(pixels.float(), (0, -width % self.downsample, 0, -height % self.downsample), mode="replicate")
        with self._tiles(*padded.shape[-2:], decodes=False):
            # One at a time: a picture's bits do not depend on its neighbours.
            posteriors = [self.module.encode(self._in(one), return_dict=False)[0] for one in padded.split(1)]
        raw = torch.cat([self._out(posterior.mode()) for posterior in posteriors])
        return normalize_with(raw, self.module, self._row).to(pixels.device)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Float[Tensor, "b 3 H W"]:
        """Normalised latents to pictures at native size, in [-1, 1].

        Raises:
            LatentError: not [b, c, h, w] of the space.
        """
        raw = denormalize_with(latent.float(), self.module, self._row)
        height, width = (side * self.downsample for side in latent.shape[-2:])
        with self._tiles(height, width, decodes=True):
            decoded = [self.module.decode(self._in(one), return_dict=False)[0] for one in raw.split(1)]
        return torch.cat([self._out(one) for one in decoded]).clamp(-1, 1).to(latent.device)

    def tiles(self, height: int, width: int, *, decodes: bool = False) -> bool:
        """Whether a picture of that size is cut into tiles, which changes it a little."""
        return self._limit is not None and self.peak_bytes(height, width, decodes=decodes) > self._limit

    def peak_bytes(self, height: int, width: int, *, decodes: bool = False) -> int:
        """About how much memory a whole picture takes: on a CPU of the process, else of the allocator."""
        height, width = (side + -side % self.downsample for side in (height, width))
        weights = sum(tensor.numel() * tensor.element_size() for tensor in self.module.state_dict().values())
        config = self.module.config
        narrow = config.get("base_dim") or config.get("block_out_channels")[0]
        maps = MAPS[_class_of(self.module)][decodes]
        process = PROCESS_BYTES if self.device.type == "cpu" else 0
        return int(weights + process + maps * narrow * height * width * self.dtype.itemsize)

    @contextmanager
    def _tiles(self, height: int, width: int, *, decodes: bool) -> Iterator[None]:
        """Cut into tiles within, if the memory limit asks for it; afterwards the module is as it was."""
        if self.module.use_tiling or not self.tiles(height, width, decodes=decodes):
            yield
            return
        self.module.enable_tiling()
        try:
            yield
        finally:
            self.module.disable_tiling()

    def _in(self, one: Float[Tensor, "1 c h w"]) -> Tensor:
        """As the module reads it: on its device, in its type, Qwen's with a frame axis."""
        moved = one.to(self.device, self.dtype)
        return moved.unsqueeze(2) if isinstance(self._row.normalization, PerChannel) else moved

    def _out(self, one: Tensor) -> Float[Tensor, "1 c h w"]:
        return (one.squeeze(2) if one.ndim == 5 else one).float()


def normalize_with(raw: Tensor, module: nn.Module, space: LatentSpace) -> Float[Tensor, "b c h w"]:
    """A raw latent of a diffusers VAE as a latent of its space, with the numbers of the VAE's configuration or buffers.

    Raises:
        LatentError: not a raw latent of the space.
    """
    return normalize(raw, *_numbers_of(module, space))


def denormalize_with(latent: Tensor, module: nn.Module, space: LatentSpace) -> Float[Tensor, "b c h w"]:
    """The inverse of ``normalize_with``: what the VAE decodes.

    Raises:
        LatentError: not a latent of the space.
    """
    return denormalize(latent, *_numbers_of(module, space))


def check_pixels(pixels: Tensor) -> None:
    """Refuse what is no batch of pictures.

    Raises:
        PictureError: not [b, 3, H, W], or a side below 16 pixels.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise PictureError(f"the picture is {list(pixels.shape)}, expected [b, 3, H, W]: RGB, values in [-1, 1]")
    height, width = pixels.shape[-2:]
    if min(height, width) < LEAST_SIDE:
        raise PictureError(f"the picture is {width}x{height}; a side must have at least {LEAST_SIDE} pixels")


def _numbers_of(module: Any, space: LatentSpace) -> tuple[LatentSpace, Statistics | None]:
    """The space with this module's own numbers in place of the published ones."""
    config = module.config
    match space.normalization:
        case Affine():
            own = Affine(scale=config["scaling_factor"], shift=config.get("shift_factor") or 0.0)
            return replace(space, normalization=own), None
        case PerChannel():
            means = PerChannel(mean=tuple(config["latents_mean"]), std=tuple(config["latents_std"]))
            return replace(space, normalization=means), None
        case FromFile() as rule:
            statistics = Statistics(module.bn.running_mean.float(), module.bn.running_var.float())
            return replace(space, normalization=replace(rule, eps=config["batch_norm_eps"])), statistics
        case PerToken():
            raise LatentError(f'latents of space "{space.name}" are not made by a VAE.')


def _check(module: Any, space: LatentSpace) -> None:
    """The module is what encodes pictures to the space, as far as its class and configuration tell.

    Raises:
        CheckpointError: it is not.
    """
    expected, found = encoder_of(space.name).class_name, _class_of(module)
    if found != expected:
        raise CheckpointError(
            f'pictures become latents of space "{space.name}" by {expected}, but this is {type(module).__name__}.'
        )
    config = module.config
    channels, scale = config.get("latent_channels", config.get("z_dim")), config.get("scaling_factor")
    if channels != space.raw_channels:
        raise CheckpointError(
            f'the VAE has {channels} latent channels, but raw latents of space "{space.name}" have '
            f"{space.raw_channels}.{_owners(channels)}"
        )
    rule = space.normalization
    twins = {
        other.normalization.scale: other.name
        for other in LATENT_SPACES.values()
        if isinstance(other.normalization, Affine) and other.raw_channels == channels
    }
    if isinstance(rule, Affine) and scale != rule.scale and scale in twins:
        raise CheckpointError(
            f'the VAE scales its latents by {scale}, as space "{twins[scale]}" does; those of space "{space.name}" are '
            f"scaled by {rule.scale}. Give the VAE of the space that you mean."
        )


def _class_of(module: nn.Module) -> str:
    """The class of diffusers that it is, or derives from."""
    return next((base.__name__ for base in type(module).__mro__ if base.__name__ in MAPS), type(module).__name__)


def _owners(channels: int) -> str:
    owners = [f'"{space.name}"' for space in LATENT_SPACES.values() if space.raw_channels == channels]
    return f" {channels} is what {', '.join(owners)} has." if owners else ""

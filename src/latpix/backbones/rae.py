"""RAE: pictures to the states of a vision encoder and back, for the spaces dinov2 and siglip.

    encode:  pixels -> resized to the encoder's square -> states before its last norm -> [layer norm] -> grid -> latent
    decode:  latent -> states -> RaeDecoder -> colours -> (siglip: enlarged 7 to 8) -> pixels, clamped to [-1, 1]

The encoder sees pictures of one size only: others are stretched to its square, and come back as one.
Source: RAE (dinov2) and Scale-RAE (siglip), Zheng et al. 2025. Letters: b batch, n tokens, c channels of a state, g
cells a side, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latpix.backbones.rae_decoder import RaeDecoder
from latpix.backbones.vae import check_pixels
from latpix.errors import LatentError, ScheduleError
from latpix.files.digest import digest
from latpix.files.latent_files import Latent
from latpix.latents.check import check_latent
from latpix.latents.normalize import Statistics, denormalize, normalize
from latpix.latents.spaces import LatentSpace, find_space

NORM_EPS = 1e-6  # of the norm that replaces the encoder's last one
SHIFT_BASE, SHORTEST = 4096, 0.999  # of the time points of RAE's generator


@dataclass(frozen=True, kw_only=True)
class Vision:
    """What a kind of encoder wants to see, and how its states are read."""

    mean: tuple[float, float, float]  # of the colours, in [0, 1]
    std: tuple[float, float, float]
    antialias: bool  # in the resize of its pictures; what it was trained with
    last_norm: str  # the module that is left out
    normed: bool  # states are normed before the statistics, without weight and bias
    enlarge: tuple[int, int] = (1, 1)  # native side to the decoder's


VISIONS = {
    "dinov2": Vision(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), antialias=False, last_norm="layernorm", normed=True
    ),
    "siglip": Vision(
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), antialias=True, last_norm="post_layernorm", normed=False,
        enlarge=(8, 7),
    ),
}  # fmt: skip


class Rae:
    """A vision encoder, and the decoder of its states, which is opened when it is first needed. Records no gradients.

    Attributes:
        space: the latent space's name.
        downsample: pixels per side of a cell.
        native_side: pixels a side of what it decodes, and of what it takes every picture for.
    """

    def __init__(
        self,
        encoder: nn.Module,
        space: LatentSpace,
        *,
        statistics: Statistics | None = None,
        open_decoder: Callable[[], RaeDecoder],
    ) -> None:
        """Wrap an encoder of transformers, whose last norm is taken out.

        Args:
            encoder: Dinov2WithRegistersModel or SiglipVisionModel.
            space: of its states; ``fixed_size`` must be its grid.
            statistics: of dinov2's states.
            open_decoder: gives the decoder; it moves to the encoder's device and type.
        """
        assert space.fixed_size is not None
        self.space = space.name
        self.downsample = space.downsample
        self.native_side = space.fixed_size * space.downsample
        self._row, self._statistics, self._open_decoder = space, statistics, open_decoder
        self._vision = VISIONS[space.name]
        self._encoder: Any = encoder.eval().requires_grad_(False)
        setattr(encoder, self._vision.last_norm, nn.Identity())
        if hasattr(encoder, "use_head"):  # what pools SigLIP's states into one
            encoder.use_head, encoder.head = False, None  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = next(self._encoder.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        dtype: torch.dtype = next(self._encoder.parameters()).dtype
        return dtype

    @cached_property
    def sha256(self) -> str:
        """Of the encoder's weights and the statistics; taken when it is first asked for."""
        numbers = (
            {} if self._statistics is None else {"stat.mean": self._statistics.mean, "stat.var": self._statistics.var}
        )
        return digest({**self._encoder.state_dict(), **numbers})

    @property
    def input_side(self) -> int:
        """Pixels a side of what the encoder sees."""
        assert self._row.fixed_size is not None
        return self._row.fixed_size * int(self._encoder.config.patch_size)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Float[Tensor, "b c g g"]:
        """Pictures in [-1, 1], of any size, to normalised latents.

        Raises:
            PictureError: not [b, 3, H, W], or a side below 16 pixels.
        """
        check_pixels(pixels)
        given = encoder_input(pixels.float(), self.input_side, self._vision).to(self.device, self.dtype)
        # One at a time: a picture's bits do not depend on its neighbours.
        states = torch.cat([self._encoder(pixel_values=one).last_hidden_state.float() for one in given.split(1)])
        states = states[:, self._leading :]
        if self._vision.normed:
            states = F.layer_norm(states, states.shape[2:], eps=NORM_EPS)
        return normalize(on_grid(states), self._row, self._statistics).to(pixels.device)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Float[Tensor, "b 3 H W"]:
        """Normalised latents to pictures of ``native_side``, in [-1, 1].

        Raises:
            LatentError: not a latent of the space.
            CheckpointError, DownloadError: the decoder cannot be had.
        """
        raw = denormalize(latent.float(), self._row, self._statistics).to(self.device, self.dtype)
        patches = [self._decoder.picture(self._decoder(as_tokens(one))) for one in raw.split(1)]
        return colours(torch.cat(patches).float(), self._vision).to(latent.device)

    @property
    def _leading(self) -> int:
        """Tokens that are no cell: a class token and registers."""
        registers = getattr(self._encoder.config, "num_register_tokens", None)
        return 0 if registers is None else 1 + int(registers)

    @cached_property
    def _decoder(self) -> RaeDecoder:
        return self._open_decoder().to(self.device, self.dtype)


def encoder_input(pixels: Float[Tensor, "b 3 H W"], side: int, vision: Vision) -> Float[Tensor, "b 3 {side} {side}"]:
    """Pictures in [-1, 1] as an encoder sees them: a square of its size, in its colours."""
    values = (pixels + 1) / 2
    if tuple(pixels.shape[2:]) != (side, side):
        values = F.interpolate(values, size=(side, side), mode="bicubic", antialias=vision.antialias)
    return (values - _colour(vision.mean, values)) / _colour(vision.std, values)


def colours(patches: Float[Tensor, "b 3 g g"], vision: Vision) -> Float[Tensor, "b 3 H W"]:
    """A decoder's values as pixels in [-1, 1], at native size."""
    values = (patches * _colour(vision.std, patches) + _colour(vision.mean, patches)).clamp(0, 1)
    native, own = vision.enlarge
    if native != own:
        side = values.shape[-1] * native // own
        values = F.interpolate(values, size=(side, side), mode="bicubic").clamp(0, 1)
    return 2 * values - 1


def on_grid(tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b c g g"]:
    """A square picture's row-major tokens as cells."""
    side = math.isqrt(tokens.shape[1])
    cells: Tensor = tokens.transpose(1, 2).unflatten(2, (side, side))
    return cells


def as_tokens(cells: Float[Tensor, "b c g g"]) -> Float[Tensor, "b n c"]:
    """The inverse of ``on_grid``."""
    return cells.flatten(2).transpose(1, 2)


def latent_of_rae_state(state: Tensor, t: float, *, space: str = "dinov2", **story: Any) -> Latent:
    """A state of a RAE's generator as a latent, to be saved or decoded.

    Args:
        state: ``[b, c, g, g]``, or tokens ``[b, n, c]``; of RAE as its generator samples it, of Scale-RAE as its
            decoder takes it.
        t: its place on the way from noise (1) to picture (0): ``state = (1 - t) * clean + t * noise``. The last one of
            RAE's generator is at 0.0137, not at 0; see ``rae_times``.
        space: "dinov2" for RAE, "siglip" for Scale-RAE.
        story: further fields of the Latent, such as ``caption``, ``seed`` and ``source``.

    Raises:
        LatentError: not a latent of the space.
    """
    row = find_space(space)
    if row.fixed_size is None:
        raise LatentError(f'latents of space "{space}" come from no RAE; expected dinov2 or siglip.')
    if state.ndim == 3 and math.isqrt(state.shape[1]) ** 2 == state.shape[1]:
        state = on_grid(state)
    check_latent(state, space)
    return Latent(tensor=state.float(), space=space, latent_sigma=float(t), **story)


def rae_times(steps: int, *, values: int = 768 * 32 * 32) -> tuple[float, ...]:
    """The time points of RAE's generator: state k of its ``steps + 1`` is at ``rae_times(steps)[k]``.

    Args:
        steps: of its Euler solver; 50 by default there.
        values: numbers in a state.

    Raises:
        ScheduleError: no step.

    Source: t = k u / (1 + (k - 1) u) with k = sqrt(values / 4096), Esser et al. 2024, section 5.3.2; u falls from 1.
    """
    if steps < 1:
        raise ScheduleError(f"steps is {steps}; a schedule has at least one.")
    shift = math.sqrt(values / SHIFT_BASE)
    falling = [1 - SHORTEST * step / steps for step in range(steps + 1)]
    return tuple(shift * u / (1 + (shift - 1) * u) for u in falling)


def _colour(values: tuple[float, float, float], like: Tensor) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]

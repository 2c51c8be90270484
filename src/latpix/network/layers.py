"""Small parts that several blocks share: feed-forwards, time and pixel-position embeddings.

Letters: b batch, n tokens, d width, e pixel width.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.precision import Linear, RMSNorm

TIMESTEP_SCALE = 1000.0  # the embedding is fed timestep = 1000 t
TIMESTEP_WIDTH = 256
TIMESTEP_MAX_PERIOD = 10.0  # not the usual 10000
LEAST_KEPT = 4096  # pixels of a side whose positions are kept


def _frequencies() -> list[float]:
    """exp(-i ln P / n), float32, of a timestep's n waves.

    The last bit of a float32 exp differs between processors, and of timestep 1000 it moves a wave by 6e-5. So it is
    exp in double, rounded once; but where the value lies within 0.03 units of the tie, at i = 48, as upstream has it.
    """
    half = TIMESTEP_WIDTH // 2
    exponent = np.float32(-math.log(TIMESTEP_MAX_PERIOD)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    frequencies[48] = np.nextafter(frequencies[48], np.float32(1))
    return [float(frequency) for frequency in frequencies]


FREQUENCIES = _frequencies()


def timestep_waves(timestep: Float[Tensor, " b"]) -> Float[Tensor, "b 256"]:
    """Sinusoids of a timestep in [0, 1000], cosines first, always float32."""
    angle = timestep.float()[:, None] * torch.tensor(FREQUENCIES, device=timestep.device)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Timestep -> vector:  down(silu(up(waves))).

    Source: Peebles & Xie 2023, with a maximum period of 10.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = Linear(TIMESTEP_WIDTH, width)
        self.down = Linear(width, width)
        nn.init.normal_(self.up.weight, std=0.02)
        nn.init.normal_(self.down.weight, std=0.02)

    def forward(self, timestep: Float[Tensor, " b"]) -> Float[Tensor, "b 1 d"]:
        return self.down(F.silu(self.up(timestep_waves(timestep)))).unsqueeze(1)


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), no biases. Source: Shazeer 2020, eq. 6."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden, bias=False)
        self.up = Linear(width, hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        gate = self.gate(x)
        if torch.is_grad_enabled():
            return self.down(F.silu(gate) * self.up(x))
        return self.down(F.silu(gate, inplace=True).mul_(self.up(x)))


class MLP(nn.Module):
    """down(gelu(up x)) with the exact GELU, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = Linear(width, 4 * width)
        self.down = Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return self.down(F.gelu(self.up(x)))


class CaptionEmbedding(nn.Module):
    """Caption states -> tokens:  norm(proj(states)) + positions. Longer captions are cut; shorter use fewer
    positions."""

    def __init__(self, caption_width: int, width: int, length: int) -> None:
        super().__init__()
        self.proj = Linear(caption_width, width)
        self.norm = RMSNorm(width)
        self.positions = nn.Parameter(torch.randn(1, length, width))

    def forward(self, states: Float[Tensor, "b l c"]) -> Float[Tensor, "b l2 d"]:
        states = states[:, : self.positions.shape[1]]
        return self.norm(self.proj(states)) + self.positions[:, : states.shape[1]]


def pixel_positions(
    count: int, pixel_width: int, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Float[Tensor, "count half"]:
    """One axis of the fixed pixel-position table: [sin, cos] of the absolute pixel index, never rescaled.

    The table of a picture is ``[columns' part | rows' part]``, half the pixel width each; it is separable, so it is
    never built whole. Computed in float64 on the CPU, then cast: not every device has float64.
    """
    quarter = pixel_width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype).to(device)


def positions_of(start: int, stop: int, pixel_width: int, *, device: torch.device | None) -> Float[Tensor, "m half"]:
    """The pixels ``start`` to ``stop`` of ``pixel_positions``, from a table that is kept."""
    return _kept_positions(max(LEAST_KEPT, 1 << (stop - 1).bit_length()), pixel_width, device)[start:stop]


@lru_cache(8)
def _kept_positions(count: int, pixel_width: int, device: torch.device | None) -> Float[Tensor, "count half"]:
    with torch.inference_mode(False), torch.no_grad():  # whoever asks first, all may use it
        return pixel_positions(count, pixel_width, device=device)

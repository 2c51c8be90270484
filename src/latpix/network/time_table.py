"""What time says at every time of a schedule: the patch blocks' modulators read it and nothing else.

Computed together, the weights that make it (29 % of a released network's) are read once per decode, not at every step
and in every tile. Letters: s times of the schedule, b batch, d width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Steer = tuple[Tensor, ...]  # shift1, scale1, gate1, shift2, scale2, gate2, [b, 1, d] each


@dataclass(frozen=True)
class TimeTable:
    """By timestep; ``Denoiser.time_table`` makes it."""

    timesteps: Float[Tensor, " s"]
    time: Float[Tensor, "s 1 d"]
    steers: Float[Tensor, "s streams six_d"]  # of each block's streams, in the order in which they run

    def at(self, timestep: Float[Tensor, " b"]) -> tuple[Float[Tensor, "b 1 d"], list[Steer]]:
        """The time embedding, and how it steers each stream, at timesteps of the schedule; NaN at another.

        No number comes back from the device, which would wait for it.
        """
        known = self.timesteps == timestep[:, None]  # [b, s]
        row, lost = known.int().argmax(1), torch.where(known.any(1), 0.0, torch.nan)
        steers = self.steers[row] + lost[:, None, None].to(self.steers.dtype)
        return self.time[row], [one.chunk(6, dim=-1) for one in steers.split(1, dim=1)]

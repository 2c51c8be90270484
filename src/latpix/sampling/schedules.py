"""Times of a decode: falling from at most 1 (noise) to exactly 0 (picture).

Source: the shift is that of Esser et al. 2024, eq. 23; the rest as in the releases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.errors import ScheduleError

Times = Float[Tensor, " n"]

ONE_STEP = (1.0, 0.0)  # a single step starts at pure noise, though every longer schedule starts just below it
LAST_SOLVER_TIME = 0.001


@dataclass(frozen=True, kw_only=True)
class DynamicShift:
    """A shift that grows with the picture: ``base * sqrt(sqrt(height * width) / reference)``, sizes in pixels."""

    base: float
    reference: int

    def at(self, height: int, width: int) -> float:
        return self.base * math.sqrt(math.sqrt(height * width) / self.reference)


def check_times(times: Sequence[float] | Times) -> None:
    """Raise ScheduleError unless ``times`` fall from at most 1 to exactly 0."""
    values = [float(t) for t in times]
    falling = all(a >= b for a, b in pairwise(values))
    if len(values) < 2 or not falling or values[0] > 1 or values[-1] != 0:
        raise ScheduleError(
            f"times must fall from at most 1 to exactly 0, but are {values}. "
            "Leave them out to use the checkpoint's schedule."
        )


def student_times(schedule: Sequence[float] | None, steps: int | None, *, trained_steps: int = 4) -> Times:
    """The times of a student's decode in ``steps`` steps, float32.

    Args:
        schedule: the checkpoint's; None spaces the times evenly from 1 to 0.
        steps: None is the trained number. One step is a case of its own (``ONE_STEP``). Another number picks entries
            of the schedule, so more steps than trained repeat times and gain nothing.
        trained_steps: intervals that the student was trained on.
    """
    steps = trained_steps if steps is None else steps
    if steps < 1:
        raise ScheduleError(f"steps is {steps}, but a decode takes at least 1.")
    if steps == 1:
        return torch.tensor(ONE_STEP)
    if schedule is None:
        return torch.linspace(1.0, 0.0, steps + 1)
    check_times(schedule)
    if steps == trained_steps:
        return torch.tensor(schedule, dtype=torch.float32)
    last = len(schedule) - 1
    picks = [round(i * last / steps) for i in range(steps + 1)]  # ties to even
    return torch.tensor([schedule[i] for i in picks], dtype=torch.float32)


def solver_times(steps: int, shift: float) -> Times:
    """The ``steps + 1`` times of the multistep solver: evenly spaced, then shifted towards noise. float32."""
    if steps < 1:
        raise ScheduleError(f"steps is {steps}, but a decode takes at least 1.")
    clean = 1 - torch.linspace(1.0, LAST_SOLVER_TIME, steps + 1)
    return (shift * clean / (1 + (shift - 1) * clean)).flip(0)

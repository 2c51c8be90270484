"""Times that training asks a network about: logit-normal, then shifted towards noise.

    u = sigmoid(mean + std z),  z ~ N(0, 1);        t = s u / (1 + (s - 1) u)

With s = 6 half of all times lie above 0.857. Source: Esser et al. 2024, eqs. 19 and 23.
"""

from jaxtyping import Float
from torch import Tensor

from latpix.sampling.schedules import DynamicShift
from latpix.training.draws import Draws

Times = Float[Tensor, "*n"]


def logit_normal(z: Times, *, mean: float = 0.0, std: float = 1.0) -> Times:
    """Times in (0, 1) of standard normals ``z``; a larger ``mean`` means more noise."""
    return (mean + std * z).sigmoid()


def power_law(u: Times, power: float) -> Times:
    """Times in [0, 1] of even draws ``u``: u^(1 / power); a power above 1 means more noise."""
    return u ** (1 / power)


def shift_times(t: Times, shift: float) -> Times:
    """Times in [0, 1], moved towards noise by a ``shift`` above 1; 0 and 1 stay, and a shift of 1 changes nothing."""
    return shift * t / (1 + (shift - 1) * t)


def shift_at(shift: float | DynamicShift, height: int, width: int) -> float:
    """The shift for pictures of ``height`` x ``width`` pixels."""
    return shift.at(height, width) if isinstance(shift, DynamicShift) else shift


def draw_times(draws: Draws, count: int, shift: float, *, mean: float = 0.0, std: float = 1.0) -> Float[Tensor, " b"]:
    """One shifted logit-normal time per sample; draws ``time``, a normal."""
    return shift_times(logit_normal(draws.normal("time", (count,)), mean=mean, std=std), shift)

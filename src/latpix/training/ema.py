"""Moving average of the weights with a power-function profile: it remembers a fixed share of the training so far.

    b_0 = 0,   b_n = (1 - 1 / (n + 1))^(g + 1),        average <- b_n average + (1 - b_n) weights

g is the positive root of  g + 1 = r^2 (g + 2)^2 (g + 3)  for a relative width r. As b_0 = 0 the average starts from the
first updated weights, whatever was in it. Source: Karras et al. 2024, "Analyzing and improving the training dynamics of
diffusion models", section 3.1 and appendix C.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from latpix.errors import OptionError

WIDTH = 0.1  # of every release


def power_exponent(width: float = WIDTH) -> float:
    """The exponent g whose profile has the relative ``width``, a number in (0, 0.289)."""
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2]) if width > 0 else np.array([])
    real = [float(root.real) for root in roots if abs(root.imag) < 1e-9 and root.real > 0]
    if not real:
        raise OptionError(f"the average's width is {width}, but must lie between 0 and 0.289 (0.1 is usual).")
    return max(real)


def average_decay(update: int, exponent: float) -> float:
    """What the average keeps of itself at an update; the first is number 0 and keeps nothing."""
    return 0.0 if update <= 0 else float((1 - 1 / (update + 1)) ** (exponent + 1))


@torch.no_grad()
def update_average(average: Iterable[Tensor], weights: Iterable[Tensor], decay: float) -> None:
    """Move each tensor of the average, float32, towards its weights, in place; parameters only, no buffers."""
    for kept, weight in zip(average, weights, strict=True):
        kept.mul_(decay).add_(weight.detach().to(kept.dtype), alpha=1 - decay)

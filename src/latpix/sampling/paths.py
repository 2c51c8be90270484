"""The straight path between picture and noise, and what a network's output says about it.

    x_t = (1 - t) x0 + t noise,    velocity = noise - x0,    so    x0 = x_t - t velocity

Source: rectified flow, Liu et al. 2022, eq. 1.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Prediction = Literal["velocity", "x0"]  # what a network was trained to put out
Pixels = Float[Tensor, "b 3 h w"]
Time = Float[Tensor, ""] | Float[Tensor, "b 1 1 1"]  # one of the whole batch, or one per sample

ROWS = 256  # of pixels whose guess is computed at once: float64 is large
LEAST_TIME = 0.05  # below it an x0 prediction's velocity is damped, by t / 0.05; it would divide by almost nothing


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 where the device has none."""
    without = device.type == "mps" or (device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64)
    return torch.float32 if without else torch.float64


def x0_of(prediction: Prediction, x_t: Pixels, t: Time, output: Pixels) -> Pixels:
    """The picture that ``output`` stands for, float32.

    The difference is taken in float64, as in the trained models' sampler; where a device has none, in float32.
    """
    if prediction == "x0":
        return output.float()
    wide = widest(x_t.device)
    rows = x_t.shape[2] if torch.is_grad_enabled() else ROWS
    bands = zip(x_t.split(rows, 2), output.split(rows, 2), strict=True)
    guesses = [(x.to(wide) - t.to(wide) * y.to(wide)).float() for x, y in bands]
    return guesses[0] if len(guesses) == 1 else torch.cat(guesses, 2)


def velocity_of(prediction: Prediction, x_t: Pixels, t: Time, output: Pixels) -> Pixels:
    """The velocity that ``output`` stands for; a velocity keeps the network's type."""
    if prediction == "velocity":
        return output
    wide = widest(x_t.device)
    return ((x_t.to(wide) - output.to(wide)) / t.to(wide).clamp(min=LEAST_TIME)).float()

"""The three samplers written out step by step: the oracle of the tests of ``latpix.sampling``.

Times t fall from noise (1) to the picture (0): x_t = (1 - t) x0 + t noise, velocity = noise - x0. The network is fed
1000 t. State and solver are float32; only a student's step from velocity to x0 is done in float64.

Source: renoising as in DMD2 (Yin et al. 2024); DPM-Solver++ 2M (Lu et al. 2022), algorithm 2, with a flow's
alpha = 1 - t and sigma = t. Knows no network: ``predict`` is a network call with its condition bound.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.network.config import NetworkConfig

Predict = Callable[[Tensor, Tensor], Tensor]  # (x_t [b,3,H,W], timestep [b]) -> the network's output
Noise = Callable[[int], Tensor]  # draw number -> standard normals [b,3,H,W]
Prediction = Literal["velocity", "x0"]
Pixels = Float[Tensor, "b 3 H W"]


def output_size(config: NetworkConfig, height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels of what a latent of that many cells becomes."""
    side = config.latent_downsample * config.scale
    return height * side, width * side


def student_times(schedule: Sequence[float] | None, steps: int | None = None) -> Float[Tensor, " n"]:
    """A student's times for a number of steps; None is the schedule's own number, and 4 without a schedule."""
    steps = steps or (4 if schedule is None else len(schedule) - 1)
    if steps == 1 or schedule is None:
        return torch.linspace(1, 0, steps + 1)
    times = torch.tensor(schedule, dtype=torch.float32)
    return times[torch.tensor([round(k * (len(schedule) - 1) / steps) for k in range(steps + 1)])]


@torch.no_grad()
def sample_student(
    predict: Predict,
    noise: Noise,
    times: Float[Tensor, " n"],
    *,
    kind: Literal["sde", "ode"] = "sde",
    prediction: Prediction = "velocity",
) -> Pixels:
    """Guess the picture, noise it less (sde) or walk along the velocity (ode), guess again; clamped at the end."""
    x = noise(0)
    draw = 1
    for t, s in pairwise(times):
        out = predict(x, (1000 * t).expand(len(x))).float()
        if prediction == "velocity":
            x0 = (x.double() - t.double() * out.double()).float()
            velocity = out
        else:
            x0 = out
            velocity = ((x.double() - out.double()) / t.double().clamp(min=0.05)).float()
        if s == 0:
            x = x0
        elif kind == "ode":
            x = x + (s - t) * velocity
        else:
            x = (1 - s) * x0 + s * noise(draw)
            draw += 1
    return x.clamp(-1, 1)


def dynamic_shift(base: float, reference: int, height: int, width: int) -> float:
    """How far a teacher's times lean towards noise, growing with the root of the output's mean side."""
    return float(base * ((height * width) ** 0.5 / reference) ** 0.5)


def teacher_times(steps: int, shift: float) -> Float[Tensor, " n"]:
    """From shift's image of 0.999 to exactly 0, float32."""
    w = 1 - torch.linspace(1, 0.001, steps + 1)
    return (shift * w / (1 + (shift - 1) * w)).flip(0)


@torch.no_grad()
def sample_teacher(
    predict: Predict,
    noise: Noise,
    times: Float[Tensor, " n"],
    *,
    without_caption: Predict | None = None,
    guidance_scale: float = 1.0,
    prediction: Prediction = "velocity",
) -> Pixels:
    """Second-order multistep solver on guided guesses of x0, its first and last update of first order; clamped."""

    def lam(t: Tensor) -> Tensor:
        return torch.log(1 - t) - torch.log(t)

    def guess(x: Tensor, t: Tensor) -> Tensor:
        out = predict(x, (1000 * t).expand(len(x))).float()
        if guidance_scale != 1:
            assert without_caption is not None
            plain = without_caption(x, (1000 * t).expand(len(x))).float()
            out = plain + guidance_scale * (out - plain)
        return out if prediction == "x0" else x - t * out

    x = noise(0)
    guesses: list[Tensor] = []
    for i, (t, s) in enumerate(pairwise(times)):
        guesses.append(guess(x, t))
        h = lam(s) - lam(t)
        phi = torch.expm1(-h)
        x = (s / t) * x - (1 - s) * phi * guesses[i]
        if 0 < i < len(times) - 2:
            h_before = lam(t) - lam(times[i - 1])
            bend = (h / h_before) * (guesses[i] - guesses[i - 1])
            x = x - 0.5 * (1 - s) * phi * bend
    return x.clamp(-1, 1)

"""Samplers: turn noise into pixels by asking a denoiser a few times.

Every sampler has one signature: ``(denoise, noise, times, *, prediction, on_step) -> pixels``. Guidance is a function
that wraps ``denoise``; noise comes in by draw number, so that recorded noise can stand in.
"""

from collections.abc import Callable
from itertools import pairwise

import torch

from latpix.sampling.paths import Pixels, Prediction, velocity_of, x0_of
from latpix.sampling.schedules import Times, check_times

Denoise = Callable[[Pixels, Times], Pixels]  # (x_t [b,3,h,w], t [b]) -> the network's output
Noise = Callable[[int], Pixels]  # draw number -> standard normals [b,3,h,w]
OnStep = Callable[[int, int, Pixels], None]  # (step from 1, steps, x0)


def _quiet(step: int, steps: int, x0: Pixels) -> None:
    """Report nothing."""


@torch.no_grad()
def sample_renoise(
    denoise: Denoise, noise: Noise, times: Times, *, prediction: Prediction = "velocity", on_step: OnStep = _quiet
) -> Pixels:
    """Guess the picture, noise it less, guess again.

    Args:
        denoise: the network with its condition already bound.
        noise: the seed's noise field; draw 0 is the state at ``times[0]``, the others are added between steps.
        times: falling from at most 1 (pure noise) to exactly 0; one network call per interval.
        prediction: what ``denoise`` returns.
        on_step: called after each step with its number (from 1), the number of steps, and the picture guessed.

    Returns:
        Pixels, about [-1, 1], not clamped, float32.

    Raises:
        ScheduleError: ``times`` does not fall to 0.

    Source: x_t = (1 - t) x0 + t noise, Liu et al. 2022, eq. 1; renoising as in DMD2, Yin et al. 2024, section 4.4.
    """
    check_times(times)
    x_t = noise(0)
    times = times.to(x_t.device)
    for draw, (t, s) in enumerate(pairwise(times), start=1):
        x0 = x0_of(prediction, x_t, t, denoise(x_t, t.expand(len(x_t))))
        on_step(draw, len(times) - 1, x0)
        x_t = (1 - s) * x0 + s * noise(draw) if s > 0 else x0
    return x_t


@torch.no_grad()
def sample_ode(
    denoise: Denoise, noise: Noise, times: Times, *, prediction: Prediction = "velocity", on_step: OnStep = _quiet
) -> Pixels:
    """Follow the velocity from noise to picture by Euler's method; arguments as of ``sample_renoise``, one draw."""
    check_times(times)
    x_t = noise(0)
    times = times.to(x_t.device)
    for step, (t, s) in enumerate(pairwise(times), start=1):
        output = denoise(x_t, t.expand(len(x_t)))
        x0 = x0_of(prediction, x_t, t, output)
        on_step(step, len(times) - 1, x0)
        x_t = x_t + (s - t) * velocity_of(prediction, x_t, t, output) if s > 0 else x0
    return x_t


@torch.no_grad()
def sample_multistep(
    denoise: Denoise, noise: Noise, times: Times, *, prediction: Prediction = "velocity", on_step: OnStep = _quiet
) -> Pixels:
    """Second-order multistep solver for undistilled networks; arguments as of ``sample_renoise``, one draw.

    The first and the last update are of first order. At the last one, to time 0, the result is the picture predicted.
    Source: DPM-Solver++(2M), Lu et al. 2022, algorithm 2, with alpha = 1 - t, sigma = t.
    """
    check_times(times)
    x_t = noise(0)
    times = times.to(x_t.device)
    log_snr = torch.log1p(-times) - torch.log(times)  # infinite at time 0
    steps = len(times) - 1
    last_x0 = x_t
    for i, (t, s) in enumerate(pairwise(times)):
        output = denoise(x_t, t.expand(len(x_t)))
        x0 = output.float() if prediction == "x0" else x_t - t * output.float()
        on_step(i + 1, steps, x0)
        if i == steps - 1:
            return x0
        h = log_snr[i + 1] - log_snr[i]
        slope = torch.zeros_like(x0) if i == 0 else (h / (log_snr[i] - log_snr[i - 1])) * (x0 - last_x0)
        x_t = (s / t) * x_t - (1 - s) * torch.expm1(-h) * (x0 + 0.5 * slope)
        last_x0 = x0
    raise AssertionError("unreachable: the last update returns")

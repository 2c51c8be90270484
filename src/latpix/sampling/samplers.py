"""Samplers: turn noise into pixels by asking a denoiser a few times.

Every sampler has one signature: ``(denoise, noise, times, *, prediction, on_step) -> pixels``. Guidance is a function
that wraps ``denoise``; noise comes in by draw number, so that recorded noise can stand in.

What a sampler does between two calls of the network is its step: a rule for each pixel by itself, so that a picture
may be stepped in parts (``latpix.tiling``).
"""

from collections.abc import Callable

import torch

from latpix.sampling.paths import Pixels, Prediction, velocity_of, x0_of
from latpix.sampling.schedules import Times, check_times

Denoise = Callable[[Pixels, Times], Pixels]  # (x_t [b,3,h,w], t [b]) -> the network's output
Noise = Callable[[int], Pixels]  # draw number -> standard normals [b,3,h,w]
OnStep = Callable[[int, int, Pixels], None]  # (step from 1, steps, x0)


# From one time of a schedule to the next; arguments as of ``step_renoise``.
Step = Callable[[Times, int, Pixels, Pixels, Noise, Pixels | None, Prediction], tuple[Pixels, Pixels]]


def step_renoise(
    times: Times,
    i: int,
    x_t: Pixels,
    output: Pixels,
    noise: Noise,
    last_x0: Pixels | None,
    prediction: Prediction,
) -> tuple[Pixels, Pixels]:
    """The picture guessed, noised anew; see ``sample_renoise``.

    Args:
        times: the schedule.
        i: of the time that the state is at.
        x_t: the state, or a part of it.
        output: of the network.
        noise: the same part of the noise field; draw i + 1 may be asked for.
        last_x0: the picture guessed before, None at first; only ``step_multistep`` reads it.
        prediction: what ``output`` is.

    Returns:
        The state at ``times[i + 1]``, and the picture guessed.
    """
    t, s = times[i], times[i + 1]
    x0 = x0_of(prediction, x_t, t, output)
    return (1 - s) * x0 + s * noise(i + 1) if s > 0 else x0, x0


def step_ode(
    times: Times,
    i: int,
    x_t: Pixels,
    output: Pixels,
    noise: Noise,
    last_x0: Pixels | None,
    prediction: Prediction,
) -> tuple[Pixels, Pixels]:
    """Along the velocity; see ``sample_ode``."""
    t, s = times[i], times[i + 1]
    x0 = x0_of(prediction, x_t, t, output)
    return x_t + (s - t) * velocity_of(prediction, x_t, t, output) if s > 0 else x0, x0


def step_multistep(
    times: Times,
    i: int,
    x_t: Pixels,
    output: Pixels,
    noise: Noise,
    last_x0: Pixels | None,
    prediction: Prediction,
) -> tuple[Pixels, Pixels]:
    """With the slope of the last two guesses; see ``sample_multistep``."""
    t, s = times[i], times[i + 1]
    x0 = output.float() if prediction == "x0" else x_t - t * output.float()
    if i == len(times) - 2:
        return x0, x0
    log_snr = torch.log1p(-times) - torch.log(times)  # infinite at time 0
    h = log_snr[i + 1] - log_snr[i]
    slope = torch.zeros_like(x0) if last_x0 is None else (h / (log_snr[i] - log_snr[i - 1])) * (x0 - last_x0)
    return (s / t) * x_t - (1 - s) * torch.expm1(-h) * (x0 + 0.5 * slope), x0


def _quiet(step: int, steps: int, x0: Pixels) -> None:
    """Report nothing."""


@torch.no_grad()
def sample(
    step: Step,
    denoise: Denoise,
    noise: Noise,
    times: Times,
    *,
    prediction: Prediction = "velocity",
    on_step: OnStep = _quiet,
) -> Pixels:
    """Go through a schedule by ``step``; arguments as of ``sample_renoise``."""
    check_times(times)
    x_t: Pixels = noise(0)
    last_x0: Pixels | None = None
    times = times.to(x_t.device)
    for i, t in enumerate(times[:-1]):
        x_t, x0 = step(times, i, x_t, denoise(x_t, t.expand(len(x_t))), noise, last_x0, prediction)
        on_step(i + 1, len(times) - 1, x0)
        last_x0 = x0 if step is step_multistep else None
        del x0  # a picture less beside the network's own
    return x_t


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
    return sample(step_renoise, denoise, noise, times, prediction=prediction, on_step=on_step)


def sample_ode(
    denoise: Denoise, noise: Noise, times: Times, *, prediction: Prediction = "velocity", on_step: OnStep = _quiet
) -> Pixels:
    """Follow the velocity from noise to picture by Euler's method; arguments as of ``sample_renoise``, one draw."""
    return sample(step_ode, denoise, noise, times, prediction=prediction, on_step=on_step)


def sample_multistep(
    denoise: Denoise, noise: Noise, times: Times, *, prediction: Prediction = "velocity", on_step: OnStep = _quiet
) -> Pixels:
    """Second-order multistep solver for undistilled networks; arguments as of ``sample_renoise``, one draw.

    The first and the last update are of first order. At the last one, to time 0, the result is the picture predicted.
    Source: DPM-Solver++(2M), Lu et al. 2022, algorithm 2, with alpha = 1 - t, sigma = t.
    """
    return sample(step_multistep, denoise, noise, times, prediction=prediction, on_step=on_step)

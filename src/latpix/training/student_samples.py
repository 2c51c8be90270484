"""The student's pictures during distillation: from noised true pictures, or from where its own decode would be.

    noised    x_in = (1 - t) x0 + t noise          t one of the schedule's, per sample
    rollout   x_in = its own state after k steps from pure noise, without gradients; t the schedule's k-th
    both      x0_hat = x_in - t student(x_in, t)   one step, with gradients where the caller wants them

The first is cheap, but shows the student states that it never meets when it decodes; the second shows it those.
Source: DMD2, Yin et al. 2024, section 4.4 ("backward simulation").
"""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.sampling.paths import Prediction, velocity_of, x0_of
from latpix.training.draws import Draws
from latpix.training.flow_matching import mix
from latpix.training.given import Given, Network, PerSample, Pixels, per_pixel

Way = Literal["renoise", "ode"]  # how a rollout goes from one state to the next: the samplers' two ways
Schedule = Float[Tensor, " n"]  # falling from at most 1 to exactly 0, float32


def guess(network: Network, given: Given, x_t: Pixels, t: PerSample, prediction: Prediction = "velocity") -> Pixels:
    """The picture that a network takes ``x_t`` for; the difference is taken in float64."""
    return x0_of(prediction, x_t, per_pixel(t), given.ask(network, x_t, t))


def noised_input(pixels: Pixels, times: Schedule, draws: Draws) -> tuple[Pixels, PerSample]:
    """True pictures, each noised to one time of the schedule; draws ``student_noise``, then ``student_step``."""
    noise = draws.normal("student_noise", tuple(pixels.shape))
    step = draws.choice("student_step", (len(pixels),), len(times) - 1)
    t = times[step]
    return mix(pixels, noise, t), t


@torch.no_grad()
def rollout_input(
    student: Network,
    given: Given,
    shape: tuple[int, int, int, int],
    times: Schedule,
    draws: Draws,
    *,
    way: Way = "renoise",
    prediction: Prediction = "velocity",
) -> tuple[Pixels, PerSample]:
    """The student's own states, all after the same number of steps.

    Args:
        student: called as often as ``rollout_step`` says.
        given: its condition.
        shape: of the pictures.
        times: the schedule.
        draws: ``student_noise``, ``rollout_step`` (a single number) and, for ``renoise``, ``renoise0``, ``renoise1``...
        way: whether a state is noised afresh or follows the velocity.
        prediction: what the student puts out.
    """
    x_t = draws.normal("student_noise", shape)
    steps = int(draws.choice("rollout_step", (), len(times) - 1))
    for step, (t, s) in enumerate(pairwise(times[: steps + 1])):
        output = given.ask(student, x_t, t.expand(len(x_t)))
        if way == "ode":
            x_t = x_t + (s - t) * velocity_of(prediction, x_t, t, output)
        else:
            x_t = (1 - s) * x0_of(prediction, x_t, t, output) + s * draws.normal(f"renoise{step}", shape)
    return x_t, times[steps].expand(len(x_t))


def student_sample(
    student: Network,
    pixels: Pixels,
    given: Given,
    times: Schedule,
    draws: Draws,
    *,
    rollout: float = 0.0,
    way: Way = "renoise",
    prediction: Prediction = "velocity",
) -> Pixels:
    """One picture of the student per sample of a batch, float32, about [-1, 1].

    Args:
        rollout: chance that the batch starts from the student's own states, not from ``pixels``. Only one that is
            neither 0 nor 1 draws ``rollout``, a single number, before all else.
        pixels: true pictures in [-1, 1].
        student, given, times, draws, way, prediction: as of ``rollout_input``.
    """
    rolled = rollout >= 1 if rollout in (0.0, 1.0) else bool(draws.uniform("rollout", ()) < rollout)
    if rolled:
        shape = (pixels.shape[0], pixels.shape[1], pixels.shape[2], pixels.shape[3])
        x_t, t = rollout_input(student, given, shape, times, draws, way=way, prediction=prediction)
    else:
        x_t, t = noised_input(pixels, times, draws)
    return guess(student, given, x_t, t, prediction)

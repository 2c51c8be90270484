"""Distribution matching distillation: the student's step, and the step of its two critics.

    student   x0 ~ student;  x_t = (1 - t) x0 + t noise
              total = vsd + gan_weight(iteration) * gan + fidelity_weight * fidelity
    critics   the fake score learns the velocity of the student's pictures; the discriminator learns to tell them from
              true ones by the teacher's features:   total = fake_score + discriminator + r1_weight * r1

Both draw t = sigmoid(z), clamped; the shift that teachers are trained with is not applied unless settings say so.
Source: DMD2, Yin et al. 2024. Letters: b batch, c latent channels, h and w latent cells, H and W pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.errors import OptionError
from latpix.sampling.guidance import guide
from latpix.sampling.paths import Prediction, x0_of
from latpix.sampling.samplers import Denoise
from latpix.training.alternation import EVERY, GAN_WARM_UP, GAN_WEIGHT, gan_weight
from latpix.training.auxiliary_rgb import NativePixels
from latpix.training.dmd_losses import (
    fake_score_loss,
    gan_discriminator_loss,
    gan_student_loss,
    r1_loss,
    vsd_loss,
)
from latpix.training.draws import Draws
from latpix.training.fidelity import fidelity_loss
from latpix.training.flow_matching import mix
from latpix.training.given import Features, Given, Network, PerSample, Pixels, Step, per_pixel
from latpix.training.job import Call
from latpix.training.learning import nothing
from latpix.training.student_samples import Way, guess, student_sample
from latpix.training.times import draw_times

NullCaption = Float[Tensor, "_ l e"]  # one for the whole batch, or one per sample
TIMES = (0.999, 0.866, 0.634, 0.342, 0.0)


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """Numbers of both steps; the defaults are those of the releases, which use no fidelity term."""

    times: tuple[float, ...] = TIMES  # of the student's decode; (1.0, 0.0) for one step
    rollout: float = 0.0  # chance that a batch starts from the student's own states
    way: Way = "renoise"
    guidance_scale: float = 3.0  # of the teacher alone
    shift: float = 1.0  # of the critics' times; 1 is none
    least_time: float = 0.02
    most_time: float = 0.99
    gan_weight: float = GAN_WEIGHT
    gan_warm_up: int = GAN_WARM_UP
    r1_weight: float = 200.0
    r1_noise: float = 0.1
    fidelity_weight: float = 0.0
    prediction: Prediction = "velocity"


def calls(settings: DistillSettings, tap: int) -> tuple[Call, ...]:
    """How the steps ask student, fake score and teacher, whose features after block ``tap`` are judged."""
    students, critics = 1 / EVERY, (EVERY - 1) / EVERY  # shares of the steps
    looks = 3 if settings.r1_weight > 0 else 2  # of a critics' step: painted, true, true and noised
    rolled = settings.rollout * (len(settings.times) - 2) / 2  # calls before the one that counts
    asked = partial(Call, backward=False, learn=nothing)
    return (
        Call(network="student", times=students),
        asked(network="student", times=critics + rolled),
        asked(network="teacher", times=students * (1 if settings.guidance_scale == 1 else 2)),
        asked(network="fake_score", times=students),
        Call(network="fake_score", times=critics),
        Call(network="teacher", times=students, learn=nothing, after=(tap,)),
        asked(network="teacher", times=critics * looks, after=(tap,)),
    )


def student_step(
    student: Network,
    teacher: Network,
    fake_score: Network,
    pixels: Pixels,
    given: Given,
    draws: Draws,
    settings: DistillSettings,
    *,
    iteration: int,
    null_caption: NullCaption | None = None,
    features: Features | None = None,
    discriminator: nn.Module | None = None,
    native: NativePixels | None = None,
    downsample: int = 0,
) -> Step:
    """The losses of one batch, whose gradient reaches the student only.

    Args:
        student, teacher, fake_score: the last two are asked without gradients.
        pixels: true pictures, float32 in [-1, 1]; where every batch is a rollout, only their size counts.
        given: the condition, its latents noised already.
        draws: in this order those of ``student_sample``, ``time``, ``perturb_noise``.
        settings: numbers.
        iteration: of both kinds together, from 0; the GAN's weight grows with it.
        null_caption: the negative prompt's states [1 or b, l, e], for the teacher's guidance.
        features: the teacher's, with gradients with respect to its input; its weights should collect none.
        discriminator: their judge, frozen here. Without both of them there is no GAN loss.
        native: the pictures at native size, for the fidelity term.
        downsample: native pixels along a latent cell's side, for the fidelity term.

    Returns:
        Losses ``vsd`` and, where they are used, ``gan`` and ``fidelity``; seen ``x0``, ``x0_teacher``, ``x0_fake``.
    """
    x0 = _sample(student, pixels, given, draws, settings)
    t, noise = perturbation(x0, draws, settings)
    x_t = mix(x0, noise, t)
    with torch.no_grad():
        velocity = _guided(teacher, given, null_caption, settings.guidance_scale)(x_t, t)
        x0_teacher = x0_of(settings.prediction, x_t, per_pixel(t), velocity)
        x0_fake = guess(fake_score, given, x_t, t, settings.prediction)
    losses = {"vsd": vsd_loss(x0, x0_teacher, x0_fake)}
    total = losses["vsd"]
    if features is not None and discriminator is not None:
        with frozen(discriminator):
            losses["gan"] = gan_student_loss(discriminator(given.features(features, x_t, t)))
        total = total + gan_weight(iteration, settings.gan_weight, settings.gan_warm_up) * losses["gan"]
    if settings.fidelity_weight > 0 and native is not None:
        losses["fidelity"] = fidelity_loss(x0, native, given.latent_sigma, downsample=downsample)
        total = total + settings.fidelity_weight * losses["fidelity"]
    return Step(total, losses, {"x0": x0.detach(), "x0_teacher": x0_teacher, "x0_fake": x0_fake})


def critic_step(
    student: Network,
    fake_score: Network,
    pixels: Pixels,
    given: Given,
    draws: Draws,
    settings: DistillSettings,
    *,
    features: Features | None = None,
    discriminator: nn.Module | None = None,
) -> Step:
    """The losses of one batch, whose gradient reaches fake score and discriminator.

    Args:
        student: asked without gradients.
        fake_score: in training.
        pixels: true pictures, float32 in [-1, 1].
        given: the condition, its latents noised already.
        draws: in this order those of ``student_sample``, ``time``, ``perturb_noise`` and, if R1 counts, ``r1_noise``.
        settings: numbers.
        features: the teacher's; asked without gradients.
        discriminator: in training. Without both of them only the fake score learns.

    Returns:
        Losses ``fake_score`` and, where they are used, ``discriminator`` and ``r1``; seen ``x0``, the student's.
    """
    with torch.no_grad():
        x0 = _sample(student, pixels, given, draws, settings)
        t, noise = perturbation(x0, draws, settings)
        x_t = mix(x0, noise, t)
    losses = {"fake_score": fake_score_loss(given.ask(fake_score, x_t, t), x0, noise, settings.prediction)}
    total = losses["fake_score"]
    if features is not None and discriminator is not None:
        # The true pictures are noised by the same t and noise: nothing but the pictures tells the two apart.
        real_x_t = mix(pixels, noise, t)
        with torch.no_grad():
            fake, real = (given.features(features, state, t) for state in (x_t, real_x_t))
        real_logits = discriminator(real)
        losses["discriminator"] = gan_discriminator_loss(discriminator(fake), real_logits)
        total = total + losses["discriminator"]
        if settings.r1_weight > 0:
            with torch.no_grad():
                near_x_t = real_x_t + settings.r1_noise * draws.normal("r1_noise", tuple(pixels.shape))
                near = given.features(features, near_x_t, t)
            losses["r1"] = r1_loss(real_logits, discriminator(near))
            total = total + settings.r1_weight * losses["r1"]
    return Step(total, losses, {"x0": x0})


def perturbation(x0: Pixels, draws: Draws, settings: DistillSettings) -> tuple[PerSample, Pixels]:
    """Time and noise at which critics look at a student's pictures; draws ``time``, then ``perturb_noise``."""
    t = draw_times(draws, len(x0), settings.shift).clamp(settings.least_time, settings.most_time)
    return t, draws.normal("perturb_noise", tuple(x0.shape))


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """What is computed inside leaves no gradients in the modules' weights; afterwards each is as it was."""
    weights = [(weight, weight.requires_grad) for module in modules for weight in module.parameters()]
    try:
        for weight, _ in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, wanted in weights:
            weight.requires_grad_(wanted)


def _sample(student: Network, pixels: Pixels, given: Given, draws: Draws, settings: DistillSettings) -> Pixels:
    times = torch.tensor(settings.times, dtype=torch.float32, device=pixels.device)
    return student_sample(
        student,
        pixels,
        given,
        times,
        draws,
        rollout=settings.rollout,
        way=settings.way,
        prediction=settings.prediction,
    )


def _guided(teacher: Network, given: Given, null_caption: NullCaption | None, scale: float) -> Denoise:
    if scale != 1 and null_caption is None:
        raise OptionError(
            f"the teacher's guidance_scale is {scale}, but there is no null caption; give one, or set it to 1."
        )
    null = given.captioned(null_caption)
    return guide(lambda x_t, t: given.ask(teacher, x_t, t), lambda x_t, t: null.ask(teacher, x_t, t), scale)

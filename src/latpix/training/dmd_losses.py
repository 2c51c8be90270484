"""The losses of distribution matching distillation.

    vsd   a = 1 / (mean |x0 - x0_teacher| + 1e-6),   g = a (x0_fake - x0_teacher),   loss = mean (x0 - sg[x0 - g])^2 / 2
    gan   student: mean softplus(-D(fake));   discriminator: mean softplus(D(fake)) + mean softplus(-D(real))
    r1    mean (D(real) - D(real + small noise))^2, in place of the gradient's norm

The gradient of ``vsd`` with respect to x0 is g over the number of all entries; ``a`` is one number per sample.
Source: DMD2, Yin et al. 2024, eqs. 2 to 4; approximate R1: APT, Lin et al. 2025, eq. 3. Letters: b batch, k logits.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.sampling.paths import Prediction
from latpix.training.given import Pixels

Logits = Float[Tensor, "b k"]

LEAST_DISTANCE = 1e-6  # between student and teacher, so that equal pictures do not divide by nothing


def vsd_loss(x0: Pixels, x0_teacher: Pixels, x0_fake: Pixels) -> Float[Tensor, ""]:
    """Move the student's pictures from what the fake score takes them for to what the teacher would make of them.

    Args:
        x0: the student's; the only one that gets a gradient.
        x0_teacher, x0_fake: the guesses of teacher and fake score. An entry that is not finite moves nothing.

    Returns:
        The loss in float64, where the device has it.
    """
    wide = torch.float32 if x0.device.type == "mps" else torch.float64
    student = x0.to(wide)
    with torch.no_grad():
        teacher, fake = x0_teacher.to(wide), x0_fake.to(wide)
        distance = (student - teacher).abs().mean((1, 2, 3), keepdim=True)
        direction = (fake - teacher) / (distance + LEAST_DISTANCE)
        target = student - direction.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return F.mse_loss(student, target) / 2


def fake_score_loss(
    output: Pixels, x0: Pixels, noise: Pixels, prediction: Prediction = "velocity"
) -> Float[Tensor, ""]:
    """Mean squared error of the fake score on a student's pictures ``x0``: of the velocity, or of a predicted x0."""
    return F.mse_loss(output, x0 if prediction == "x0" else noise - x0)


def gan_student_loss(fake: Logits) -> Float[Tensor, ""]:
    """Small where the discriminator takes the student's pictures for true ones."""
    return F.softplus(-fake).mean()


def gan_discriminator_loss(fake: Logits, real: Logits) -> Float[Tensor, ""]:
    """Small where true pictures have large logits and the student's have small ones."""
    return F.softplus(fake).mean() + F.softplus(-real).mean()


def r1_loss(real: Logits, near: Logits) -> Float[Tensor, ""]:
    """How much the discriminator's word changes when true pictures change a little; both terms count."""
    return (real - near).square().mean()

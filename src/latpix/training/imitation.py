"""One step of imitation: told of a picture by a new latent, a network learns to paint what a student paints of its own.

    x_t = (1 - t) x0 + t noise          t one of the student's times
    loss = mean (x0_new(x_t, t, new latent, latent_sigma) - x0_student(x_t, t, its latent, 0))^2

The student sees its latent clean, whatever noise the new one has, and both the same x_t. So the network follows what
the student makes of a picture; the true picture would ask it for the mean of all that is possible, which is soft.
Letters: b batch; k channels, y and x cells of the student's latent.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.training.draws import Draws
from latpix.training.given import Caption, Given, Latent, Network, Pixels, Step
from latpix.training.latent_noising import LatentNoising, noise_latents
from latpix.training.student_samples import Schedule, guess, noised_input


def imitation_step(
    network: Network,
    student: Network,
    pixels: Pixels,
    latent: Latent,
    students_latent: Float[Tensor, "b k y x"],
    draws: Draws,
    *,
    times: Schedule,
    noising: LatentNoising,
    caption: Caption | None = None,
) -> Step:
    """The loss of one batch; networks put out velocities.

    Args:
        network: that learns.
        student: frozen.
        pixels: true pictures, float32 in [-1, 1].
        latent: theirs in the new space, clean, normalized values.
        students_latent: theirs in the student's space.
        draws: those of ``noise_latents``, then of ``noised_input``.
        times: the student's.
        noising: of the new latents.
        caption: for both.

    Returns:
        Loss ``x0``.
    """
    given = Given(*noise_latents(latent, draws, noising), caption)
    x_t, t = noised_input(pixels, times, draws)
    with torch.no_grad():
        clean = Given(students_latent, torch.zeros_like(t), caption)
        wanted = guess(student, clean, x_t, t)
    loss = F.mse_loss(guess(network, given, x_t, t), wanted)
    return Step(loss, {"x0": loss}, {"x_t": x_t, "t": t, "latent_sigma": given.latent_sigma})

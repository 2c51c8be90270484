"""Flow matching: the network learns the velocity of the straight path from picture to noise.

    x_t = (1 - t) x0 + t noise,        loss = mean (network(x_t, 1000 t) - (noise - x0))^2

No weight depends on the time: how often a time is drawn is its weight. A network that puts out x0 is compared as a
velocity, (x_t - x0) / max(t, 0.05), and with the whole one below 0.05 too, as in the trained models: there the true x0
costs (1 - t / 0.05)^2 mean(velocity^2), and what costs nothing is x_t - 0.05 velocity, the picture less some noise.
Everything around the network is float32.
Source: Liu et al. 2022, eq. 1; Lipman et al. 2023, eq. 9.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.sampling.paths import Prediction, velocity_of
from latpix.training.given import Given, Network, PerSample, Pixels, per_pixel


def mix(x0: Pixels, noise: Pixels, t: PerSample) -> Pixels:
    """The state x_t of the straight path, float32; 0 is the picture, 1 the noise."""
    weight = per_pixel(t)
    return (1 - weight) * x0 + weight * noise


def flow_matching_loss(
    output: Pixels, x_t: Pixels, x0: Pixels, noise: Pixels, t: PerSample, prediction: Prediction = "velocity"
) -> Float[Tensor, ""]:
    """Mean squared error of a network's output as a velocity, over batch, channels and pixels.

    Args:
        output: what the network put out for ``x_t``.
        x_t: must be float32: an x0 is divided by as little as 0.05.
        x0, noise: what ``x_t`` was mixed of.
        t: in [0, 1].
        prediction: what ``output`` is.
    """
    velocity = velocity_of(prediction, x_t, per_pixel(t), output.float())
    return F.mse_loss(velocity, noise - x0)


def flow_matching(
    network: Network, x0: Pixels, noise: Pixels, t: PerSample, given: Given, prediction: Prediction = "velocity"
) -> tuple[Float[Tensor, ""], Pixels]:
    """Mix, ask the network, compare: the loss, and the x_t it was asked about."""
    x_t = mix(x0.float(), noise, t)
    output = given.ask(network, x_t, t)
    return flow_matching_loss(output, x_t, x0.float(), noise, t, prediction), x_t

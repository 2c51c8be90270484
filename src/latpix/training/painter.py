"""The denoiser as training calls it: one ``forward`` from all its inputs to a velocity, or to features of its blocks.

A sharded module gathers its weights when its ``forward`` runs, so everything has to happen inside of it.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.layers import TIMESTEP_SCALE
from latpix.network.model import Denoiser
from latpix.sampling.paths import Prediction, velocity_of
from latpix.training.bands import Bands
from latpix.training.given import Caption, Latent, PerSample, Pixels, per_pixel

Precision = Literal["float32", "bfloat16"]


class Painter(nn.Module):
    """A denoiser, what it puts out, and what it computes in. Its weights' names begin with ``network.``."""

    def __init__(self, network: Denoiser, prediction: Prediction, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.prediction: Prediction = prediction
        self.precision = precision
        self.bands: Bands | None = None  # set where processes share a picture

    def forward(
        self,
        x_t: Pixels,
        timestep: PerSample,
        latent: Latent,
        latent_sigma: PerSample,
        caption: Caption | None = None,
        *,
        image: Float[Tensor, "b 3 y x"] | None = None,
        after: tuple[int, ...] = (),
    ) -> Pixels | list[Tensor]:
        """The velocity, float32; with ``after`` the features after these patch blocks instead."""
        height, width = x_t.shape[-2:]
        network, bands, low = self.network, self.bands, self.precision == "bfloat16"
        with torch.autocast(x_t.device.type, dtype=torch.bfloat16, enabled=low):
            condition = network.condition(
                height=height, width=width, latent=latent, latent_sigma=latent_sigma, caption=caption, image=image
            )
            shown = x_t
            if bands is not None:
                shown, condition = bands.pixels(x_t), bands.condition(condition)
            if after:
                features = network.features(shown, timestep, condition, after)
                # Sharded modules must not hand out views: what brings their weights back hangs on their output.
                return [feature.clone() if bands is None else bands.join(feature, dim=2) for feature in features]
            output = network(shown, timestep, condition).float()
        if bands is not None:
            output = bands.join(output, dim=2)
        return velocity_of(self.prediction, x_t, per_pixel(timestep / TIMESTEP_SCALE), output)


def denoiser_weights(average: dict[str, Tensor]) -> dict[str, Tensor]:
    """A painter's tensors by the denoiser's own names."""
    return {name.removeprefix("network."): tensor for name, tensor in average.items()}

"""The denoiser as training calls it: one ``forward`` from all its inputs to a velocity, or to features of its blocks.

A sharded module gathers its weights when its ``forward`` runs, so everything has to happen inside of it.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.layers import TIMESTEP_SCALE
from latpix.network.model import Condition, Denoiser
from latpix.sampling.paths import Prediction, velocity_of
from latpix.team import Band, Team
from latpix.training.given import Caption, Latent, PerSample, Pixels, per_pixel
from latpix.training.lora import merged

Precision = Literal["float32", "bfloat16"]


class Painter(nn.Module):
    """A denoiser, what it puts out, and what it computes in. Its weights' names begin with ``network.``."""

    def __init__(self, network: Denoiser, prediction: Prediction, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.prediction: Prediction = prediction
        self.precision = precision
        self.team: Team | None = None  # set where processes share a picture

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
        rgb: bool = False,
    ) -> Pixels | list[Tensor]:
        """The velocity, float32; with ``rgb`` the RGB head's picture after it.

        With ``after`` the features after these patch blocks instead. A latent without channels is none.
        """
        height, width = x_t.shape[-2:]
        network, band, low = self.network, None, self.precision == "bfloat16"
        with torch.autocast(x_t.device.type, dtype=torch.bfloat16, enabled=low):
            condition = network.condition(
                height=height,
                width=width,
                latent=latent if latent.shape[1] else None,
                latent_sigma=latent_sigma,
                caption=caption,
                image=image,
            )
            shown = x_t
            if self.team is not None:
                band = Band(self.team, condition.rows)
                shown, condition = band.cut(x_t, 2), band.condition(condition)
            if after:
                features = network.features(shown, timestep, condition, after)
                # Sharded modules must not hand out views: what brings their weights back hangs on their output.
                return [feature.clone() if band is None else _joined(band, feature) for feature in features]
            output = network(shown, timestep, condition).float()
            picture = _rgb_picture(network, condition) if rgb else None
        if band is not None:
            output = _joined(band, output)
        velocity = velocity_of(self.prediction, x_t, per_pixel(timestep / TIMESTEP_SCALE), output)
        return velocity if picture is None else [velocity, picture]


def _joined(band: Band, maps: Float[Tensor, "b d rows columns"]) -> Float[Tensor, "b d all_rows columns"]:
    """The bands of all processes, with a memory of their own."""
    return band.join(maps, dim=2).contiguous()


def _rgb_picture(network: Denoiser, condition: Condition) -> Float[Tensor, "b 3 y x"]:
    assert network.latent_projection.rgb_head is not None, "a network without an RGB head"
    assert condition.features is not None
    picture: Tensor = network.latent_projection.rgb_head(condition.features.rgb_source)
    return picture.float()


def denoiser_weights(average: dict[str, Tensor]) -> dict[str, Tensor]:
    """A painter's tensors by the denoiser's own names; low-rank differences are in the weights."""
    return merged({name.removeprefix("network."): tensor for name, tensor in average.items()})

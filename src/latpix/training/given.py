"""What a training step works on: the networks' signature, what they are told, and what a step gives back.

Letters: b batch, c latent channels, h and w latent cells, H and W pixels, l caption tokens, e their width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float, Shaped
from torch import Tensor

from latpix.network.layers import TIMESTEP_SCALE

Pixels = Float[Tensor, "b 3 H W"]
PerSample = Float[Tensor, " b"]
Latent = Float[Tensor, "b c h w"]
Caption = Float[Tensor, "b l e"]

# (x_t, 1000 t, latent, latent_sigma, caption or None) -> velocity = noise - x0. It may run in bfloat16; what comes out
# is made float32 before anything is subtracted. A picture that the network also reads is bound in by the caller.
Network = Callable[[Pixels, PerSample, Latent, PerSample, Caption | None], Pixels]
# The same arguments -> features of some of its blocks [b, d, rows, columns], in ascending order of the blocks.
Features = Callable[[Pixels, PerSample, Latent, PerSample, Caption | None], list[Tensor]]


@dataclass(frozen=True)
class Given:
    """What networks are told of a batch beside the noisy pixels and their time."""

    latent: Latent
    latent_sigma: PerSample  # in [0, 1], float32
    caption: Caption | None = None

    def ask(self, network: Network, x_t: Pixels, t: PerSample) -> Pixels:
        """The network's output at ``t`` in [0, 1], float32. The time it is fed is float32 whatever it runs in."""
        timestep = TIMESTEP_SCALE * t.float()
        return network(x_t, timestep, self.latent, self.latent_sigma, self.caption).float()

    def features(self, network: Features, x_t: Pixels, t: PerSample) -> list[Tensor]:
        """The network's features at ``t`` in [0, 1], float32."""
        timestep = TIMESTEP_SCALE * t.float()
        return [f.float() for f in network(x_t, timestep, self.latent, self.latent_sigma, self.caption)]

    def captioned(self, caption: Float[Tensor, "_ l e"] | None) -> Given:
        """The same with another caption; one that stands for the whole batch is repeated."""
        if caption is not None:
            caption = caption.expand(len(self.latent), -1, -1)
        return replace(self, caption=caption)


@dataclass(frozen=True)
class Step:
    """What a step computed."""

    total: Float[Tensor, ""]  # what is to be minimised: call ``backward`` on it
    losses: dict[str, Float[Tensor, ""]]  # each term before its weight, by name
    seen: dict[str, Tensor]  # inputs and guesses on the way, without gradients, for logs and sample grids


def per_pixel(values: Shaped[Tensor, " b"]) -> Shaped[Tensor, "b 1 1 1"]:
    """One number per sample, to be multiplied with pixels or latents."""
    return values.view(-1, 1, 1, 1)

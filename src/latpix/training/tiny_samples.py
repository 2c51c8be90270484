"""The grid that flux2-tiny's recipes save now and then: a few crops, the same ones and the same noise each time."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.backbones.codec import Codec
from latpix.network.layers import TIMESTEP_SCALE
from latpix.sampling.noise import noise_field
from latpix.sampling.samplers import Denoise, Noise
from latpix.training.given import Pixels
from latpix.training.latent_noising import noise_by
from latpix.training.tiny_pairs import Eyes, TinyPairs

SIGMAS = (0.0, 0.0, 0.4)  # of the crops' latents
STEP = 2**31  # a step that no run reaches: its crops are the samples


@torch.no_grad()
def grid(
    painter: nn.Module, data: TinyPairs, codec: Codec, sample: Callable[[Denoise, Noise], Pixels]
) -> Float[Tensor, "3 H W"]:
    """A row for each crop: the picture painted on, what ``sample`` makes of it, the original."""
    device = next(painter.parameters()).device
    pairs = data.draw(STEP, range(len(SIGMAS))).pairs
    sigma = torch.tensor(SIGMAS, device=device)
    clean = pairs.surroundings.to(device)
    generator = torch.Generator().manual_seed(0)
    latent = noise_by("flow", clean, torch.randn(clean.shape, generator=generator).to(device), sigma)
    eyes = Eyes(codec, pairs)
    network = eyes.network(painter)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return network(x_t, TIMESTEP_SCALE * t, latent, sigma, None)

    size = pairs.pixels.shape[-1]
    painted = sample(denoise, noise_field(range(len(SIGMAS)), 3, size, size, device=device)).cpu()
    base = F.interpolate(eyes.look(latent, sigma)[1].cpu(), size=(size, size), mode="bicubic")
    columns = torch.cat([base, painted, pairs.pixels], dim=3)  # [b, 3, p, 3p]
    return torch.cat(list(columns), dim=1).clamp(-1, 1)

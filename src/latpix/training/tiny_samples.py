"""The grid that flux2-tiny's recipes save now and then: a few crops, the same ones and the same noise each time."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.base_decoder import BaseDecoder
from latpix.network.layers import TIMESTEP_SCALE
from latpix.sampling.noise import noise_field
from latpix.sampling.samplers import Denoise, Noise
from latpix.training.given import Latent, PerSample, Pixels
from latpix.training.latent_noising import noise_by
from latpix.training.painter import Precision
from latpix.training.pairs import PairBatch
from latpix.training.tiny_pairs import Eyes, TinyPairs

SIGMAS = (0.0, 0.0, 0.4)  # of the crops' latents
STEP = 2**31  # a step that no run reaches: its crops are the samples
Paint = Callable[[PairBatch, Latent, PerSample], Pixels]


def side_by_side(data: TinyPairs, device: torch.device, paint: Paint) -> Float[Tensor, "3 H W"]:
    """A row for each crop: the native picture enlarged, what ``paint`` makes of it, the original."""
    pairs = data.draw(STEP, range(len(SIGMAS))).pairs
    sigma = torch.tensor(SIGMAS, device=device)
    clean = pairs.latent.to(device)
    generator = torch.Generator().manual_seed(0)
    latent = noise_by("flow", clean, torch.randn(clean.shape, generator=generator).to(device), sigma)
    plain = F.interpolate(pairs.native, size=pairs.pixels.shape[-2:], mode="bicubic")
    columns = torch.cat([plain, paint(pairs, latent, sigma).cpu(), pairs.pixels], dim=3)  # [b, 3, p, 3p]
    return torch.cat(list(columns), dim=1).clamp(-1, 1)


@torch.no_grad()
def grid(
    painter: nn.Module,
    data: TinyPairs,
    base: BaseDecoder,
    precision: Precision,
    sample: Callable[[Denoise, Noise], Pixels],
) -> Float[Tensor, "3 H W"]:
    """The crops, painted by a sampler: ``sample(denoise, noise)``."""
    device = next(painter.parameters()).device

    def paint(pairs: PairBatch, latent: Latent, sigma: PerSample) -> Pixels:
        network = Eyes(base, pairs, precision).network(painter)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return network(x_t, TIMESTEP_SCALE * t, latent, sigma, None)

        size = pairs.pixels.shape[-1]
        return sample(denoise, noise_field(range(len(SIGMAS)), 3, size, size, device=device))

    return side_by_side(data, device, paint)

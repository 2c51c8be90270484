"""Noising latents: the path that a space's generators take from latent z to noise.

    flow   z_s = (1 - s) z + s noise                 all but SDXL;  Liu et al. 2022, eq. 1
    vp     z_s = sqrt(1 - s^2) z + s noise           SDXL;          Ho et al. 2020, eq. 4
    edm    x = z + sigma noise                       what SDXL's Euler scheduler holds; in the vp frame
           z_s = x / sqrt(sigma^2 + 1)  with  s = sigma / sqrt(sigma^2 + 1);                Karras et al. 2022, table 1

Letters: b batch, c channels, h and w cells, s latent_sigma in [0, 1].
"""

import math

from jaxtyping import Float
from torch import Tensor

from latpix.latents.spaces import NoisingRule

Cells = Float[Tensor, "b c h w"]


def noise_latent(latent: Cells, noise: Cells, latent_sigma: float, rule: NoisingRule) -> Cells:
    """A clean latent at noise level ``latent_sigma``; 0 leaves it as it is, to the bit."""
    if latent_sigma <= 0:
        return latent
    kept = 1 - latent_sigma if rule == "flow" else math.sqrt(1 - latent_sigma**2)
    return kept * latent + latent_sigma * noise


def edm_to_vp(state: Cells, sigma: float) -> tuple[Cells, float]:
    """A state of SDXL's Euler scheduler at its ``sigma``, as a latent and its latent_sigma."""
    if sigma <= 0:
        return state, 0.0
    total = math.sqrt(sigma**2 + 1)
    return state / total, sigma / total

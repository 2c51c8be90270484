"""Classifier-free guidance: push the prediction away from what it would be with the null caption.

    output = null + guidance_scale (captioned - null)

Source: Ho & Salimans 2022, eq. 6. It acts alike on velocities and on x0: noise estimates are linear in both.
"""

from latpix.sampling.paths import Pixels
from latpix.sampling.samplers import Denoise
from latpix.sampling.schedules import Times


def guide(denoise: Denoise, denoise_null: Denoise, guidance_scale: float) -> Denoise:
    """A denoiser under guidance; scale 1 means none and costs one call instead of two."""
    if guidance_scale == 1:
        return denoise

    def guided(x_t: Pixels, t: Times) -> Pixels:
        null = denoise_null(x_t, t)
        return null + guidance_scale * (denoise(x_t, t) - null)

    return guided

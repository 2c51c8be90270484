"""Noising the latent that a network is conditioned on, so that it learns how far to trust one.

    flow  (1 - s) z + s noise,        vp  sqrt(1 - s^2) z + s noise        s even in [least, most], per sample

A part of the samples keeps its latent and gets s = 0. The network is told s in both cases.
Letters: b batch, c channels, h and w cells, s latent_sigma.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.latents.spaces import NoisingRule
from latpix.training.draws import Draws
from latpix.training.given import Latent, PerSample, per_pixel


@dataclass(frozen=True, kw_only=True)
class LatentNoising:
    """How often and how much; the defaults are those of every release."""

    rule: NoisingRule = "flow"
    chance: float = 0.75  # that a sample is noised
    clean_ratio: float = 0.0  # that one which would be noised is left clean all the same
    least: float = 0.0
    most: float = 0.8
    # (part of a source's path, least, most); the first row that is found in a sample's source wins
    by_source: tuple[tuple[str, float, float], ...] = ()

    def range_of(self, source: str) -> tuple[float, float]:
        """Least and most noise for samples from ``source``."""
        for part, least, most in self.by_source:
            if part in source:
                return least, most
        return self.least, self.most


def noise_latents(
    latent: Latent, draws: Draws, settings: LatentNoising, sources: Sequence[str] | None = None
) -> tuple[Latent, PerSample]:
    """Noise some latents of a batch.

    Args:
        latent: clean, normalized values, float32.
        draws: in this order ``apply``; ``clean`` where a clean ratio is set; ``sigma`` and ``latent_noise``, but only
            if a sample is to be noised at all.
        settings: how often and how much.
        sources: where each sample came from, for ``settings.by_source``.

    Returns:
        The latents and their latent_sigma, float32, 0 where a latent was kept.
    """
    count = len(latent)
    selected = draws.uniform("apply", (count,)) < settings.chance
    if settings.clean_ratio > 0:
        selected &= draws.uniform("clean", (count,)) >= settings.clean_ratio
    if not selected.any():
        return latent, latent.new_zeros(count, dtype=torch.float32)
    least, most = _ranges(settings, sources, latent)
    drawn = least + (most - least) * draws.uniform("sigma", (count,))
    latent_sigma = torch.where(selected, drawn, 0.0)
    noised = noise_by(settings.rule, latent, draws.normal("latent_noise", tuple(latent.shape)), latent_sigma)
    return torch.where(per_pixel(selected), noised, latent), latent_sigma


def noise_by(rule: NoisingRule, latent: Latent, noise: Latent, latent_sigma: PerSample) -> Latent:
    """Each latent at its own noise level, in [0, 1]."""
    s = per_pixel(latent_sigma)
    kept = 1 - s if rule == "flow" else (1 - s.square()).sqrt()
    return kept * latent + s * noise


def _ranges(
    settings: LatentNoising, sources: Sequence[str] | None, like: Latent
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    assert sources is None or len(sources) == len(like), "one source per sample"
    rows = [settings.range_of(source) for source in sources or [""] * len(like)]
    least, most = torch.tensor(rows, dtype=torch.float32, device=like.device).unbind(1)
    return least, most

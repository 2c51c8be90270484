"""Leaving out the caption or the latent of some samples, so that one network also knows the unconditional case.

Letters: b batch, c channels, h and w cells, l caption tokens, e their width.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.training.draws import Draws
from latpix.training.given import Caption, Latent, PerSample, per_pixel


def drop_captions(caption: Caption, empty: Float[Tensor, "_ l e"], draws: Draws, chance: float) -> Caption:
    """Each caption becomes the embedding of the empty text with ``chance``; draws ``drop_caption`` unless that is 0.

    The empty text is not the null caption that guidance uses: that is a negative prompt.
    """
    if chance <= 0:
        return caption
    dropped = draws.uniform("drop_caption", (len(caption),)) < chance
    return torch.where(dropped.view(-1, 1, 1), empty.to(caption.dtype), caption)


def drop_latents(latent: Latent, draws: Draws, chance: float) -> tuple[Latent, PerSample]:
    """Each latent, noised before, becomes zeros with ``chance``; draws ``drop_latent`` unless that is 0.

    Returns:
        The latents, and 1 for each that was kept, 0 for each that was dropped. Its latent_sigma stays as it is.
    """
    if chance <= 0:
        return latent, torch.ones(len(latent), device=latent.device)
    kept = (draws.uniform("drop_latent", (len(latent),)) >= chance).float()
    return latent * per_pixel(kept).to(latent.dtype), kept

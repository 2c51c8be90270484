"""Fidelity: colour and structure of a picture stay those of the native one, as far as the latent can be believed.

The difference at native size is averaged over blocks of growing side: single pixels, one latent cell, four cells.

    l_i = mean over levels of  w_i,level * mean( sqrt(d^2 + 1e-6) - 1e-3 )
    w   = (1 - s)^2 / ((1 - s)^2 + s^2 / p^2)        p cells along a block's side, 1 at the least

w is the share of signal in what the latent says about a block: averaging p x p cells leaves the signal of a flow latent
and divides its noise by p. A clean latent binds all levels; at s = 0.8 a cell counts 0.06, a block of four by four 0.5.
Letters: b batch, H and W pixels, y and x native pixels, s latent_sigma.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.training.given import PerSample, Pixels

CELLS = (0, 1, 4)  # along a block's side; 0 is a single native pixel
SMOOTH = 1e-3


def fidelity_loss(
    pixels: Pixels, native: Float[Tensor, "b 3 y x"], latent_sigma: PerSample, *, downsample: int
) -> Float[Tensor, ""]:
    """How far pictures, reduced, are from the native ones.

    Args:
        pixels: painted, about [-1, 1]; not clamped, so that a value beyond the range has a gradient back.
        native: the truth, or a codec's decode of the clean latent, in [-1, 1].
        latent_sigma: noise of each latent, in [0, 1].
        downsample: native pixels along a latent cell's side.
    """
    reduced = pixels.float()
    if reduced.shape != native.shape:
        reduced = F.interpolate(reduced, size=native.shape[-2:], mode="bicubic", antialias=True)
    difference = reduced - native.float()
    total = difference.new_zeros(len(difference))
    for cells in CELLS:
        side = min(max(1, cells * downsample), *native.shape[-2:])
        block = F.avg_pool2d(difference, side)
        distance = ((block.square() + SMOOTH**2).sqrt() - SMOOTH).mean((1, 2, 3))
        total = total + signal_share(latent_sigma, max(1, cells)) * distance
    return total.mean() / len(CELLS)


def signal_share(latent_sigma: PerSample, cells: int) -> PerSample:
    """The share of signal in a flow latent's mean over ``cells`` x ``cells``; 1 for a clean one, 0 for pure noise."""
    signal = (1 - latent_sigma).square()
    return signal / (signal + (latent_sigma / cells).square())

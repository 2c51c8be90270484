"""The RGB head's loss: the latent projection's own features must carry the picture's colours.

    l_i = mean( sqrt(d^2 + 1e-6) - 1e-3 ),   d = (Y / 4, Cb, Cr) of the difference, pixels taken to [0, 1]
    w_i = [target is not empty] [latent was not dropped] max(1 - latent_sigma, 0)
    loss = sum w_i l_i / max(sum w_i, 1e-6)

At the first step this is the only gradient that reaches the projection, whose other heads start at zero.
Letters: b batch, y and x native pixels, s scale.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.training.given import PerSample

NativePixels = Float[Tensor, "b 3 y x"]

TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # rows Y, Cb, Cr
IMPORTANCE = (0.25, 1.0, 1.0)  # of Y, Cb and Cr: brightness has other teachers
SMOOTH = 1e-3
EMPTY = 1e-6  # a target whose mean absolute value is not above it is no picture


def to_ycc(rgb: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b 3 y x"]:
    """Brightness and two colour differences, without an offset."""
    matrix = torch.tensor(TO_YCC, dtype=rgb.dtype, device=rgb.device)
    return torch.einsum("ij, bjyx -> biyx", matrix, rgb)


def auxiliary_rgb_loss(
    predicted: NativePixels,
    target: Float[Tensor, "b 3 _ _"],
    latent_sigma: PerSample | None = None,
    kept: PerSample | None = None,
) -> Float[Tensor, ""]:
    """How far the RGB head's pictures are from the native ones.

    Args:
        predicted: of the RGB head, about [-1, 1], not clamped.
        target: native pictures; brought to the predictions' size first, clamped to [-1, 1] after that.
        latent_sigma: noise of each latent; a noisier one owes less. None: all are clean.
        kept: 0 for each latent that was dropped, else 1. None: all were kept.
    """
    predicted, target = predicted.float(), target.float()
    if target.shape[-2:] != predicted.shape[-2:]:
        target = F.interpolate(target, size=predicted.shape[-2:], mode="area")
    weights = (target.abs().mean((1, 2, 3)) > EMPTY).float()
    if kept is not None:
        weights = weights * kept
    if latent_sigma is not None:
        weights = weights * (1 - latent_sigma).clamp(min=0)
    importance = torch.tensor(IMPORTANCE, device=predicted.device).view(1, 3, 1, 1)
    difference = (to_ycc((predicted + 1) / 2) - to_ycc((target.clamp(-1, 1) + 1) / 2)) * importance
    distance = ((difference.square() + SMOOTH**2).sqrt() - SMOOTH).mean((1, 2, 3))  # [b]
    return (weights * distance).sum() / weights.sum().clamp(min=1e-6)

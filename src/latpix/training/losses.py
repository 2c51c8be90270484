"""Distances that training minimises, all on pixels in [-1, 1].

Letters: b batch, c channels, h and w pixels or places.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

PATCH = 8  # pixels per side of the patches whose detail is compared as one vector


def charbonnier(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """The smooth absolute difference: mean sqrt(d^2 + 1e-4)."""
    return (a - b).float().square().add(1e-4).sqrt().mean()


def feature_difference(
    a: Sequence[Float[Tensor, "b c h w"]], b: Sequence[Float[Tensor, "b c h w"]]
) -> Float[Tensor, ""]:
    """Squared difference of features normalised over channels, averaged over places and depths.

    Source: LPIPS, Zhang et al. 2018, eq. 1, with unit weights.
    """
    total = a[0].new_zeros(())
    for x, y in zip(a, b, strict=True):
        total = total + (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean()
    return total / len(a)


def texture_difference(
    a: Sequence[Float[Tensor, "b c h w"]], b: Sequence[Float[Tensor, "b c h w"]]
) -> Float[Tensor, ""]:
    """One minus the similarity of features' means (texture) and of their covariation (structure).

    Source: DISTS, Ding et al. 2020, eqs. 3 to 5, with equal weights.
    """
    similarity = a[0].new_zeros(())
    for x, y in zip(a, b, strict=True):
        mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
        var_x, var_y = x.var((2, 3), unbiased=False), y.var((2, 3), unbiased=False)
        covariance = (x * y).mean((2, 3)) - mean_x * mean_y
        texture = (2 * mean_x * mean_y + 1e-6) / (mean_x.square() + mean_y.square() + 1e-6)
        structure = (2 * covariance + 1e-6) / (var_x + var_y + 1e-6)
        similarity = similarity + (texture + structure).mean() / 2
    return 1 - similarity / len(a)


def detail_distance(a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Distance of fine detail: the mean length, over patches, of the high-pass difference, per pixel and channel."""
    difference = (a - b).float()
    fine = difference - F.avg_pool2d(F.pad(difference, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    energy = F.avg_pool2d(fine.square().mean(1, keepdim=True), PATCH)
    return (energy + 1e-6).sqrt().mean()


def energy_score(
    first: Float[Tensor, "b 3 h w"], second: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"], spread: float
) -> Float[Tensor, ""]:
    """How well two pictures painted from two noises stand for the target's distribution, in fine detail.

        (|first - target| + |second - target|) / 2  -  spread |first - second| / 2

    ``spread`` 1 is the energy score, whose best answer is a sample of the true distribution; 0 asks for its median.
    Source: Gneiting & Raftery 2007, section 4.3.
    """
    near = (detail_distance(first, target) + detail_distance(second, target)) / 2
    return near - spread * detail_distance(first, second) / 2

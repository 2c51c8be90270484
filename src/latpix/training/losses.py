"""Distances that training minimises, all on pixels in [-1, 1].

Letters: b batch, c channels, h and w pixels or places.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SMOOTH = 1e-2  # differences below it cost by their square


def charbonnier(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """The smooth absolute difference: mean sqrt(d^2 + SMOOTH^2)."""
    return (a - b).float().square().add(SMOOTH**2).sqrt().mean()


def pattern_difference(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"], *, side: int) -> Float[Tensor, ""]:
    """Whether ``a`` has a pattern that ``b`` has not, the same in every cell of ``side`` x ``side`` pixels.

    With m the mean of a - b over all cells of all pictures, for each place in a cell, it is |m - mean m|, smooth like
    the one above but 0 without a pattern. Networks that enlarge leave such patterns (Odena et al. 2016); what cells
    differ in averages out.
    """
    rows, columns = a.shape[2] // side, a.shape[3] // side
    difference = (a - b).float()[..., : rows * side, : columns * side]
    places = difference.unflatten(3, (columns, side)).unflatten(2, (rows, side)).mean((0, 2, 4))  # [c, side, side]
    return charbonnier(places[None], places.mean((1, 2), keepdim=True).expand_as(places)[None]) - SMOOTH


def feature_difference(
    a: Sequence[Float[Tensor, "b _ _ _"]], b: Sequence[Float[Tensor, "b _ _ _"]]
) -> Float[Tensor, ""]:
    """Squared difference of features normalised over channels, averaged over places and depths.

    Source: LPIPS, Zhang et al. 2018, eq. 1, with unit weights.
    """
    total = a[0].new_zeros(())
    for x, y in zip(a, b, strict=True):
        total = total + (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean()
    return total / len(a)


def texture_difference(
    a: Sequence[Float[Tensor, "b _ _ _"]], b: Sequence[Float[Tensor, "b _ _ _"]]
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

"""Structure-texture distance, which forgives resampled texture:  1 - mean over depths and channels of (l + s) / 2.

    l = (2 m_a m_b + c) / (m_a^2 + m_b^2 + c)    m: a channel's mean over places (texture)
    s = (2 cov_ab + c) / (v_a + v_b + c)         v, cov: its variance and covariance (structure)

DISTS with equal weights (Ding et al. 2020, eq. 4 to 6) on the pixels and five depths of EfficientNet-Lite0: not
comparable with published DISTS. Letters: b batch, c channels, y x places.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.evaluation.metrics.features import Features

CONSTANT = 1e-6


def structure_texture_distance(a: Features, b: Features) -> Float[Tensor, " b"]:
    """Of each pair of pictures, 0 for equal ones; symmetric."""
    pairs = zip([a.picture, *a.depths], [b.picture, *b.depths], strict=True)
    return 1 - torch.stack([_likeness(fa, fb) for fa, fb in pairs]).mean(0)  # [b]


def _likeness(a: Float[Tensor, "b c y x"], b: Float[Tensor, "b c y x"]) -> Float[Tensor, " b"]:
    mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))  # [b, c]
    covariance = (a * b).mean((2, 3)) - mean_a * mean_b
    variances = a.var((2, 3), unbiased=False) + b.var((2, 3), unbiased=False)
    texture = (2 * mean_a * mean_b + CONSTANT) / (mean_a.square() + mean_b.square() + CONSTANT)
    structure = (2 * covariance + CONSTANT) / (variances + CONSTANT)
    return (texture + structure).mean(1) / 2  # [b]

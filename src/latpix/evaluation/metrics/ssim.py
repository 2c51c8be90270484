"""Structural similarity:  mean over places of  l s,

    l = (2 m_a m_b + c1) / (m_a^2 + m_b^2 + c1),    s = (2 cov_ab + c2) / (v_a + v_b + c2)

for means m, variances v and covariance cov under a Gaussian of sigma 1.5 in 11x11, c1 = (0.01 R)^2, c2 = (0.03 R)^2,
range R = 2; averaged over channels and over the windows that lie inside. Source: Wang et al. 2004, eq. 13.
Letters: b batch, H W pixels, y x places.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SIGMA, REACH = 1.5, 5
C1, C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2


def ssim(pixels: Float[Tensor, "b 3 H W"], original: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
    """Of each picture, 1 for equal ones."""
    a, b = pixels.float(), original.float()
    mean_a, mean_b = _blurred(a), _blurred(b)
    variances = _blurred(a * a) - mean_a.square() + _blurred(b * b) - mean_b.square()
    covariance = _blurred(a * b) - mean_a * mean_b
    lightness = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return (lightness * structure).mean((1, 2, 3))  # [b]


def _blurred(x: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 y x"]:
    distance = torch.arange(-REACH, REACH + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-distance.square() / (2 * SIGMA**2))
    kernel = (weights / weights.sum()).expand(3, 1, -1)  # [3, 1, 11]
    x = F.conv2d(x, kernel[:, :, None], groups=3)  # [b, 3, H, W - 10]
    return F.conv2d(x, kernel[..., None], groups=3)  # [b, 3, H - 10, W - 10]

"""Feature distance, for fidelity:  mean over depths l and places p of |u_l(a)_p - u_l(b)_p|^2,  u = f / |f|.

LPIPS with unit weights (Zhang et al. 2018, eq. 1) on EfficientNet-Lite0 features f, whose length |f| is over channels:
not comparable with published LPIPS. It punishes invented texture, much as PSNR does. Letters: b batch.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latpix.evaluation.metrics.features import Features


def feature_distance(a: Features, b: Features) -> Float[Tensor, " b"]:
    """Of each pair of pictures, 0 for equal ones; symmetric."""
    distances = [
        (F.normalize(fa, dim=1) - F.normalize(fb, dim=1)).square().sum(1).mean((1, 2))  # [b]
        for fa, fb in zip(a.depths, b.depths, strict=True)
    ]
    return torch.stack(distances).mean(0)  # [b]

"""Muon: momentum whose update is made orthogonal, for convolution kernels seen as matrices [out, in * kernel].

    m <- beta m + (1 - beta) g;     u = orthogonal(beta m + (1 - beta) g);     w <- w - rate * 0.2 sqrt(max(n, k)) * u

The factor gives the update the size (rms 0.2) that Adam's has, so that both share one learning rate.
`orthogonal` is five steps of a quintic Newton-Schulz iteration in bfloat16: singular values end between 0.7 and 1.2.

Source: Jordan et al. 2024, "Muon"; the factor: Liu et al. 2025, "Muon is scalable", section 2.2. Letters: m matrices of
k columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95
SIZE = 0.2  # rms of an update


def orthogonal(matrices: Float[Tensor, "m n k"]) -> Float[Tensor, "m n k"]:
    """The nearest matrices whose singular values are about 1, in float32."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    x = (wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    out: Tensor = x.mT if tall else x
    return out.float()


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions; biases and the outermost layers belong to Adam."""

    def __init__(self, weights: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for weight in group["params"]:
                gradient = weight.grad.contiguous().flatten(1)  # [n, k]
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
                alike.setdefault(gradient.shape, []).append((weight, gradient.lerp(momentum, MOMENTUM)))
            for shape, pairs in alike.items():  # matrices of a shape together: nearly twice as fast on a CPU
                updates = orthogonal(torch.stack([momentum for _, momentum in pairs]))
                rate = group["lr"] * SIZE * math.sqrt(max(shape))
                for (weight, _), update in zip(pairs, updates, strict=True):
                    weight.sub_((rate * update).view(weight.shape))

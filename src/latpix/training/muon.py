"""Muon: momentum whose update is made orthogonal, for convolution kernels seen as matrices [out, in * kernel].

    m <- beta m + (1 - beta) g;     u = orthogonal(beta m + (1 - beta) g);     w <- w - rate * 0.2 sqrt(max(n, k)) * u

The factor gives the update the size (rms 0.2) that Adam's has, so that both share one learning rate.
`orthogonal` is five steps of a quintic Newton-Schulz iteration in bfloat16: singular values end between 0.7 and 1.2.

Source: Jordan et al. 2024, "Muon"; the factor: Liu et al. 2025, "Muon is scalable", section 2.2. Letters: n rows,
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


def orthogonal(matrix: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """The nearest matrix whose singular values are about 1, in float32."""
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide.bfloat16() / (wide.norm() + 1e-7).bfloat16()
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    out: Tensor = x.T if matrix.shape[0] > matrix.shape[1] else x
    return out.float()


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions; biases and the outermost layers belong to Adam."""

    def __init__(self, weights: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                gradient = weight.grad.contiguous().flatten(1)  # [n, k]
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
                update = orthogonal(gradient.lerp(momentum, MOMENTUM))
                weight.sub_((update * (group["lr"] * SIZE * math.sqrt(max(update.shape)))).view(weight.shape))

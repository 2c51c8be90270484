"""Gates: how far the patch stream trusts the latent, less so the noisier the latent is.

    logit = proj([stream, feature]) - exp(log_alpha) * latent_sigma;    out = stream + sigmoid(logit) * feature

v1 has one trust value per channel, v1.5 one per token. Source: PiD, arXiv 2605.23902.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.precision import Linear


class Gate(nn.Module):
    """One gate, with the module's equation."""

    def __init__(self, width: int, kind: Literal["channel", "token"]) -> None:
        super().__init__()
        self.proj = Linear(2 * width, width if kind == "channel" else 1)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(5.0)))
        # A fresh gate is mostly open. It is never closed from the start: fresh features are zero already, and two zeros
        # would kill the gradient.
        nn.init.trunc_normal_(self.proj.weight, std=0.01)
        nn.init.constant_(self.proj.bias, 2.0)

    def forward(
        self,
        stream: Float[Tensor, "b n d"],
        feature: Float[Tensor, "b n d"],
        latent_sigma: Float[Tensor, "b #n 1"],  # one of the picture, or one per token
    ) -> Float[Tensor, "b n d"]:
        own = self.proj.weight.dtype  # joined in the type that they are multiplied in
        content = self.proj(torch.cat([stream.to(own), feature.to(own)], dim=-1))
        return stream + torch.sigmoid(content - self.log_alpha.exp() * latent_sigma) * feature

"""The toy network of the training goldens: it exercises a step's logic, with the signature of a real one.

    q    = nearest-upsample of (Q z) to the image size             Q acts on channels
    h    = M x + (timestep / 1000) tau + P mean-over-tokens(Y) + (1 - latent_sigma) q
    v    = h + tanh(h) / 10                                        the velocity
    feat = tanh(W avgpool_4(h))                                    the one tapped feature map, [b, 8, H/4, W/4]
    aux  = tanh(nearest-upsample-by-2 of (R z))                    the RGB head's picture

Letters: b batch, z latent, Y caption.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latpix.doctor.family import Tensors
from latpix.training.given import per_pixel


@dataclass(frozen=True)
class ToyNetwork:
    """Its parameters by their letters, which collect gradients."""

    weights: Tensors

    @classmethod
    def of(cls, weights: Tensors, *, trained: bool = True) -> "ToyNetwork":
        """One of a golden's, with weights of its own."""
        return cls({name: weight.clone().requires_grad_(trained) for name, weight in weights.items()})

    def __call__(self, x: Tensor, timestep: Tensor, z: Tensor, latent_sigma: Tensor, caption: Tensor | None) -> Tensor:
        hidden = self._hidden(x, timestep, z, latent_sigma, caption)
        return hidden + 0.1 * hidden.tanh()

    def features(
        self, x: Tensor, timestep: Tensor, z: Tensor, latent_sigma: Tensor, caption: Tensor | None
    ) -> list[Tensor]:
        """Its one feature map."""
        hidden = self._hidden(x, timestep, z, latent_sigma, caption)
        return [self._on_channels("W", F.avg_pool2d(hidden, 4)).tanh()]

    def rgb(self, z: Tensor) -> Tensor:
        """The RGB head's picture."""
        return F.interpolate(self._on_channels("R", z), scale_factor=2, mode="nearest").tanh()

    def _hidden(self, x: Tensor, timestep: Tensor, z: Tensor, latent_sigma: Tensor, caption: Tensor | None) -> Tensor:
        assert caption is not None
        q = F.interpolate(self._on_channels("Q", z), size=x.shape[-2:], mode="nearest")
        time = timestep[:, None] / 1000 * self.weights["tau"] + caption.mean(1) @ self.weights["P"].T  # [b, 3]
        return self._on_channels("M", x) + time[..., None, None] + (1 - per_pixel(latent_sigma)) * q

    def _on_channels(self, letter: str, x: Tensor) -> Tensor:
        return torch.einsum("ij, bjhw -> bihw", self.weights[letter], x)

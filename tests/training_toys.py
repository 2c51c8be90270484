"""The toy network of the goldens with drawn weights, and a small batch for it."""

import torch

from latpix.doctor.toy_network import ToyNetwork
from latpix.training.draws import Seeded
from latpix.training.given import Given

SHAPES = {"M": (3, 3), "tau": (3,), "P": (3, 6), "Q": (3, 4), "W": (8, 3), "R": (3, 4)}


def toy(seed):
    generator = torch.Generator().manual_seed(seed)
    return ToyNetwork.of({name: 0.5 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()})


def small_batch(count=3):
    """Pictures of 16 x 16, and the condition that goes with them."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1
    latent = torch.randn(count, 4, 2, 2, generator=generator)
    caption = torch.randn(count, 5, 6, generator=generator)
    return pixels, Given(latent, torch.linspace(0, 0.8, count), caption)


class Listed:
    """Seeded draws that write their names down; those in ``instead`` come from there."""

    def __init__(self, seed=2, **instead):
        self.inner, self.instead, self.made = Seeded(torch.Generator().manual_seed(seed)), instead, []

    def _draw(self, kind, name, *rest):
        self.made.append(name)
        drawn = getattr(self.inner, kind)(name, *rest)
        return self.instead.get(name, drawn)

    def uniform(self, name, shape):
        return self._draw("uniform", name, shape)

    def normal(self, name, shape):
        return self._draw("normal", name, shape)

    def choice(self, name, shape, count):
        return self._draw("choice", name, shape, count)


def has_gradient(network):
    return any(weight.grad is not None and weight.grad.any() for weight in network.weights.values())

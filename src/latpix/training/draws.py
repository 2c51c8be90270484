"""Random draws of a training step, by name: seeded ones for training, recorded ones for tests.

Every objective asks for its draws in a fixed order, and only for those that it uses. The names are the objective's;
``rollout`` and ``rollout_step`` (training/student_samples.py) say how often a network runs, so where its weights are
sharded over ranks they must come out alike on all of them.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Draws(Protocol):
    """Where randomness comes from; shapes are tuples, an empty one is a single number."""

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Even in [0, 1), float32."""
        ...

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normals, float32."""
        ...

    def choice(self, name: str, shape: tuple[int, ...], count: int) -> Tensor:
        """Whole numbers from 0 to ``count - 1``, all alike, int64."""
        ...


class Seeded:
    """Draws of one generator; its state is all that a resumed run needs."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def choice(self, name: str, shape: tuple[int, ...], count: int) -> Tensor:
        return torch.randint(count, shape, generator=self.generator, device=self.generator.device)


class Recorded:
    """Draws that were written down, by name; ``made`` lists those that were asked for, in order."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.made: list[str] = []

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        self.made.append(name)
        tensor = self.tensors[name]
        assert tensor.shape == shape, f'"{name}" was recorded as {tuple(tensor.shape)}, but {shape} is asked for'
        return tensor

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.uniform(name, shape)

    def choice(self, name: str, shape: tuple[int, ...], count: int) -> Tensor:
        return self.uniform(name, shape)

"""What a recipe hands to the loop: networks, data, losses. The loop knows none of their insides.

A sample has a number within its step, counted over all processes, and all that is random about it comes from
(seed, step, number): so a batch is the same on one process or several, at once or accumulated, and a run that goes on
needs no generator's state.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from latpix.training.given import Step
from latpix.training.learning import Learn, everything

Draw = Callable[[torch.Generator, tuple[int, ...]], Tensor]
TOGETHER, APART = 0, 1  # what a draw belongs to: all samples of a step, or one of them


@dataclass(frozen=True, kw_only=True)
class Part:
    """A network that is trained, and how."""

    network: nn.Module
    learning_rate: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_updates: int = 0  # of its own updates, not of the run's steps
    muon: tuple[str, ...] = ()  # matrices and kernels whose names begin so are Muon's, the rest AdamW's
    clip: float | None = 0.1  # largest L2 norm of its gradient; None: as it is


class SampleDraws:
    """Seeded draws (training/draws.py) of some samples: row i of a draw is a function of its name and of sample i.

    So neither the other samples of a batch nor draws that an objective left out change it. Draws of a single number
    (shape ``()``) belong to the step: all processes get the same. Kinds of devices differ in what they draw.
    """

    def __init__(self, seed: int, step: int, samples: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seed, self.step, self.samples = seed, step, samples
        self.device = device
        self.asked: Counter[str] = Counter()

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._draw(name, shape, lambda own, rest: torch.rand(rest, generator=own, device=own.device))

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._draw(name, shape, lambda own, rest: torch.randn(rest, generator=own, device=own.device))

    def choice(self, name: str, shape: tuple[int, ...], count: int) -> Tensor:
        return self._draw(name, shape, lambda own, rest: torch.randint(count, rest, generator=own, device=own.device))

    def _draw(self, name: str, shape: tuple[int, ...], draw: Draw) -> Tensor:
        which = (zlib.crc32(name.encode()), self.asked[name])
        self.asked[name] += 1
        if not shape:
            return draw(self._generator(*which, TOGETHER), ())
        assert shape[0] == len(self.samples), f"{shape[0]} rows for {len(self.samples)} samples"
        return torch.stack([draw(self._generator(*which, APART, sample), shape[1:]) for sample in self.samples])

    def _generator(self, *numbers: int) -> torch.Generator:
        """One that these numbers seed, on the device; near numbers give unlike draws."""
        state = np.random.SeedSequence((self.seed, self.step, *numbers)).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(state[0] >> np.uint64(1)))


@runtime_checkable  # the tests check every signature at run time
class Job(Protocol):
    """One recipe, built. ``parts`` are trained; ``frozen`` are only asked."""

    name: str
    parts: Mapping[str, Part]
    frozen: Mapping[str, nn.Module]
    averaged: str  # the part whose average is kept, sampled and exported

    def turn(self, step: int) -> tuple[str, ...]:
        """The parts that a step updates."""
        ...

    def draw(self, step: int, samples: Sequence[int]) -> Any:
        """The data of these samples of a step; ``names`` can tell what they are."""
        ...

    def names(self, batch: Any) -> list[str]:
        """Where each sample of a batch came from, for the message when its loss is no number."""
        ...

    def losses(self, batch: Any, step: int, draws: SampleDraws) -> Step:
        """One step's losses; those of ``self.parts`` that have no turn are not updated, whatever gradient they get."""
        ...

    def position(self) -> dict[str, Any]:
        """Where the data stand, as JSON can hold it; empty where ``draw`` depends on its arguments alone."""
        ...

    def seek(self, position: dict[str, Any]) -> None:
        """Stand where ``position`` was taken."""
        ...

    def sample(self, average: nn.Module) -> Tensor | None:
        """A grid of pictures [3, H, W] that the average paints now, the same condition and noise each time."""
        ...

    def export(self, average: Mapping[str, Tensor], folder: Path, steps: int) -> Path | None:
        """Write the average, whole tensors by name, as a checkpoint file."""
        ...


class Source(Protocol):
    """Data that are drawn by sample number; a batch has ``names``."""

    def draw(self, step: int, samples: Sequence[int]) -> Any:
        """These samples of a step."""
        ...


class FromData:
    """The part of a job that says what it learns from; ``data`` depend on a step's and its samples' numbers alone."""

    data: Source

    def draw(self, step: int, samples: Sequence[int]) -> Any:
        return self.data.draw(step, samples)

    def names(self, batch: Any) -> list[str]:
        return list(batch.names)

    def position(self) -> dict[str, Any]:
        return {}

    def seek(self, position: dict[str, Any]) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Call:
    """One way in which a step asks a denoiser, for the forecast."""

    network: str
    times: float = 1.0  # for each batch, on the average of all steps
    backward: bool = True
    learn: Learn = everything
    after: tuple[int, ...] = ()  # only the features after these patch blocks


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a recipe will train on, before anything is loaded: for ``--dry-run``."""

    trained: Mapping[str, nn.Module]  # on the meta device
    frozen: Mapping[str, nn.Module]
    alive: tuple[str, ...]  # networks whose activations are kept at the same time, at worst
    samples_per_epoch: int | None  # crops that share no pixel; None where they are made up without end
    calls: tuple[Call, ...] = ()  # of all denoisers; without them operations are not foretold

"""Squares of photographs, each a picture of its own, drawn by sample number: what flux2-lite learns from.

    a sample:  8 squares of size / 3 pixels, or 2 of 2 size / 3, or 1 of size        all samples of a step alike

A square is a place of a photograph at full, half or quarter size, mirrored or not, rather one with detail.
Letters: b squares, s their side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from latpix.errors import UsageError
from latpix.training.photographs import Photograph, detail, read, reduce, to_pixels

GROUPS = {1: 8, 2: 2, 3: 1}  # squares of a sample, by their side in thirds of the largest
THIRD = 32  # pixels that a third is a multiple of: two latent cells, of which a mean is taken
REDUCTIONS = (1, 2, 4)
DETAIL = 2.0  # levels: a square has at least this much, or one chance in four
SIDES = 1  # tells the generator of a step's side from those of its samples, whose fourth number would be 0


@dataclass(frozen=True)
class SquareBatch:
    """The squares of some samples, ``group`` for each."""

    pixels: Float[Tensor, "b 3 s s"]
    group: int
    names: list[str]


class Squares:
    """The photographs, and how to draw from them.

    Raises:
        UsageError: the size is no multiple of 96, or no photograph has room for such a square.
    """

    def __init__(self, photographs: Sequence[Photograph], *, size: int, seed: int) -> None:
        if size % (3 * THIRD):
            raise UsageError(
                f"size={size}: expected a multiple of {3 * THIRD}, so that its thirds are pairs of latent cells."
            )
        self.size, self.seed = size, seed
        self.names = [photograph.path.name for photograph in photographs]
        self.pictures = [read(photograph) for photograph in photographs]
        largest = max((min(picture.shape[-2:]) for picture in self.pictures), default=0)
        if largest < size:
            raise UsageError(f"size={size}: no photograph has room for it; the largest square is one of {largest}.")

    def draw(self, step: int, samples: Sequence[int]) -> SquareBatch:
        """The squares of these samples of a step."""
        third = 1 + int(np.random.default_rng((self.seed, step, 0, SIDES)).integers(len(GROUPS)))
        squares, names = [], []
        for sample in samples:
            generator = np.random.default_rng((self.seed, step, sample))
            for _ in range(GROUPS[third]):
                square, name = self._square(generator, third * self.size // 3)
                squares.append(square)
                names.append(name)
        return SquareBatch(to_pixels(torch.stack(squares)), GROUPS[third], names)

    def _square(self, generator: np.random.Generator, length: int) -> tuple[UInt8[Tensor, "3 s s"], str]:
        while True:
            index = int(generator.integers(len(self.pictures)))
            levels, by = self.pictures[index], REDUCTIONS[int(generator.integers(len(REDUCTIONS)))]
            side = length * by
            if min(levels.shape[-2:]) < side:
                continue
            top, left = (int(generator.integers(whole - side + 1)) for whole in levels.shape[-2:])
            square = levels[:, top : top + side, left : left + side]
            if by > 1:
                square = reduce(square, by)
            if generator.random() < 0.5:
                square = square.flip(-1)
            if float(detail(square, length)) >= DETAIL or generator.random() < 0.25:
                return square.contiguous(), f"{self.names[index]} at {left},{top}, {side} pixels"


def count_squares(photographs: Sequence[Photograph], size: int) -> int:
    """How many of the largest squares share no pixel; reads no more of a picture than its size."""
    total = 0
    for photograph in photographs:
        with Image.open(photograph.path) as picture:
            total += sum((picture.height // by // size) * (picture.width // by // size) for by in REDUCTIONS)
    return total

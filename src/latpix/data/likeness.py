"""Pictures that look the same though their bytes differ: saved again, or at another size.

A picture's look is a 16x16 grid of signs (is a cell lighter than its right neighbour?), 256 bits, and 8x8 mean colours.
Two pictures are alike if at most ``BITS`` signs differ, no mean colour by more than ``COLOUR`` levels, and their aspect
ratios by no more than 2 %. Candidates share one of 16 rows of signs, so that no picture is compared with all others.
A mirrored picture, or another crop, is another picture.

Source: difference hash, Krawetz 2013; search by parts, Norouzi, Punjani, Fleet 2012.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

GRID, COLOURS = 16, 8
STEP = 1.5  # levels that a cell must be lighter by, so that flat areas have no sign
BITS, COLOUR, ASPECT = 40, 12, 0.02


@dataclass(frozen=True)
class Look:
    """What is compared of a picture."""

    signs: int
    colours: bytes  # 8x8x3 levels
    aspect: float  # width / height

    def is_like(self, other: "Look") -> bool:
        """Whether a person would call them the same picture."""
        if abs(self.aspect / other.aspect - 1) > ASPECT or (self.signs ^ other.signs).bit_count() > BITS:
            return False
        mine, theirs = (np.frombuffer(look.colours, dtype=np.uint8).astype(int) for look in (self, other))
        return bool(np.abs(mine - theirs).max() <= COLOUR)

    def rows(self) -> list[tuple[int, int]]:
        """Number and signs of each row of the grid that has any; of a flat picture the first."""
        rows = [(row, self.signs >> (GRID * row) & 0xFFFF) for row in range(GRID)]
        return [row for row in rows if row[1]] or rows[:1]

    def to_json(self) -> list[Any]:
        """As JSON can hold it."""
        return [f"{self.signs:x}", self.colours.hex(), self.aspect]

    @classmethod
    def from_json(cls, value: list[Any]) -> "Look":
        """Of ``to_json``."""
        return cls(int(value[0], 16), bytes.fromhex(value[1]), value[2])


def look_at(levels: UInt8[Tensor, "3 H W"]) -> Look:
    """The look of a picture."""
    picture = levels[None].float()
    luma = F.adaptive_avg_pool2d(picture.mean(1, keepdim=True), (GRID, GRID + 1))[0, 0]  # [16, 17]
    bits = (luma[:, :-1] - luma[:, 1:] > STEP).flatten().tolist()
    colours = F.adaptive_avg_pool2d(picture, COLOURS).round().to(torch.uint8)
    signs = sum(1 << place for place, bit in enumerate(bits) if bit)
    return Look(signs, colours.numpy().tobytes(), levels.shape[2] / levels.shape[1])


class Seen:
    """The looks so far, and which name each has."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], list[tuple[Look, str]]] = {}

    def find(self, look: Look) -> str | None:
        """The name of one that looks the same, if there is any."""
        for row in look.rows():
            for other, name in self._rows.get(row, []):
                if look.is_like(other):
                    return name
        return None

    def add(self, look: Look, name: str) -> None:
        """Remember one."""
        for row in look.rows():
            self._rows.setdefault(row, []).append((look, name))

"""A picture that is worked on in parts: in memory, or where it is too large for that, in a memory-mapped file.

The file is mapped anew for every part, so that what the process holds is that part and not the picture.
Letters: H W pixels of the picture, h w of a part.
"""

import secrets
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BYTES = 3 * 4  # per pixel


class Canvas:
    """Pixels [1, 3, H, W], float32, zero at first; parts are given as slices of rows and of columns."""

    def __init__(
        self, height: int, width: int, *, device: torch.device | str = "cpu", folder: Path | None = None
    ) -> None:
        """Take a device's memory, or with ``folder`` a file there; parts come to the device either way."""
        self.height, self.width, self.device = height, width, torch.device(device)
        self._pixels = torch.empty(1, 3, height, width, device=device) if folder is None else None
        self._path = None if folder is None else folder / f"{secrets.token_hex(6)}.canvas"
        self.clear()

    @classmethod
    def holding(cls, pixels: Float[Tensor, "1 3 H W"]) -> Self:
        """These very pixels, in memory."""
        canvas = cls(0, 0, device=pixels.device)
        canvas.height, canvas.width, canvas._pixels = *pixels.shape[2:], pixels
        return canvas

    def clear(self) -> None:
        """Zero all of it."""
        if self._path is None:
            self.whole().zero_()
            return
        with self._path.open("wb") as file:  # empty, then long again: a hole in a file reads as zeros
            file.truncate(self.height * self.width * BYTES)

    def read(self, rows: slice, columns: slice) -> Float[Tensor, "1 3 h w"]:
        """A part; in memory it is a view."""
        part = self.whole()[..., rows, columns]
        return part if self._path is None else part.clone().to(self.device)

    def write(self, rows: slice, columns: slice, pixels: Float[Tensor, "1 3 h w"]) -> None:
        """Replace a part."""
        self.whole()[..., rows, columns] = pixels.to(self._rests_on)

    def add(self, rows: slice, columns: slice, pixels: Float[Tensor, "1 3 h w"]) -> None:
        """Add to a part."""
        self.whole()[..., rows, columns] += pixels.to(self._rests_on)

    def whole(self) -> Float[Tensor, "1 3 H W"]:
        """All of it; of a file, a mapping that takes memory only where it is touched, and while it is kept."""
        if self._pixels is not None:
            return self._pixels
        assert self._path is not None
        return torch.from_numpy(np.memmap(self._path, np.float32, "r+", shape=(1, 3, self.height, self.width)))

    @property
    def _rests_on(self) -> torch.device:
        return self.device if self._path is None else torch.device("cpu")

"""A picture, or a map of features, that is worked on in parts: in memory, or where too large for it, in a mapped file.

The file is mapped anew for every part, so that what the process holds is that part and not the picture.
Letters: c channels, H W of the whole, h w of a part.
"""

import os
import secrets
import weakref
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_SAME_SIZE = {2: np.int16, 4: np.int32}  # numpy knows no bfloat16; bits are bits


class Canvas:
    """[1, c, H, W], zero at first; parts are given as slices of rows and of columns."""

    def __init__(
        self,
        height: int,
        width: int,
        *,
        channels: int = 3,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
    ) -> None:
        """Take a device's memory, or with ``folder`` a file there; parts come to the device either way."""
        self.height, self.width, self.channels = height, width, channels
        self.device, self.dtype = torch.device(device), dtype
        self._values = None if folder else torch.empty(1, channels, height, width, device=device, dtype=dtype)
        self._path = folder and folder / f"{secrets.token_hex(6)}.canvas"
        if self._path:
            weakref.finalize(self, self._path.unlink, missing_ok=True)
        self.clear()

    @classmethod
    def holding(cls, values: Float[Tensor, "1 c H W"]) -> Self:
        """These very values, in memory."""
        _, channels, height, width = values.shape
        canvas = cls(0, 0, channels=channels, dtype=values.dtype, device=values.device)
        canvas.height, canvas.width, canvas._values = height, width, values
        return canvas

    def clear(self) -> None:
        """Zero all of it."""
        if self._path is None:
            self.whole().zero_()
            return
        size = bytes_of(self.height, self.width, self.channels, self.dtype)
        with self._path.open("wb") as file:  # empty, then long again: what was never written reads as zeros
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here; found through the mapping it is SIGBUS
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)

    def read(self, rows: slice, columns: slice = slice(None)) -> Float[Tensor, "1 c h w"]:
        """A part; in memory it is a view."""
        part = self.whole()[..., rows, columns]
        return part if self._path is None else part.clone().to(self.device)

    def write(self, rows: slice, columns: slice, values: Float[Tensor, "1 c h w"]) -> None:
        """Replace a part."""
        self.whole()[..., rows, columns] = values.to(self._rests_on)

    def add(self, rows: slice, columns: slice, values: Float[Tensor, "1 c h w"]) -> None:
        """Add to a part."""
        self.whole()[..., rows, columns] += values.to(self._rests_on)

    def whole(self) -> Float[Tensor, "1 c H W"]:
        """All of it; of a file, a mapping that takes memory only where it is touched, and while it is kept."""
        if self._values is not None:
            return self._values
        assert self._path is not None
        shape = (1, self.channels, self.height, self.width)
        bits = np.memmap(self._path, _SAME_SIZE[self.dtype.itemsize], "r+", shape=shape)
        return torch.from_numpy(bits).view(self.dtype)

    @property
    def _rests_on(self) -> torch.device:
        return self.device if self._path is None else torch.device("cpu")


def bytes_of(height: int, width: int, channels: int = 3, dtype: torch.dtype = torch.float32) -> int:
    """What a canvas of this size takes."""
    return height * width * channels * dtype.itemsize

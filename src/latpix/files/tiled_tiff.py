"""A picture too large for memory, written in tiles: TIFF 6.0, section 15, BigTIFF above 4 GB of levels.

Tiles are compressed without loss (deflate). How the picture was made is in ImageDescription, as in our other TIFFs.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from jaxtyping import Float
from torch import Tensor

from latpix.errors import OutputError, PictureError
from latpix.files import colour
from latpix.files.atomic import FULL, check_output, writing

SUFFIXES = (".tif", ".tiff")
SIDE = 512  # pixels of a tile
BIG = 2**32 - 2**26  # bytes of levels, above which offsets may need 64 bits

Part = Callable[[slice, slice], Float[Tensor, "1 3 h w"]]  # rows and columns of a picture -> its pixels there


def save_tiff(
    part: Part,
    height: int,
    width: int,
    path: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    icc_profile: bytes | None = None,
    overwrite: bool = False,
) -> None:
    """Write a picture as 8-bit RGB, a tile at a time.

    Args:
        part: gives pixels in [-1, 1] of a part; values outside are clamped.
        height, width: of the picture.
        path: ends in .tif or .tiff; its folder must exist.
        metadata, icc_profile, overwrite: as of ``save_picture``.

    Raises:
        PictureError: a part holds NaN.
        OutputError: another suffix, an existing output, a missing folder, a full disk.
    """
    check_tiff_output(path, overwrite=overwrite)
    with writing(path, overwrite=overwrite) as file:
        tifffile.imwrite(
            file,
            _tiles(part, height, width),
            shape=(height, width, 3),
            dtype=np.uint8,
            tile=(SIDE, SIDE),
            photometric="rgb",
            compression="adobe_deflate",
            predictor=True,
            description=None if metadata is None else json.dumps({"latpix": dict(metadata)}),
            metadata=None,  # no description of its own
            iccprofile=icc_profile,
            bigtiff=height * width * 3 > BIG,
        )


def check_tiff_output(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a name that cannot be written, before any work starts.

    Raises:
        OutputError: another suffix, an existing output, a missing folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f'"{path}" does not end in {" or ".join(SUFFIXES)}: only TIFF is written in parts.')
    check_output(path, overwrite=overwrite)


def check_room(path: Path, size: int) -> None:
    """There is room for ``size`` bytes on the disk that the output goes to.

    Raises:
        OutputError: there is not. A full disk would end the process when a mapped file is written to.
    """
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OutputError(
            f'"{path}" needs {size / 2**30:.1f} GiB beside it while it is painted, and the disk has '
            f"{free / 2**30:.1f} GiB: free some space, or choose another disk."
        )


@contextmanager
def room_beside(path: Path) -> Iterator[Path]:
    """A folder for what is between steps, on the disk that the output goes to; it goes when the block ends.

    Raises:
        OutputError: it cannot be made, the disk is full inside the block, or a file in it fails there; another file's
            error passes.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=".latpix-", dir=path.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(_reason(error, path)) from error
    with made as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if error.filename is not None and not str(error.filename).startswith(folder):
                raise
            raise OutputError(_reason(error, path)) from error


def _reason(error: OSError, path: Path) -> str:
    if error.errno in FULL:
        return (
            f'the disk is full: "{path}" needs room beside it while it is painted; free some space, or choose another '
            "disk."
        )
    return f'what lies beside "{path}" while it is painted cannot be kept there: {error.strerror or error}.'


def _tiles(part: Part, height: int, width: int) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Levels, row-major; the tiles at the right and at the bottom are filled up with zeros."""
    for top in range(0, height, SIDE):
        for left in range(0, width, SIDE):
            pixels = part(slice(top, min(top + SIDE, height)), slice(left, min(left + SIDE, width)))[0]
            if not torch.isfinite(pixels).all():
                raise PictureError("pixel values are NaN or infinite; nothing was written.")
            tile = np.zeros((SIDE, SIDE, 3), np.uint8)
            tile[: pixels.shape[1], : pixels.shape[2]] = np.asarray(colour.pack(pixels))
            yield tile

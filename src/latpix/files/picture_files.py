"""Picture files: PNG, JPEG, WebP and TIFF in, the same out, with how they were made written inside.

Levels 0 to 255 are pixels -1 to 1:  pixels = levels / 127.5 - 1,  levels = round((pixels + 1) * 127.5).
What becomes of other depths and colour modes is in ``colour``. The header is checked against a pixel budget before
anything is unpacked. How a picture was made is JSON: in PNG the iTXt entry ``latpix``, elsewhere EXIF's
ImageDescription (as ``{"latpix": ...}``, with \\u escapes because the tag is ASCII; Pillow drops UserComment from a
compressed TIFF).
"""

import io
import json
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from torch import Tensor

from latpix.errors import OutputError, PictureError
from latpix.files import colour
from latpix.files.atomic import check_output, writing
from latpix.files.inputs import check_input

PIXEL_BUDGET = 150_000_000  # a 16K picture (15360x8640) passes; half a gigabyte of levels
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")

_READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,  # of a multi-picture JPEG, as cameras write, the main picture
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"II+\0": TiffImagePlugin.TiffImageFile,
}
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 4},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True, "quality": 50},  # lossy WebP halves the colour resolution
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
# What Pillow's readers are known to raise on damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True, kw_only=True)
class PictureInfo:
    """What a picture's header says."""

    format: str  # PNG, JPEG, WEBP or TIFF
    height: int  # pixels, upright
    width: int
    icc_profile: bytes | None  # of the RGB pixels that `read_picture` gives


def read_picture(path: str | Path, *, pixel_budget: int = PIXEL_BUDGET) -> Float[Tensor, "1 3 H W"]:
    """Read a still picture, upright (EXIF orientation honoured), transparency laid over white.

    Args:
        path: a PNG, JPEG, WebP or TIFF file of any depth and colour mode that ``colour`` lists.
        pixel_budget: height times width that is refused when exceeded, before unpacking.

    Returns:
        Pixels in [-1, 1], float32. Values are those of the file: an RGB ICC profile is reported by ``picture_info``
        and not applied.

    Raises:
        PictureError: not a picture, damaged, animated, too large, or of an unknown colour mode.
    """
    with _opened(Path(path), pixel_budget) as image:
        image.load()
        upright = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
        return colour.unpack(upright, f'"{path}"')


def picture_info(path: str | Path, *, pixel_budget: int = PIXEL_BUDGET) -> PictureInfo:
    """What a picture's header says, without unpacking it.

    Raises:
        PictureError: as ``read_picture``, as far as a header can tell.
    """
    with _opened(Path(path), pixel_budget) as image:
        width, height = image.size
        # Pillow has turned a TIFF's size already.
        if image.format != "TIFF" and _orientation(image) in _TURNED:
            width, height = height, width
        return PictureInfo(
            format=image.format or "", height=height, width=width, icc_profile=colour.kept_profile(image)
        )


def save_picture(
    pixels: Tensor,
    path: str | Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    icc_profile: bytes | None = None,
    overwrite: bool = False,
) -> None:
    """Write pixels as an 8-bit picture, rounded to the nearest level; the suffix names the format.

    PNG, TIFF and WebP are written without loss, JPEG at quality 95 with full colour resolution.

    Args:
        pixels: ``[3,H,W]`` or ``[1,3,H,W]`` in [-1, 1]; values outside are clamped.
        path: ends in one of ``PICTURE_SUFFIXES``; its folder must exist.
        metadata: how the picture was made, as JSON can hold it; ``read_metadata`` gives it back.
        icc_profile: of the picture that it was made from.
        overwrite: replace a file that is there already.

    Raises:
        PictureError: ``pixels`` is not one RGB picture, or holds NaN.
        OutputError: an unknown suffix, an existing output, a missing folder, a full disk.
    """
    path = Path(path)
    kind = check_picture_output(path, overwrite=overwrite)
    data = io.BytesIO()
    try:
        colour.pack(_one_picture(pixels)).save(
            data, kind, icc_profile=icc_profile, **_OPTIONS[kind], **_story(kind, metadata)
        )
    except (OSError, ValueError, struct.error) as error:
        # The formats' own limits: WebP ends at 16383 pixels a side, JPEG at 65535 and at 64 kB of metadata.
        raise OutputError(f'"{path}" cannot be written as {kind}: {error}; PNG has no such limit.') from error
    with writing(path, overwrite=overwrite) as part:
        part.write_bytes(data.getbuffer())


def check_picture_output(path: Path, *, overwrite: bool = False) -> str:
    """The format that a picture's name asks for; refuses a name that cannot be written, before any work starts.

    Raises:
        OutputError: an unknown suffix, an existing output, a missing folder.
    """
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        suffixes = ", ".join(PICTURE_SUFFIXES)
        raise OutputError(f'"{path}" does not end in a suffix of a picture; expected one of {suffixes}.')
    check_output(path, overwrite=overwrite)
    return kind


def read_metadata(path: str | Path) -> dict[str, Any]:
    """How one of our pictures was made.

    Raises:
        PictureError: not a picture, or not one that latpix made (or an editor has dropped what it carried).
    """
    path = Path(path)
    with _opened(path, math.inf) as image:  # nothing is unpacked, and ours may be larger than what is read
        text = image.info.get("latpix") if image.format == "PNG" else _exif(image).get(ExifTags.Base.ImageDescription)
    try:
        story = json.loads(text or "")
        return dict(story if image.format == "PNG" else story["latpix"])
    except (ValueError, TypeError, KeyError) as error:
        raise PictureError(
            f'"{path}" does not say how it was made: latpix did not write it, or an editor did since.'
        ) from error


@contextmanager
def _opened(path: Path, pixel_budget: float) -> Iterator[ImageFile.ImageFile]:
    """A picture whose header is read and within bounds; what goes wrong while it is used says so in our words."""
    check_input(path, PictureError, "a picture")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what matters, we check
        try:
            with path.open("rb") as file, _reader(path, file.read(16))(path) as image:
                _check_header(image, path, pixel_budget)
                yield image
        except Image.DecompressionBombError as error:
            raise PictureError(f'"{path}" is too large, even for a larger pixel budget: {error}') from error
        except _DAMAGED as error:
            raise PictureError(f'"{path}" is damaged or truncated: {error}.') from error


def _reader(path: Path, start: bytes) -> type[ImageFile.ImageFile]:
    """Pillow's reader for a file that starts so; called directly, because Image.open adds a limit of its own."""
    for magic, reader in _READERS.items():
        if start.startswith(magic) and (magic != b"RIFF" or start[8:12] == b"WEBP"):
            return reader
    raise PictureError(f'"{path}" is not a picture that latpix reads (PNG, JPEG, WebP, TIFF); convert it first.')


def _check_header(image: ImageFile.ImageFile, path: Path, pixel_budget: float) -> None:
    width, height = image.size
    if width * height > pixel_budget:
        raise PictureError(
            f'"{path}" is {width}x{height} pixels ({width * height:,}), above the budget of {pixel_budget:,}; '
            "make it smaller, or cut it into parts."
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise PictureError(f'"{path}" holds {frames} frames; latpix reads still pictures: save one frame as a PNG.')


def _exif(image: Image.Image) -> Image.Exif:
    """What EXIF says; nothing, where it is broken, because the pixels may still be sound."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return Image.Exif()  # Pillow would unpack the picture to look behind it
    try:
        return image.getexif()
    except _DAMAGED:
        return Image.Exif()


def _orientation(image: Image.Image) -> int:
    """EXIF's number of how the camera was held: 1 is upright, 2 to 8 turned or mirrored."""
    number = _exif(image).get(ExifTags.Base.Orientation)
    return number if isinstance(number, int) and 1 <= number <= 8 else 1


def _one_picture(pixels: Tensor) -> Float[Tensor, "3 H W"]:
    picture = pixels.detach()[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels.detach()  # [3, H, W]
    if picture.ndim != 3 or len(picture) != 3 or picture.numel() == 0:
        shape = ", ".join(str(side) for side in pixels.shape)
        raise PictureError(f"pixels of shape [{shape}] are not one picture; expected [3, H, W] or [1, 3, H, W].")
    broken = int((~torch.isfinite(picture)).sum())
    if broken:
        raise PictureError(f"{broken} of {picture.numel()} pixel values are NaN or infinite; nothing was written.")
    return picture


def _story(kind: str, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of Pillow's ``save`` that carry how the picture was made."""
    if metadata is None:
        return {}
    if kind == "PNG":
        entries = PngImagePlugin.PngInfo()
        entries.add_itxt("latpix", json.dumps(dict(metadata), ensure_ascii=False))
        return {"pnginfo": entries}
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = json.dumps({"latpix": dict(metadata)})
    return {"exif": exif}

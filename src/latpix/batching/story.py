"""How a picture was made, as it is written into the picture: enough to make it again, to the bit."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latpix import __version__
from latpix.backbones.encode import PictureCodec
from latpix.backbones.vae import Vae
from latpix.batching.inputs import Kind
from latpix.decoder import Decoder
from latpix.files.latent_files import Latent
from latpix.output_sizes import LEAST_CELLS
from latpix.plan import Setting
from latpix.tiling import count_tiles


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The file that a picture was made from."""

    path: str  # as it was given
    sha256: str  # of the file
    kind: Kind
    codec_sha256: str | None = None  # of what encoded it, where it was a picture
    codec_tiled: bool = False  # whether it was cut into tiles for that


def origin_of(
    path: Path, kind: Kind, *, codec: PictureCodec | None = None, size: Sequence[int] | None = None
) -> Origin:
    """Of a file that is there, and of the codec that encoded it, as a picture of ``size`` (height, width)."""
    return Origin(
        path=_spelled(path),
        sha256=file_sha256(path),
        kind=kind,
        codec_sha256=codec.sha256 if codec else None,
        codec_tiled=isinstance(codec, Vae) and size is not None and codec.tiles(*size),
    )


def _spelled(path: Path) -> str:
    """A name, also one in bytes that are no text, so that it can be written down."""
    return os.fsencode(path).decode("utf-8", "replace")


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rounding_of(decoder: Decoder, setting: Setting) -> dict[str, Any]:
    """What the last bits of its pictures hang on: another device, or another way, agrees to rounding."""
    return {
        "device": decoder.device.type,
        "processes": decoder.team.size if decoder.team else 1,
        "compiled": decoder.compiled,
        "pieces": asdict(setting.pieces),
    }


def story_of(
    decoder: Decoder,
    latent: Latent,
    origin: Origin,
    *,
    index: int,
    size: tuple[int, int],
    setting: Setting,
    seed: int,
    steps: int | None,
    caption: str | None,
    caption_embedding: dict[str, Any] | None = None,
    in_files: bool = False,
    colour_lock: str | None = None,
    detail_map: Path | None = None,
) -> dict[str, Any]:
    """What a picture carries.

    Args:
        decoder: that painted it.
        latent: that it was painted from, with the latent_sigma that was told.
        origin: of the latent.
        index: of the picture in its latent file.
        size: (height, width) of the picture.
        setting: that it was painted in.
        seed, steps, caption: of the decode; steps None is the checkpoint's own number.
        caption_embedding: how the caption was embedded, where the checkpoint reads it.
        in_files: whether it was painted by ``decode_to_tiff``.
        colour_lock: what its colours were held to: "codec", "base decoder" or None.
        detail_map: the file of one.
    """
    height, width = size
    rows, columns = (max(side, LEAST_CELLS) for side in latent.tensor.shape[-2:])
    native = latent.native_height or latent.tensor.shape[-2] * decoder.space.downsample
    return {
        "made_by": f"latpix {__version__}",
        "checkpoint": decoder.checkpoint.name,
        "sha256": decoder.sha256,
        "seed": seed,
        "steps": steps or decoder.checkpoint.sampling.steps,
        "latent_sigma": latent.latent_sigma,
        "height": height,
        "width": width,
        "scale": height / native,
        "tiles": count_tiles(rows, columns, setting.tile),
        "tile": setting.tile,
        "in_files": in_files,
        "colour_lock": colour_lock,
        "detail_map": detail_map and {"path": _spelled(detail_map), "sha256": file_sha256(detail_map)},
        "caption": caption,
        "caption_embedding": caption_embedding,
        "dtype": str(decoder.dtype).removeprefix("torch."),
        **rounding_of(decoder, setting),
        "source": {"path": origin.path, "sha256": origin.sha256, "kind": origin.kind, "index": index},
        "encoder_sha256": origin.codec_sha256,
        "encoder_tiled": origin.codec_tiled,
    }

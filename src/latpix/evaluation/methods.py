"""The ways to make a picture that are compared: a checkpoint's decode, and the native decode enlarged the plain way.

    original [1,3,H,W] -> shrunk by the checkpoint's scale -> latent -> decode -> compared with the original

A method is opened when its first picture is due, so that what was measured before costs nothing. Letters: H W pixels.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latpix import __version__
from latpix.backbones.encode import PictureCodec, load_codec
from latpix.batching.captions import embed_captions
from latpix.batching.story import file_sha256
from latpix.checkpoints.load import check_here, peak_resident_bytes, peek, stored
from latpix.checkpoints.registry import CHECKPOINTS, Checkpoint, find
from latpix.decoder import Decoder
from latpix.errors import CheckpointError, PictureError, UsageError
from latpix.evaluation.figures import Reference
from latpix.evaluation.pictures import plain_upscale, rounded, shrink
from latpix.files.latent_files import Latent
from latpix.latents.spaces import LATENT_SPACES
from latpix.per_picture import no_caption
from latpix.tiling import cut_tiles

LEAST_NATIVE = 16  # pixels a side that can be encoded
PATCH = 16  # output pixels of a patch's side, as the released networks have it


@dataclass(frozen=True, kw_only=True)
class Painting:
    """How checkpoints decode; the words of ``Decoder.decode``, the same for every picture."""

    seed: int = 0
    steps: int | None = None
    tile: int | str = "auto"
    memory_limit: str | None = None
    caption: str | None = None
    caption_file: Path | None = None
    no_caption: bool = False
    caption_model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One result, what it is compared with, and what it cost."""

    pixels: Float[Tensor, "1 3 H W"]
    reference: Reference
    seconds: float | None = None
    peak_bytes: int | None = None  # CUDA's allocator; elsewhere the whole process at its highest so far


Make = Callable[[Sequence[Float[Tensor, "1 3 _ _"]]], Result]  # of a subject's pictures, the original last


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to make a picture; ``settings`` is all that its figures depend on."""

    label: str
    settings: Mapping[str, Any]
    scale: int
    open: Callable[[], Make]
    plain: bool = False


def methods_of(
    checkpoints: Sequence[str | Path],
    painting: Painting,
    *,
    like: str | None = None,
    vae: str | Path | None = None,
    model: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> list[Method]:
    """The plain way for each latent space and scale, then the checkpoints; what is wrong with one is said now.

    Raises:
        CheckpointError: no such checkpoint, or one that reads no latent.
        UsageError: one encoder was named for several spaces.
        CaptionError: a checkpoint reads a caption and there is none.
        OptionError, ScheduleError, MemoryLimitError: what was asked for, a checkpoint cannot do.
    """
    names = list(dict.fromkeys(map(str, checkpoints)))
    rows = {name: _checked(name, like, painting, device, dtype) for name in names}
    spaces = list(dict.fromkeys(row.space for row in rows.values()))
    if len(spaces) > 1 and (vae or model):
        raise UsageError(
            f"--vae and --model name one encoder, but these checkpoints read {len(spaces)} spaces "
            f"({', '.join(spaces)}); evaluate one space at a time."
        )
    codecs = {
        space: load_codec(space, vae=vae, model=model, device=device, dtype=dtype, memory_limit=painting.memory_limit)
        for space in spaces
    }
    plain = [_plain(codecs[space], scale) for space, scale in dict.fromkeys((r.space, r.scale) for r in rows.values())]
    return plain + [
        _painted(name, row, codecs[row.space], painting, _like(name, like), device, dtype) for name, row in rows.items()
    ]


def _checked(name: str, like: str | None, painting: Painting, device: str, dtype: str) -> Checkpoint:
    """A checkpoint's row; it is here, and can do what is asked."""
    like = _like(name, like)
    check_here(name, like=like)
    row = peek(name, like=like)
    if not row.space:
        raise CheckpointError(f'"{name}" paints from text alone: no photograph can be encoded for it; name another.')
    captioned = painting.caption is not None or painting.caption_file is not None or painting.no_caption
    if row.network.caption_width and not captioned:
        raise no_caption(row)
    Decoder.without_weights(name, like=like, device=device, dtype=dtype).plan(
        height=8, width=8, steps=painting.steps, tile=painting.tile, memory_limit=painting.memory_limit
    )
    return row


def _plain(codec: PictureCodec, scale: int) -> Method:
    """The native decode, enlarged by Lanczos."""

    def make(pictures: Sequence[Float[Tensor, "1 3 _ _"]]) -> Result:
        original = pictures[-1]
        start = time.perf_counter()
        _, reference = _encoded(original, codec, scale)
        height, width = original.shape[-2:]
        pixels = plain_upscale(reference.native_decode, size=(height, width))
        return Result(pixels=pixels, reference=reference, seconds=time.perf_counter() - start)

    label = f"{codec.space} decode + Lanczos, {scale}x"
    return Method(label=label, settings=_encoding(codec, scale), scale=scale, open=lambda: make, plain=True)


def _painted(
    name: str, row: Checkpoint, codec: PictureCodec, painting: Painting, like: str | None, device: str, dtype: str
) -> Method:
    """A checkpoint's decode."""

    def opened() -> Make:
        captions = None
        if row.network.caption_width:  # before the decoder, so that the two encoders are not in memory together
            captions = embed_captions(
                [painting.caption],
                row,
                file=painting.caption_file,
                none=painting.no_caption,
                model=painting.caption_model,
                device=device,
            )
        decoder = Decoder.load(name, device=device, dtype=dtype, like=like)
        how: dict[str, Any] = {"tile": painting.tile, "memory_limit": painting.memory_limit}

        def make(pictures: Sequence[Float[Tensor, "1 3 _ _"]]) -> Result:
            original = pictures[-1]
            height, width = original.shape[-2:]
            latent, reference = _encoded(original, codec, row.scale)
            _forget_peak(decoder.device)
            start = time.perf_counter()
            pixels = decoder.decode(
                latent,
                caption=captions.embedding(painting.caption) if captions else None,
                null_caption=captions.negative if captions else None,
                seed=painting.seed,
                steps=painting.steps,
                size=None if codec.native_side is None else (height, width),
                **how,
            ).cpu()
            seconds = time.perf_counter() - start
            cells: tuple[int, int] = (latent.tensor.shape[2], latent.tensor.shape[3])
            side = decoder.last_settings[0].tile
            cell = reference.cell
            reference = Reference(**{**vars(reference), "seams": _seams(cells, side, cell, (height, width))})
            return Result(pixels=pixels, reference=reference, seconds=seconds, peak_bytes=_peak(decoder.device))

        return make

    settings = _encoding(codec, row.scale) | {
        "checkpoint_sha256": file_sha256(_file(name)),
        "steps": painting.steps or row.sampling.steps,
        "seed": painting.seed,
        "tile": painting.tile,
        "memory_limit": painting.memory_limit,
        "caption": None if not row.network.caption_width else painting.caption,
        "caption_file": str(painting.caption_file) if painting.caption_file else None,
        "caption_model": painting.caption_model,
    }
    return Method(label=name, settings=settings, scale=row.scale, open=opened)


@torch.no_grad()
def _encoded(original: Float[Tensor, "1 3 H W"], codec: PictureCodec, scale: int) -> tuple[Latent, Reference]:
    """The latent of an original's shrunk picture, and what a decode of it is compared with."""
    native = shrink(original, scale=scale)
    height, width = native.shape[-2:]
    if min(height, width) < LEAST_NATIVE:
        raise PictureError(
            f"the picture is {original.shape[3]}x{original.shape[2]}; shrunk {scale} times it is {width}x{height}, and "
            f"at least {LEAST_NATIVE} pixels a side can be encoded. Take a larger picture."
        )
    if codec.native_side is not None:
        height, width = codec.native_side, codec.native_side
    tensor = codec.encode(native.to(codec.device)).cpu().contiguous()
    native_decode = codec.decode(tensor.to(codec.device)).float().cpu()[..., :height, :width]
    reference = Reference(
        original=original,
        native_decode=rounded(native_decode),
        cell=LATENT_SPACES[codec.space].downsample * scale,
        patch=PATCH,
    )
    return Latent(tensor=tensor, space=codec.space, native_height=height, native_width=width), reference


def _encoding(codec: PictureCodec, scale: int) -> dict[str, Any]:
    """What the latents depend on."""
    return {
        "kind": "photographs",
        "latpix": __version__,
        "space": codec.space,
        "scale": scale,
        "codec_sha256": codec.sha256,
        "dtype": str(codec.dtype).removeprefix("torch."),
    }


def _seams(cells: tuple[int, int], side: int, cell: int, size: tuple[int, int]) -> tuple[list[int], list[int]] | None:
    """Output rows and columns where tiles begin or end; None for a picture that was painted whole."""
    tiles = cut_tiles(*cells, side)
    if len(tiles) == 1:
        return None
    rows = {cell * row for tile in tiles for row in (tile.top, tile.top + tile.height)}
    columns = {cell * column for tile in tiles for column in (tile.left, tile.left + tile.width)}
    return [row for row in sorted(rows) if 0 < row < size[0]], [c for c in sorted(columns) if 0 < c < size[1]]


def _like(name: str, like: str | None) -> str | None:
    """What a bare file follows; a name of the registry needs no such word."""
    return None if name in CHECKPOINTS and not Path(name).is_file() else like


def _file(name: str) -> Path:
    return stored(find(name)) if name in CHECKPOINTS and not Path(name).is_file() else Path(name)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_resident_bytes()

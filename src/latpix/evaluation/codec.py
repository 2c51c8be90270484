"""Measure a latent codec against TAEF2 on whole pictures at native size, and print the table.

    python -m latpix.evaluation.codec --assets DIR [--codec FILE]

    variance explained:  1 - mean over channels of mean((ours - z)^2) / var(z)     z = TAEF2's latents, of all pictures
    PSNR:                10 log10(4 / mean square error) of pixels in [-1, 1], mean over pictures
    colour:              |mean of decoded - mean of original| per picture and channel, in levels of 255
    grid:                energy of the mean error pattern of 16x16 pixels, rms in levels: 0 when no position is special

Letters: b batch, H W pixels, h w cells of 16 pixels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.backbones.codec import Codec
from latpix.backbones.lite import DOWNSAMPLE, channels_last
from latpix.backbones.lite_file import NAME
from latpix.backbones.taef2 import Taef2
from latpix.evaluation.metrics.psnr import psnr
from latpix.files.picture_files import read_picture


@dataclass(frozen=True, kw_only=True)
class CodecFigures:
    """What the table shows; PSNR in dB, colour and grid in levels of 255, times in ms for 512x512 pixels."""

    pictures: int
    variance_explained: float
    psnr_taef2_round_trip: float
    psnr_taef2_of_our_latents: float
    psnr_ours_of_taef2_latents: float
    psnr_own_round_trip: float
    colour_ours_of_taef2_latents: float
    colour_worst: float
    grid_ours_of_taef2_latents: float
    grid_taef2_round_trip: float
    ms_encode: float
    ms_decode: float
    ms_encode_taef2: float
    ms_decode_taef2: float


def variance_explained(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Share of the variance of `theirs` (each [b, c, h, w]) that `ours` gets right; channels count alike."""
    errors = torch.cat([(a - b).transpose(0, 1).flatten(1) for a, b in zip(ours, theirs, strict=True)], dim=1)  # [c, n]
    values = torch.cat([b.transpose(0, 1).flatten(1) for b in theirs], dim=1)  # [c, n]
    return float(1 - (errors.square().mean(1) / values.var(1)).mean())


def colour_error(decoded: Float[Tensor, "1 3 H W"], picture: Float[Tensor, "1 3 H W"]) -> Float[Tensor, " channels"]:
    """How far the mean colour is off, per channel, in levels."""
    return (decoded - picture).mean(dim=(0, 2, 3)).abs() * 127.5


def grid_error(errors: list[Float[Tensor, "1 3 H W"]]) -> float:
    """rms of the error's mean over all cells, position by position, without its overall mean: levels."""
    cells = [e.unfold(2, DOWNSAMPLE, DOWNSAMPLE).unfold(3, DOWNSAMPLE, DOWNSAMPLE).flatten(2, 3)[0] for e in errors]
    pattern = torch.cat(cells, dim=1).mean(1)  # [3, 16, 16]
    return float((pattern - pattern.mean(dim=(1, 2), keepdim=True)).square().mean().sqrt() * 127.5)


def milliseconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Median time of a call, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times) * 1e3


@torch.no_grad()
def measure(codec: Codec, taef2: Taef2, pictures: list[Path]) -> CodecFigures:
    """All figures on these pictures (sides multiples of 16), in float32 for TAEF2 and the codec's dtype for ours."""
    ours, theirs = [], []
    scores: dict[str, list[float]] = {"taef2": [], "taef2_of_ours": [], "ours_of_taef2": [], "own": []}
    colours, errors, errors_taef2 = [], [], []
    for path in pictures:
        picture = read_picture(path)
        z, latent = taef2.encode(picture), codec.encode(picture)
        ours.append(latent)
        theirs.append(z)
        decoded, reference = codec.decode(z), taef2.decode(z)
        scores["taef2"].append(float(psnr(reference, picture)))
        scores["taef2_of_ours"].append(float(psnr(taef2.decode(latent), picture)))
        scores["ours_of_taef2"].append(float(psnr(decoded, picture)))
        scores["own"].append(float(psnr(codec.decode(latent), picture)))
        colours.append(colour_error(decoded, picture))
        errors.append(decoded - picture)
        errors_taef2.append(reference - picture)
    square, cells = torch.rand(1, 3, 512, 512) * 2 - 1, torch.randn(1, 128, 32, 32)

    def at_same_precision(call: Callable[[Tensor], Tensor], value: Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=codec.dtype == torch.bfloat16):
                return call(value)

        return run

    return CodecFigures(
        pictures=len(pictures),
        variance_explained=variance_explained(ours, theirs),
        psnr_taef2_round_trip=mean(scores["taef2"]),
        psnr_taef2_of_our_latents=mean(scores["taef2_of_ours"]),
        psnr_ours_of_taef2_latents=mean(scores["ours_of_taef2"]),
        psnr_own_round_trip=mean(scores["own"]),
        colour_ours_of_taef2_latents=float(torch.stack(colours).mean()),
        colour_worst=float(torch.stack(colours).max()),
        grid_ours_of_taef2_latents=grid_error(errors),
        grid_taef2_round_trip=grid_error(errors_taef2),
        ms_encode=milliseconds(lambda: codec.encode(square)),
        ms_decode=milliseconds(lambda: codec.decode(cells)),
        ms_encode_taef2=milliseconds(at_same_precision(taef2.encode, square)),
        ms_decode_taef2=milliseconds(at_same_precision(taef2.decode, cells)),
    )


def table(figures: CodecFigures) -> str:
    """The figures as lines of a Markdown table."""
    rows = [
        ("variance of TAEF2's latents explained", f"{figures.variance_explained:.1%}"),
        ("TAEF2 round trip", f"{figures.psnr_taef2_round_trip:.2f} dB"),
        ("TAEF2's decoder, our latents", f"{figures.psnr_taef2_of_our_latents:.2f} dB"),
        ("our decoder, TAEF2's latents", f"{figures.psnr_ours_of_taef2_latents:.2f} dB"),
        ("our round trip", f"{figures.psnr_own_round_trip:.2f} dB"),
        ("mean colour off, our decoder: mean", f"{figures.colour_ours_of_taef2_latents:.2f}"),
        ("the same: worst", f"{figures.colour_worst:.2f}"),
        ("16-pixel grid: our decoder", f"{figures.grid_ours_of_taef2_latents:.3f}"),
        ("the same: TAEF2's decoder", f"{figures.grid_taef2_round_trip:.3f}"),
        ("encode 512²: ours / TAEF2", _times(figures.ms_encode, figures.ms_encode_taef2)),
        ("decode 512²: ours / TAEF2", _times(figures.ms_decode, figures.ms_decode_taef2)),
    ]
    return "\n".join([f"| {figures.pictures} pictures | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)])


def _times(ours: float, theirs: float) -> str:
    return f"{ours:.0f} / {theirs:.0f} ms ({theirs / ours:.1f} times faster)"


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure flux2-lite on the Kodak pictures.")
    parser.add_argument("--assets", type=Path, required=True, help="folder with photos/kodak and taef2/")
    parser.add_argument("--codec", default=NAME, help="the shipped codec's name, or a file")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pictures = sorted((arguments.assets / "photos" / "kodak").iterdir())
    taef2 = Taef2.load(arguments.assets / "taef2")
    channels_last(taef2)
    figures = measure(Codec.load(arguments.codec, dtype=arguments.dtype), taef2, pictures)
    print(json.dumps(asdict(figures)) if arguments.json else table(figures))


if __name__ == "__main__":
    main()

"""The demo: a shipped latent and the photograph that it came from, both decoded to four times the size, and measured.

    dandelion.safetensors (TAEF2's latent of dandelion.png) --flux2-tiny--> from_latent_4x.png
    dandelion.png --flux2-lite--> latent                    --flux2-tiny--> from_photograph_4x.png

Beside each, the plain way: the codec's own decode, enlarged by Lanczos. All are compared with the photograph at
2048x2048, of which dandelion.png is a quarter of the size.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latpix import __version__, resources
from latpix.backbones.codec import Codec
from latpix.batching.inputs import Failure, Kind, find_inputs
from latpix.batching.outputs import plan_work
from latpix.batching.paint import OnStep
from latpix.batching.run import decode, upscale
from latpix.decoder import Decoder
from latpix.errors import MissingExtraError
from latpix.evaluation.metrics.feature_distance import feature_distance
from latpix.evaluation.metrics.features import Features, features_of
from latpix.evaluation.metrics.mean_colour import mean_colour_difference
from latpix.evaluation.metrics.psnr import psnr
from latpix.evaluation.metrics.ssim import ssim
from latpix.evaluation.metrics.structure_texture import structure_texture_distance
from latpix.evaluation.pictures import plain_upscale, rounded, shrink
from latpix.evaluation.sheet import busiest, label
from latpix.files.atomic import writing
from latpix.files.latent_files import read_latent
from latpix.files.picture_files import read_picture, save_picture

LATENT, PHOTOGRAPH, ORIGINAL = "dandelion.safetensors", "dandelion.png", "dandelion_2048.jpg"
SHEET, FIGURES, TABLE = "side_by_side.png", "fidelity.json", "fidelity.md"
CELL, CROP, GAP = 480, 240, 6  # pixels: a cell of the sheet, the part that it shows enlarged, between cells
CALM = (0.6, 0.05)  # where little happens, as shares of height and width: grain and blocks would show


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How close one picture is to the photograph at 2048x2048."""

    file: str
    made: str  # how, in words
    psnr: float  # dB
    ssim: float
    feature: float | None  # distance; None without the extra `eval`
    structure_texture: float | None  # distance
    psnr_shrunk: float  # dB, at 512x512 against dandelion.png
    mean_colour: float  # levels of 255 off the photograph, worst channel
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What was made, and where."""

    folder: Path
    rows: list[Fidelity]
    fresh: bool  # false: it was there already, made with these very weights


def make_demo(
    folder: str | Path, *, decoder: Decoder, codec: Codec, on_step: OnStep | None = None, again: bool = False
) -> Demo:
    """Decode, measure, and lay side by side; nothing is done twice with the same weights on the same device.

    Args:
        folder: made when missing; the demo's own files in it are replaced.
        decoder: reads FLUX.2 latents, scale 4.
        codec: flux2-lite.
        on_step: called as ``on_step(step, steps)``.
        again: make everything anew.
    """
    folder = Path(folder)
    key = {
        "made_by": f"latpix {__version__}",
        "sha256": decoder.sha256,
        "codec_sha256": codec.sha256,
        "device": str(decoder.device),
        "dtype": str(decoder.dtype).removeprefix("torch."),
    }
    if not again and (rows := made_before(folder, key)):
        return Demo(folder=folder, rows=rows, fresh=False)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LATENT, PHOTOGRAPH):
        shutil.copyfile(resources.asset(f"demo/{name}"), folder / name)  # so that `verify` finds them beside the result
    original = read_picture(resources.asset(f"demo/{ORIGINAL}"))
    made = list(_pictures(folder, decoder, codec, on_step))
    looks = _features(original)
    rows = [_measured(folder / name, made_how, seconds, original, looks) for name, made_how, seconds in made]
    _write_sheet(folder, original)
    _write_text(folder / TABLE, table(rows))
    _write_text(folder / FIGURES, json.dumps({**key, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    return Demo(folder=folder, rows=rows, fresh=True)


def table(rows: list[Fidelity]) -> str:
    """The figures as a table in Markdown."""
    heads = ("made", "PSNR", "SSIM", "feature", "structure-texture", "PSNR at 512x512", "mean colour", "seconds")
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        distances = ["-" if value is None else f"{value:.4f}" for value in (row.feature, row.structure_texture)]
        lines.append(
            f"| {row.made} | {row.psnr:.2f} | {row.ssim:.4f} | {' | '.join(distances)} | {row.psnr_shrunk:.2f} "
            f"| {row.mean_colour:.2f} | {row.seconds:.1f} |"
        )
    lines.append("")
    lines.append(
        "Against the photograph at 2048x2048; distances are better when small, mean colour is in levels of 255."
    )
    return "\n".join(lines) + "\n"


def _pictures(folder: Path, decoder: Decoder, codec: Codec, on_step: OnStep | None) -> Iterator[tuple[str, str, float]]:
    """Make every picture; its name, how it was made, and the seconds it took."""
    photograph = read_picture(folder / PHOTOGRAPH)
    latent = read_latent(folder / LATENT).tensor
    plain: tuple[tuple[str, str, Callable[[], Tensor]], ...] = (
        ("from_latent_plain.png", "latent, codec + Lanczos", lambda: codec.decode(latent)),
        ("from_photograph_plain.png", "photograph, codec + Lanczos", lambda: codec.decode(codec.encode(photograph))),
        ("photograph_lanczos.png", "photograph, Lanczos alone", lambda: photograph),
    )
    ours: tuple[tuple[str, str, str, Kind], ...] = (
        ("from_latent_4x.png", "latent, latpix", LATENT, "latent"),
        ("from_photograph_4x.png", "photograph, latpix", PHOTOGRAPH, "picture"),
    )
    for name, made, native in plain:
        start = time.perf_counter()
        save_picture(plain_upscale(native()), folder / name, overwrite=True)
        yield name, made, time.perf_counter() - start
    for name, made, source, kind in ours:
        work = plan_work(find_inputs([folder / source], kind), folder / name, reads=kind, existing="overwrite")
        if kind == "latent":
            (row,) = decode(work, decoder=decoder, overwrite=True, on_step=on_step)
        else:
            (row,) = upscale(work, decoder=decoder, codec=codec, overwrite=True, on_step=on_step)
        if isinstance(row, Failure):
            raise row.error
        yield name, made, row.seconds


def _measured(
    path: Path, made: str, seconds: float, original: Float[Tensor, "1 3 H W"], looks: Features | None
) -> Fidelity:
    """A picture's row; ``looks`` are the original's features."""
    pixels = read_picture(path)
    distances = _distances(features_of(pixels), looks) if looks is not None else (None, None)
    return Fidelity(
        file=path.name,
        made=made,
        psnr=psnr(pixels, original).item(),
        ssim=ssim(pixels, original).item(),
        feature=distances[0],
        structure_texture=distances[1],
        psnr_shrunk=psnr(shrink(pixels), shrink(original)).item(),
        mean_colour=mean_colour_difference(pixels, original).item(),
        seconds=seconds,
    )


def _distances(a: Features, b: Features) -> tuple[float, float]:
    """Feature distance and structure-texture distance."""
    return feature_distance(a, b).item(), structure_texture_distance(a, b).item()


def _features(original: Float[Tensor, "1 3 H W"]) -> Features | None:
    """What the two distances look at; None where the network that they look through is not installed."""
    try:
        return features_of(original)
    except MissingExtraError:
        return None


def _write_sheet(folder: Path, original: Float[Tensor, "1 3 H W"]) -> None:
    """Columns: ways to make the picture. Rows: the whole of it, the busiest part and a calm part, twice enlarged."""
    columns = {
        "what goes in: 512x512": F.interpolate(read_picture(folder / PHOTOGRAPH), scale_factor=4.0),
        "latent, codec + Lanczos": read_picture(folder / "from_latent_plain.png"),
        "latent, latpix": read_picture(folder / "from_latent_4x.png"),
        "photograph, latpix": read_picture(folder / "from_photograph_4x.png"),
        "the photograph at 2048x2048": original,
    }
    crops = (busiest(original, CROP), (int(CALM[0] * original.shape[-2]), int(CALM[1] * original.shape[-1])))
    strips = []
    for title, pixels in columns.items():
        parts = [label(title, CELL), rounded(F.interpolate(pixels, size=CELL, mode="bicubic", antialias=True))[0]]
        for top, left in crops:
            part = pixels[..., top : top + CROP, left : left + CROP]
            parts.append(F.interpolate(part, scale_factor=CELL / CROP)[0])
        strips.append(torch.cat([F.pad(part, (0, GAP, 0, GAP), value=1.0) for part in parts], dim=1))
    save_picture(torch.cat(strips, dim=2), folder / SHEET, overwrite=True)


def made_before(folder: Path, key: dict[str, Any]) -> list[Fidelity]:
    """The figures of an earlier run with the same key whose pictures are all there; else nothing."""
    try:
        found = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        rows = [Fidelity(**row) for row in found["rows"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    names = [SHEET, TABLE, LATENT, PHOTOGRAPH, *(row.file for row in rows)]
    same = all(found.get(name) == value for name, value in key.items())
    return rows if same and all((folder / name).is_file() for name in names) else []


def _write_text(path: Path, text: str) -> None:
    with writing(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")

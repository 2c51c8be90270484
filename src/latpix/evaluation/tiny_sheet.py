"""Twelve crops for looking: original, codec + Lanczos, another upscaler on the codec's decode, flux2-tiny's steps.

    python -m latpix.evaluation.tiny_sheet --assets DIR --natives NATIVES
    python -m latpix.evaluation.tiny_sheet --assets DIR [--peer NAME=DIR] --checkpoint flux2-tiny -o FILE.webp

The first command writes TAEF2's decodes as PNG, for another upscaler to enlarge 4 times under the same names; its
pictures are then a column of the sheet. Faces, text, foliage, buildings and night: Kodak's pictures, and one of
scikit-image.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.backbones.taef2 import Taef2
from latpix.decoder import Decoder
from latpix.errors import UsageError
from latpix.evaluation.pictures import Sample, kodak, plain_upscale, sample
from latpix.evaluation.sheet import Row, contact_sheet
from latpix.files.picture_files import read_picture, save_picture

STEPS = (1, 2, 4)
NIGHT = "rocket"  # of scikit-image
# what it shows, picture, top and left of the crop
CROPS = (
    ("face", "kodak 4", 230, 130), ("face", "kodak 15", 30, 390), ("face", "kodak 18", 80, 160),
    ("text", "kodak 5", 100, 230), ("text", "kodak 8", 220, 500), ("text", "kodak 10", 0, 120),
    ("foliage", "kodak 13", 100, 300), ("foliage", "kodak 22", 10, 500),
    ("building", "kodak 1", 220, 180), ("building", "kodak 19", 420, 30), ("building", "kodak 24", 130, 130),
    ("night", NIGHT, 60, 190),
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A picture of the sheet and its latent."""

    sample: Sample
    latent: Float[Tensor, "1 c h w"]
    native: Float[Tensor, "1 3 y x"]  # the codec's own decode


@torch.inference_mode()
def shown(assets: Path) -> Iterator[Shown]:
    """The twelve pictures, encoded by TAEF2.

    Raises:
        UsageError: a picture is missing.
    """
    taef2, known = Taef2.load(assets / "taef2"), {one.name: one for one in kodak(assets / "photos" / "kodak")}
    known[NIGHT] = sample(NIGHT, night())
    for _, name, _, _ in CROPS:
        latent = taef2.encode(known[name].native)
        yield Shown(known[name], latent, taef2.decode(latent))


def night() -> Float[Tensor, "1 3 H W"]:
    """A rocket on its pad at night (public domain), sides cut down to multiples of 64.

    Raises:
        UsageError: scikit-image does not carry it.
    """
    import skimage

    path = Path(skimage.__file__).parent / "data" / f"{NIGHT}.jpg"
    if not path.is_file():
        raise UsageError(f"{path} is missing: pip install scikit-image==0.26.0 carries it")
    pixels = read_picture(path)
    height, width = (side // 64 * 64 for side in pixels.shape[-2:])
    return pixels[..., :height, :width]


def write_natives(assets: Path, folder: Path) -> None:
    """The codec's decodes as PNG files, by their pictures' names."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in shown(assets):
        save_picture(one.native[0], folder / f"{one.sample.name}.png", overwrite=True)


def draw(assets: Path, decoder: Decoder, peer: tuple[str, Path] | None, path: Path) -> None:
    """Write the sheet."""
    rows = []
    for (subject, name, top, left), one in zip(CROPS, shown(assets), strict=True):
        pictures = {"original": one.sample.original, "codec + Lanczos": plain_upscale(one.native)}
        if peer is not None:
            pictures[peer[0]] = read_picture(peer[1] / f"{name}.png")
        for steps in STEPS:
            title = f"ours, {steps} step{'s' * (steps > 1)}"
            pictures[title] = decoder.decode(one.latent, steps=steps).cpu()
        rows.append(Row(f"{subject}, {name}", pictures, top, left))
    contact_sheet(rows, path)


def main() -> None:
    """The commands of the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw flux2-tiny's sheet of crops.")
    parser.add_argument("--assets", type=Path, required=True, help="folder with photos/kodak and taef2/")
    parser.add_argument("--natives", type=Path, metavar="DIR", help="only write TAEF2's decodes there")
    parser.add_argument("--peer", metavar="NAME=DIR", help="another upscaler's pictures, and what to call it")
    parser.add_argument("--checkpoint", default="flux2-tiny", help="a name of the registry, or a file")
    parser.add_argument("-o", "--output", type=Path, help="replaced when it is there")
    arguments = parser.parse_args()
    name, _, folder = (arguments.peer or "").partition("=")
    if arguments.peer is not None and not (name and folder):
        parser.error(f'--peer {arguments.peer}: expected NAME=DIR, such as "nearest=pictures"')
    if arguments.natives:
        write_natives(arguments.assets, arguments.natives)
        return
    if arguments.output is None:
        parser.error("give -o FILE for the sheet, or --natives DIR")
    checkpoint = Path(arguments.checkpoint) if Path(arguments.checkpoint).suffix else arguments.checkpoint
    peer = (name, Path(folder)) if folder else None
    draw(arguments.assets, Decoder.load(checkpoint), peer, arguments.output)


if __name__ == "__main__":
    main()

"""Make the demo's material: a photograph, the same at a quarter of the size, and the FLUX.2 latent of that.

    python scripts/make_demo_assets.py --taef2 DIR [--photograph seeding_by_Clements_Engelhardt.jpg]

The photograph is cut from the Debian package's file when that is given, and is otherwise the one in the repository; the
other two files follow from it. Licences: src/latpix/assets/demo/LICENSES.md.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from latpix import Latent, read_picture, resources, save_latent, save_picture
from latpix.backbones.taef2 import Taef2

LEFT, TOP, SIDE = 250, 150, 2048
SCALE = 4
JPEG_QUALITY = 90


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Make the demo's material.")
    parser.add_argument("--taef2", type=Path, required=True, help="folder with TAEF2's two .pth files")
    parser.add_argument("--photograph", type=Path, help="the Debian package's file, to cut the photograph anew")
    arguments = parser.parse_args()
    folder = resources.asset("demo")
    if arguments.photograph is not None:
        cut_photograph(arguments.photograph, folder / "dandelion_2048.jpg")
    whole = read_picture(folder / "dandelion_2048.jpg")
    small = F.interpolate(whole, size=(SIDE // SCALE, SIDE // SCALE), mode="bicubic", antialias=True)
    save_picture(small, folder / "dandelion.png", overwrite=True)
    small = read_picture(folder / "dandelion.png")  # rounded, as everybody else reads it
    with torch.inference_mode():
        latent = Taef2.load(arguments.taef2).encode(small)
    save_latent(
        Latent(
            tensor=latent.half(),
            space="flux2",
            source="dandelion.png",
            native_height=small.shape[-2],
            native_width=small.shape[-1],
        ),
        folder / "dandelion.safetensors",
        overwrite=True,
    )


def cut_photograph(source: Path, target: Path) -> None:
    """The dandelion, out of the meadow."""
    from PIL import Image

    with Image.open(source) as image:
        crop = image.convert("RGB").crop((LEFT, TOP, LEFT + SIDE, TOP + SIDE))
    crop.save(target, quality=JPEG_QUALITY, subsampling="4:4:4", optimize=True)


if __name__ == "__main__":
    main()

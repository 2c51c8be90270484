"""Made-up pictures for training sets, of known sharpness and nobody's property; a seed and a number give one picture.

Dead leaves: discs and rectangles of random size, colour, slope and grain fall over each other, with sizes r distributed
as r^-3, so that edges come at every scale as in photographs. Text: lines of random letters, in Pillow's own font, at
random sizes, colours and angles, over dead leaves or a plain ground. Drawn twice as large and reduced by a box, so that
edges are as soft as a lens makes them.

Source: Lee, Mumford, Huang 2001; as training data: Achddou, Gousseau, Ladjal 2021. Letters: H W pixels.
"""

import string
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from latpix.data.pictures import encode, halved
from latpix.errors import OptionError
from latpix.files.atomic import writing

TEXT_SHARE = 0.3  # of the pictures
LETTERS = string.ascii_letters + string.digits + ".,:;!?&%()-+=/"
SMALLEST = (1.5, 10.0)  # pixels: radius of the smallest leaf, drawn for each picture
LARGEST = 0.4  # radius of the largest: share of the picture's shorter side
CHROMA = (8.0, 45.0)  # levels: how colourful leaves are, drawn for each picture
COVERED = 6.0  # times that leaves cover the picture

Levels = UInt8[Tensor, "3 H W"]
Canvas = Float32[np.ndarray, "rows columns 3"]


def made_up(seed: int, number: int, *, height: int, width: int) -> Levels:
    """Picture ``number`` of a seed: leaves, or text.

    Raises:
        OptionError: a side is below 16.
    """
    if min(height, width) < 16:
        raise OptionError(f"a made-up picture of {width}x{height} is too small; expected 16 pixels a side or more.")
    generator = np.random.default_rng((seed, number))
    draw = text if generator.random() < TEXT_SHARE else dead_leaves
    return draw(generator, height=height, width=width)


def dead_leaves(generator: np.random.Generator, *, height: int, width: int) -> Levels:
    """Leaves on leaves."""
    canvas = np.empty((2 * height, 2 * width, 3), dtype=np.float32)
    paint = _Paint(generator)
    canvas[:] = paint.colour(generator)
    least, most = 2 * generator.uniform(*SMALLEST), 2 * LARGEST * min(height, width)
    area, goal = 0.0, COVERED * canvas.shape[0] * canvas.shape[1]
    while area < goal:
        # r^-3 between least and most, by inversion; few large leaves cover as much as many small ones.
        radius = (least**-2 - generator.random() * (least**-2 - most**-2)) ** -0.5
        _drop(canvas, generator, radius, paint.colour(generator))
        area += np.pi * radius**2
    return _reduced(canvas)


def text(generator: np.random.Generator, *, height: int, width: int) -> Levels:
    """Lines of letters that mean nothing."""
    if generator.random() < 0.5:
        ground = Image.new("RGB", (2 * width, 2 * height), _ink(generator))
    else:
        leaves = dead_leaves(generator, height=height, width=width)
        ground = Image.fromarray(leaves.permute(1, 2, 0).numpy()).resize((2 * width, 2 * height))
    top = 0.0
    while top < 2 * height:
        size = float(np.exp(generator.uniform(np.log(14), np.log(max(28, height / 3)))))
        line = "".join(generator.choice(list(LETTERS + " " * 12), size=max(1, int(4 * width / size))))
        font = ImageFont.load_default(size)
        mask = Image.new("L", (2 * width, int(1.6 * size) + 1))
        ImageDraw.Draw(mask).text((generator.uniform(0, size), 0.1 * size), line, fill=255, font=font)
        if generator.random() < 0.3:
            mask = mask.rotate(generator.uniform(-30, 30), Image.Resampling.BICUBIC, expand=True)
        ground.paste(_ink(generator), (0, int(top)), mask)
        top += generator.uniform(0.9, 1.8) * size
    return _reduced(np.asarray(ground, dtype=np.float32))


def write_made_up(folder: str | Path, count: int, *, seed: int = 0, height: int = 512, width: int = 512) -> list[Path]:
    """``count`` pictures as PNG files, ready to be packed; those that are there already are kept.

    Raises:
        OptionError: a side is below 16.
        OutputError: a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"made-up-{seed}-{number:06d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            levels = made_up(seed, number, height=height, width=width)
            with writing(path) as part:
                part.write_bytes(encode(levels))
    return paths


def _drop(canvas: Canvas, generator: np.random.Generator, radius: float, colour: Float32[np.ndarray, " rgb"]) -> None:
    """One leaf: a disc or a turned rectangle with a slope of light and some grain."""
    rows, columns = canvas.shape[:2]
    y, x = generator.random() * rows, generator.random() * columns
    reach = 1.5 * radius
    top, bottom = max(0, int(y - reach)), min(rows, int(y + reach) + 1)
    left, right = max(0, int(x - reach)), min(columns, int(x + reach) + 1)
    dy, dx = np.mgrid[top:bottom, left:right].astype(np.float32)
    dy, dx = dy - np.float32(y), dx - np.float32(x)
    if generator.random() < 0.6:
        inside = dy**2 + dx**2 < radius**2
    else:
        angle, flat = generator.random() * np.pi, generator.uniform(0.3, 1)
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        inside = (np.abs(along) < radius) & (np.abs(across) < flat * radius)
    slope = (dx * generator.normal() + dy * generator.normal()) * (20 / radius)
    grain = generator.normal(size=slope.shape) * generator.choice([0, 0, 3, 8])
    canvas[top:bottom, left:right][inside] = (colour + (slope + grain)[..., None])[inside]


class _Paint:
    """The colours of one picture: any lightness, hues around one of their own, as under one light."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.chroma = generator.uniform(*CHROMA)
        self.cast = generator.normal(size=3) * self.chroma / 2

    def colour(self, generator: np.random.Generator) -> Float32[np.ndarray, " rgb"]:
        hue = self.cast + generator.normal(size=3) * self.chroma
        levels: Float32[np.ndarray, " rgb"] = (generator.uniform(10, 245) + hue - hue.mean()).astype(np.float32)
        return levels


def _ink(generator: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in generator.integers(0, 256, 3))
    return red, green, blue


def _reduced(canvas: Canvas) -> Levels:
    levels = torch.from_numpy(canvas.clip(0, 255).round().astype(np.uint8)).permute(2, 0, 1)
    return halved(levels)

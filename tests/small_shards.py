"""A folder of small pictures, and shards of it; a codec that costs nothing."""

import torch
from torch.nn import functional as F

from latpix import save_picture
from latpix.data.ahead import Encoding
from latpix.data.choose import Packing
from latpix.data.made_up import made_up
from latpix.data.pack import pack
from latpix.data.pictures import to_pixels
from latpix.data.sources import find_pictures

SHAPES = [(64, 128), (128, 64), (64, 128), (128, 128), (64, 128), (192, 128), (128, 64)]  # height, width


def write_pictures(folder, shapes=SHAPES, *, seed=0):
    """PNG files 00.png, ..., of which every second has a caption."""
    folder.mkdir(exist_ok=True)
    for number, (height, width) in enumerate(shapes):
        levels = made_up(seed, number, height=height, width=width)
        save_picture(to_pixels(levels), folder / f"{number:02d}.png")
        if number % 2 == 0:
            (folder / f"{number:02d}.txt").write_text(f"picture {number}\n")
    return folder


def pack_small(folder, out, **options):
    """Whole pictures in shards of a few samples each."""
    packing = {"least": 32, "shard_bytes": 40_000} | options.pop("packing", {})
    return pack(find_pictures([folder]), out, packing=Packing(**packing), **options)


class MeanCodec:
    """Mean colours of each cell, and weighed from left to right, so that it knows a mirrored picture."""

    space, downsample, native_side, sha256, device = "flux1", 8, None, "0" * 64, torch.device("cpu")

    def encode(self, pixels):
        slope = torch.arange(self.downsample) / self.downsample
        weighed = pixels * slope.repeat(pixels.shape[-1] // self.downsample)
        return F.avg_pool2d(torch.cat([pixels, weighed], dim=1), self.downsample)


ENCODING = Encoding(codec=MeanCodec(), scale=4, mirrored=True)

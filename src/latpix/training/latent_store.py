"""Photographs in memory with their TAEF2 latents, made from whole pictures, and crops of both that lie on each other.

TAEF2's group norms see the whole picture, so a latent of a crop is another latent: pictures are encoded whole and cut
afterwards. The store starts with some pictures and takes in one more whenever `encode_next` is called; once all are in,
it goes round again, mirrored and shifted by some pixels at random, so that no crop comes back for ever.
Crops are drawn by detail (`photographs.detail`): flat sky teaches little.

Letters: b batch, H W pixels, h w cells of 16 pixels, s cells of a crop's side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor
from torch.nn import functional as F

from latpix.backbones.lite import LiteEncoder, overview
from latpix.backbones.taef2 import Taef2
from latpix.training.photographs import Photograph, detail, halve, is_large, read, to_pixels

CELL = 16
FULL_SIZE_SOURCES = ("cid22", "clic2025")  # the packages' pictures are soft at full size: half size only
DETAIL_RANGE = (0.3, 4.0)  # levels: below and above, more or less detail changes a crop's chance no further


@dataclass(frozen=True)
class Crops:
    """Pixels and latents of the same places; `inside` is 1 where a crop's own border does not falsify the result."""

    pixels: Float[Tensor, "b 3 H W"]
    latent: Float[Tensor, "b 128 h w"]
    seen: Float[Tensor, "b 64"]  # overview of the whole latent that each was cut from
    seen_ours: Float[Tensor, "b 64"]  # the same of our latent of the whole picture
    inside: Float[Tensor, "b 1 H W"]


@dataclass(frozen=True)
class Entry:
    """One picture with its latent, and the chance of each crop position (rows x columns of cells, flattened)."""

    levels: UInt8[Tensor, "3 H W"]
    latent: Float16[Tensor, "128 h w"]
    seen: tuple[Float[Tensor, " 64"], Float[Tensor, " 64"]]  # overviews of TAEF2's latent and, as it was then, of ours
    chances: np.ndarray[tuple[int], np.dtype[np.float64]]
    columns: int


class LatentStore:
    """The pictures, their latents so far, and how to draw from them."""

    def __init__(self, photographs: list[Photograph], taef2: Taef2, ours: LiteEncoder, *, side: int, seed: int) -> None:
        self.taef2 = taef2
        self.ours = ours
        self.side = side  # cells of a crop
        self.seed = seed
        self.entries: dict[int, Entry] = {}
        self.pictures = _pictures(photographs)
        self.encoded = 0  # calls so far
        self.encoded_pixels = 0

    def encode_next(self) -> None:
        """Encode one more picture; the sequence depends on the seed and the call's number alone."""
        self._encode(self.encoded)
        self.encoded += 1

    def fast_forward(self, encoded: int, encoded_pixels: int) -> None:
        """Stand where a broken-off run stood: encode what it held last, each picture once."""
        for call in range(max(0, encoded - len(self.pictures)), encoded):
            self._encode(call)
        self.encoded, self.encoded_pixels = encoded, encoded_pixels

    def _encode(self, call: int) -> None:
        turn, index = divmod(call, len(self.pictures))
        levels = self.pictures[index]
        if turn > 0:
            generator = np.random.default_rng((self.seed, call))
            top, left = (int(offset) for offset in generator.integers(0, CELL, 2))
            levels = levels[:, top:, left:]
            levels = levels[:, : levels.shape[1] // CELL * CELL, : levels.shape[2] // CELL * CELL]
            levels = levels.flip(-1) if generator.random() < 0.5 else levels
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):  # 0.03 % of the latent's variance
            pixels = to_pixels(levels)[None].contiguous(memory_format=torch.channels_last)
            latent = self.taef2.encode(pixels).float()  # [1, 128, h, w]
        seen = overview(latent)[0], self._overview_of_ours(levels)
        tiles = detail(levels, CELL).square()[None, None]
        crops = F.avg_pool2d(tiles, self.side, stride=1)[0, 0].sqrt().clamp(*DETAIL_RANGE)  # [rows, columns]
        self.entries[index] = Entry(levels, latent[0].half(), seen, crops.flatten().double().numpy(), crops.shape[1])
        self.encoded_pixels += levels.shape[1] * levels.shape[2]

    def look_again(self) -> None:
        """Bring the overviews of our own latents up to date: our encoder has learned since."""
        for key, entry in self.entries.items():
            self.entries[key] = replace(entry, seen=(entry.seen[0], self._overview_of_ours(entry.levels)))

    def _overview_of_ours(self, levels: UInt8[Tensor, "3 H W"]) -> Float[Tensor, " 64"]:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            pixels = to_pixels(levels)[None].contiguous(memory_format=torch.channels_last)
            return overview(self.ours(pixels).float())[0]

    def draw(self, count: int, *, step: int, margin: int) -> Crops:
        """`count` crops; their borders count as false for `margin` pixels, except where the picture itself ends."""
        generator = np.random.default_rng((self.seed, step, 1))
        keys = sorted(self.entries)
        totals = np.array([self.entries[key].chances.sum() for key in keys])
        chosen = generator.choice(len(keys), size=count, p=totals / totals.sum())
        pixels, latents, insides = [], [], []
        seen = [self.entries[keys[key]].seen for key in chosen]
        for key in chosen:
            entry = self.entries[keys[key]]
            place = generator.choice(len(entry.chances), p=entry.chances / entry.chances.sum())
            row, column = divmod(int(place), entry.columns)
            rows, columns = slice(row, row + self.side), slice(column, column + self.side)
            latents.append(entry.latent[:, rows, columns].float())
            top, left, size = row * CELL, column * CELL, self.side * CELL
            pixels.append(to_pixels(entry.levels[:, top : top + size, left : left + size]))
            height, width = entry.levels.shape[1:]
            inside = torch.zeros(1, size, size)
            inside[
                :,
                0 if top == 0 else margin : size if top + size == height else size - margin,
                0 if left == 0 else margin : size if left + size == width else size - margin,
            ] = 1
            insides.append(inside)
        stacked = torch.stack(pixels).contiguous(memory_format=torch.channels_last)  # [b, 3, H, W]
        theirs, ours = (torch.stack(overviews) for overviews in zip(*seen, strict=True))  # [b, 64]
        return Crops(stacked, torch.stack(latents), theirs, ours, torch.stack(insides))

    def draw_whole(self, *, step: int, largest: int = 512 * 512) -> Float[Tensor, "1 3 H W"]:
        """One whole picture of at most `largest` pixels."""
        generator = np.random.default_rng((self.seed, step, 2))
        small = [entry for _, entry in sorted(self.entries.items()) if entry.levels[0].numel() <= largest]
        levels = small[int(generator.integers(len(small)))].levels
        return to_pixels(levels)[None].contiguous(memory_format=torch.channels_last)

    def channel_variance(self) -> Float[Tensor, "1 128 1 1"]:
        """Variance of each latent channel over all pictures encoded so far."""
        cells = torch.cat([entry.latent.flatten(1).float() for _, entry in sorted(self.entries.items())], dim=1)
        return cells.var(dim=1).view(1, -1, 1, 1)


def _pictures(photographs: list[Photograph]) -> list[UInt8[Tensor, "3 H W"]]:
    """Small ones first, then the large ones at half size, then those large ones that stand full size."""
    small, half, large = [], [], []
    for photograph in photographs:
        levels = read(photograph)
        if not is_large(levels):
            small.append(levels)
            continue
        half.append(halve(levels))
        if photograph.source in FULL_SIZE_SOURCES:
            large.append(levels)
    return small + half + large

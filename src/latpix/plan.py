"""What a decode will cost, without running it: an analytic model of peak memory and time.

Operations are counted as in the network's own linears, convolutions and attentions; memory as the tensors that live
together at the widest moment. Letters: n patches of a tile, d patch width, e pixel width, a pixel attention width.
"""

import time
from dataclasses import dataclass
from itertools import pairwise

import torch

from latpix.errors import MemoryLimitError
from latpix.network.base_decoder import BAND, reach_of
from latpix.network.config import NetworkConfig
from latpix.tiling import cut_tiles, overlap_of

LEAST_TILE = 8  # latent cells a side
BLOCK_CELLS = 42  # latent cells a side that the base decoder sees at a time, where its picture goes into a file
BAND_PATCHES = 2**15  # that the latent projection sees at a time there
PROCESS_BYTES = 420 * 2**20  # of an interpreter with torch loaded, on a CPU


@dataclass(frozen=True)
class Plan:
    """A decode's size and cost."""

    height: int  # of the output, in pixels
    width: int
    peak_bytes: int  # on a CPU the whole process, on an accelerator what is allocated
    seconds: float
    levers: tuple[str, ...]  # what was done to fit the memory limit, in order
    tiles: int
    tile: int  # side of a tile in latent cells


@dataclass(frozen=True)
class CostModel:
    """Costs of one checkpoint on one device."""

    config: NetworkConfig
    weight_bytes: int
    dtype: torch.dtype
    on_cpu: bool

    def peak_bytes(self, height: int, width: int, tile: int, *, in_files: bool = False) -> int:
        """Peak memory of decoding a latent of ``height`` x ``width`` cells in tiles of ``tile`` cells a side.

        ``in_files``: the state between steps lies in files; else the whole picture's is in memory.
        """
        c = self.config
        cell = c.latent_downsample * c.scale
        tiles = cut_tiles(height, width, tile)
        area = max(t.height * t.width for t in tiles) * cell * cell
        n, all_patches = area // c.patch_size**2, height * width * cell * cell // c.patch_size**2
        size, base = self.dtype.itemsize, bool(c.base_widths)
        features = (c.latent_outputs + c.pixel_gate) * c.width * size * n
        patch = (2 * c.width * 4 + 6 * c.width * 4 + 2 * c.mlp_width * size) * n
        pixel = (area * c.pixel_width * 4) * 3 + (2 * c.width * 4 + 5 * c.pixel_attention_width * 4) * n
        picture, part = height * width * cell * cell * 3 * 4, area * 3 * 4  # float32 pixels, in bytes
        one_map = c.latent_width * 4 * all_patches
        if in_files:  # a tile, a block of the base picture or a band of the projection at a time
            latents = 4 * height * width * c.latent_channels * 4  # given, padded, and looked over
            pictures, kept, maps = (
                latents + 6 * part,
                c.latent_width * 4 * n,
                6 * min(one_map, c.latent_width * 4 * BAND_PATCHES),
            )
            block = min(max(height, width), BLOCK_CELLS)
            painted = self._base_bytes(block, block) * max(1.0, block / (BAND + 2 * reach_of(c))) if base else 0
        else:  # state, output, base picture, result
            whole, painted = len(tiles) == 1, self._base_bytes(height, width)
            pictures = (6 * picture + (1 + base) * part) if whole else ((3 + base) * picture + 6 * part)
            kept, maps = (0, 5 * one_map) if whole else (one_map, 7 * one_map)
        total = self.weight_bytes + pictures + max(maps, kept + features + max(patch, pixel), painted)
        return int(1.15 * total) + (PROCESS_BYTES if self.on_cpu else 0)

    def _base_bytes(self, height: int, width: int) -> int:
        """Of the base decoder's widest moment: the coarse level, and it again or the last level of a band of rows."""
        c = self.config
        if not c.base_widths:
            return 0
        coarse = height * width * c.latent_unpatchify**2 * c.base_widths[0] * self.dtype.itemsize
        area = min(height, BAND + 2 * reach_of(c)) * width * c.latent_downsample**2  # native pixels
        band = area * (c.base_widths[-1] * (4 * self.dtype.itemsize + 4) + 2 * 3 * c.scale**2 * 4)
        return coarse + max(3 * coarse, band)

    def operations(self, height: int, width: int, tile: int, steps: int) -> float:
        """Multiply-adds, counted twice, of one decode."""
        c = self.config
        per_cell = (c.latent_downsample * c.scale // c.patch_size) ** 2
        total = 0.0
        for t in cut_tiles(height, width, tile):
            n = t.height * t.width * per_cell
            seen = n if c.attention_window is None else c.attention_window**2
            text = c.caption_length if c.caption_width else 0
            linear = (n + text) * (4 * c.width**2 + 3 * c.width * c.mlp_width)
            block = 2 * linear + 4 * (n + text) * (seen + text) * c.width
            area = c.patch_size**2 * c.pixel_width
            attention = 8 * c.pixel_attention_width**2 + 4 * seen * c.pixel_attention_width
            pixel = n * (2 * 6 * area * c.width + 4 * area * c.pixel_attention_width + attention)
            pixel += n * 16 * area * c.pixel_width
            stacks = (1 + 2 * bool(c.image_channels)) * 2 * c.latent_depth + 4
            latent = 18 * n * c.latent_width**2 * stacks
            total += latent + steps * (c.depth * block + c.pixel_depth * pixel)
        return total + self._base_operations(height, width)

    def _base_operations(self, height: int, width: int) -> float:
        """The coarse level is painted at once, the finer ones in bands, some rows of which are painted twice."""
        c = self.config
        if not c.base_widths:
            return 0.0
        reach, fold = reach_of(c), c.latent_downsample // c.latent_unpatchify // 2
        rows = sum(min(top + BAND + reach, height) - max(top - reach, 0) for top in range(0, height, BAND))
        per_place = [36 * blocks * d**2 for d, blocks in zip(c.base_widths, c.base_blocks, strict=True)]
        per_place[0] += 18 * (c.latent_channels // c.latent_unpatchify**2) * c.base_widths[0]  # enter
        for level, (coarse, fine) in enumerate(pairwise(c.base_widths), start=1):
            per_place[level] += 2 * coarse * fine  # up
        per_place[1] += 18 * c.base_widths[1] * 3 * fold**2  # native
        per_place[-1] += 18 * c.base_widths[-1] * 3 * c.scale**2  # detail
        return float(
            sum(
                per * (rows if level else height) * width * (c.latent_unpatchify * 2**level) ** 2
                for level, per in enumerate(per_place)
            )
        )

    def choose_tile(
        self, height: int, width: int, limit: int | None, *, in_files: bool = False
    ) -> tuple[int, tuple[str, ...]]:
        """The largest tile that keeps to ``limit`` bytes, and what was done to fit; ``in_files`` as of ``peak_bytes``.

        Raises:
            MemoryLimitError: not even the smallest tile fits; the message names the smallest limit that would.
        """
        whole = max(height, width)

        def peak(side: int) -> int:
            return self.peak_bytes(height, width, side, in_files=in_files)

        if limit is None or peak(whole) <= limit:
            return whole, ()
        for side in range(whole - 1, LEAST_TILE - 1, -1):
            if peak(side) <= limit:
                return side, (f"tiles of {side} latent cells, {overlap_of(side)} shared",)
        least = min(peak(side) for side in range(LEAST_TILE, max(whole, LEAST_TILE) + 1))
        raise MemoryLimitError(
            f"a memory limit of {limit / 2**20:.0f} MiB is too small for a latent of {height}x{width} cells: "
            f"the smallest that this decode fits into is {-(-least // 2**20)} MiB. Raise the limit or decode a smaller "
            "latent."
        )


def operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """The device's matrix rate, from one short measurement."""
    side = 512 if device.type == "cpu" else 4096
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # reading a number waits for the device
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best

"""What a decode will cost, without running it: an analytic model of peak memory and time, and what is done to fit.

Operations are counted as in the network's own linears, convolutions and attentions; memory as the tensors that live
together in each of a decode's stages. Levers are pulled in a fixed order, those that leave the picture as it is first:
smaller pieces, pictures one at a time, latent features made again at every step, tiles.
Letters: n patches of a tile, d patch width, e pixel width, a pixel attention width, g latent width, s bytes of a
weight.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from latpix.errors import MemoryLimitError
from latpix.network.base_decoder import BAND, reach_of
from latpix.network.config import NetworkConfig
from latpix.network.model import default_pieces
from latpix.network.pieces import Pieces
from latpix.tiling import OVERLAP, cut_tiles

LEAST_TILE = 8  # latent cells a side
SMALL_TOKENS, SMALL_SHARE = 512, 4  # of the pieces under a limit; the pixel path's shrink by a factor
PROCESS_BYTES = 420 * 2**20  # of an interpreter with torch loaded, on a CPU that does not tell
SLACK = 0.03  # of what is computed: libraries' workspaces
HEAP = 110 * 2**20  # on a CPU: holes between blocks, and what libraries load when they first run


@dataclass(frozen=True)
class Job:
    """What is to be decoded."""

    height: int  # of a latent, in cells
    width: int
    batch: int = 1
    steps: int = 4
    output: int | None = None  # pixels of a picture that is resampled; None is as painted


@dataclass(frozen=True)
class Setting:
    """How a decode is done."""

    tile: int  # side of a tile in latent cells
    pieces: Pieces
    batch: int  # pictures handed over together
    levers: tuple[str, ...] = ()  # pulled to come here, in order, each with its cost


@dataclass(frozen=True)
class Plan:
    """A decode's size and cost."""

    height: int  # of a picture, in pixels
    width: int
    peak_bytes: int  # on a CPU the whole process, on an accelerator what is allocated
    seconds: float
    setting: Setting
    tiles: int

    @property
    def levers(self) -> tuple[str, ...]:
        """What was done to fit the memory limit, in order, each with its cost."""
        return self.setting.levers

    @property
    def tile(self) -> int:
        """Side of a tile in latent cells."""
        return self.setting.tile


@dataclass(frozen=True)
class CostModel:
    """Costs of one checkpoint on one device."""

    config: NetworkConfig
    held: int  # bytes before the decode: weights, and on a CPU all else in the process
    dtype: torch.dtype
    on_cpu: bool
    guided: bool = False  # two conditions, one of them of the null caption

    @property
    def _cell(self) -> int:
        """Output pixels per side of a latent cell."""
        return self.config.latent_downsample * self.config.scale

    def peak_bytes(self, job: Job, setting: Setting) -> int:
        """Peak memory of a decode: the largest of its stages."""
        c, cells = self.config, self._cell**2
        picture = 12 * job.height * job.width * cells  # one float32 picture
        tiles = cut_tiles(job.height, job.width, setting.tile)
        n = max(t.height * t.width for t in tiles) * cells // c.patch_size**2
        kept = self._condition_bytes(n) * len(tiles)
        kept += self._feature_bytes(n, setting.pieces) * len(tiles) * (1 + self.guided)
        base = picture * bool(c.base_widths)
        whole = picture + base + (0 if len(tiles) == 1 else 2 * picture)  # state, what was painted on, tiles' sums
        stages = [
            base + max(self._base_bytes(job.height, job.width), picture * bool(c.base_widths)),
            whole + kept + self._stack_bytes(n),
            *(whole + kept + stage for stage in self._call_bytes(n, setting.pieces)),
            base + kept + 5 * picture,  # between two steps: the state twice, the guess, noise
        ]
        results = picture if job.output is None else 12 * job.output
        resampled = 0
        if job.output is not None:  # along one axis, then along the other
            resampled = picture + results + round((picture * results) ** 0.5)
        before = results * setting.batch if setting.batch > 1 else 0
        work = before + max(resampled, *stages)
        return self.held + round((1 + SLACK) * work) + (HEAP if self.on_cpu else 0)

    def _condition_bytes(self, n: int) -> int:
        """Position tables of a tile."""
        c = self.config
        pairs = c.width // c.heads + c.pixel_attention_width // c.pixel_heads
        where = 2 * (8 + 8 + 1) * n if c.attention_window else 0
        seen = n if c.attention_window is None else c.attention_window**2
        return 4 * pairs * seen + where

    def _feature_bytes(self, n: int, pieces: Pieces) -> int:
        """What the gates read."""
        c = self.config
        if not pieces.keep_features:
            return c.latent_width * self.dtype.itemsize * n
        kept = (c.latent_outputs + c.pixel_gate) * c.width + (c.latent_width if c.rgb_head is not None else 0)
        return kept * self.dtype.itemsize * n

    def _stack_bytes(self, n: int) -> int:
        """Of the latent projection's convolutions, all of whose blocks' outputs live together."""
        c, s = self.config, self.dtype.itemsize
        outputs = (c.latent_depth + 1) * (1 + bool(c.image_channels)) + 2
        return n * c.latent_width * (outputs * s + 12)

    def _call_bytes(self, n: int, pieces: Pieces) -> Iterator[int]:
        """Of each stage of a network call, the state and the condition apart."""
        c, s = self.config, self.dtype.itemsize
        d, a, area, area_e = c.width, c.pixel_attention_width, c.patch_size**2, c.patch_size**2 * c.pixel_width
        text = c.caption_length if c.caption_width else 0
        tokens, patches = min(pieces.tokens, n), min(pieces.patches, n)
        caption = 3 * 4 * d * text
        stream, joint, attended = 4 * d * n + caption, 3 * s * d * (n + text), s * d * (n + text)
        yield stream + 12 * area * n + 6 * area * n  # to patches
        yield stream + joint + tokens * (3 * s * d + 18 * d)
        yield stream + joint + attended
        yield stream + attended + tokens * (4 * d + 3 * s * c.mlp_width)
        pixels = (4 * area_e + 4 * d) * n
        pack = 2 if s == 2 and self.on_cpu else 1  # a product in bfloat16 copies its weight into another order
        yield pixels + 3 * s * a * n + patches * area_e * (2 * s + 12 + s) + 2 * area_e * d * s * pack
        yield pixels + 4 * s * a * n
        part = area_e * min(pieces.pixels, area) // area
        weights = 4 * s * d * (area_e + part * (pack - 1))
        yield pixels + s * a * n + patches * (s * area_e + part * (13 * s + 8)) + weights
        yield pixels + 2 * 12 * area * n

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

    def settings(self, job: Job, *, tile: int | None = None, may_split: bool = True) -> Iterator[Setting]:
        """Ways to decode, the quickest first, each taking less memory than the one before.

        ``tile`` fixes the side of tiles; without ``may_split`` the pictures of a batch stay together.
        """
        whole = max(job.height, job.width)
        side = whole if tile is None else min(tile, whole)
        usual = default_pieces(self.config)
        small = replace(usual, tokens=SMALL_TOKENS, patches=usual.patches // SMALL_SHARE)
        last = Setting(side, usual, job.batch)
        yield last
        last = Setting(
            side,
            small,
            job.batch,
            (
                f"pieces of {small.tokens} tokens and {small.patches} patches (weights "
                "are read more often; the same picture)",
            ),
        )
        yield last
        if job.batch > 1 and may_split:
            last = replace(last, batch=1, levers=(*last.levers, "one picture at a time (the same pictures)"))
            yield last
        if self.config.latent_channels:
            again = replace(small, keep_features=False)
            share = self._again(job, side) / self.operations(job.height, job.width, side, job.steps)
            lever = f"latent features made again at every step (+{share:.1%} operations; the same picture)"
            last = replace(last, pieces=again, levers=(*last.levers, lever))
            yield last
        if tile is not None:
            return
        exact, least = last.levers, self.peak_bytes(job, last)
        at_once = self.operations(job.height, job.width, whole, job.steps)
        for side in range(whole - 1, LEAST_TILE - 1, -1):
            last = replace(last, tile=side)
            peak = self.peak_bytes(job, last)
            if peak >= least:  # more tiles than before may hold more together than each saves
                continue
            least = peak
            more = self.operations(job.height, job.width, side, job.steps) / at_once - 1
            lever = (
                f"{len(cut_tiles(job.height, job.width, side))} tiles of {side} latent cells a side, {OVERLAP} shared "
                f"({more:+.0%} operations; another picture: each tile is placed like a whole one)"
            )
            yield replace(last, levers=(*exact, lever))

    def _again(self, job: Job, side: int) -> float:
        """Operations of making latent features in every step but the first."""
        c = self.config
        cells = sum(t.height * t.width for t in cut_tiles(job.height, job.width, side))
        n = cells * self._cell**2 // c.patch_size**2
        return 2.0 * (job.steps - 1) * n * c.latent_width * c.width * (c.latent_outputs + c.pixel_gate)

    def choose(self, job: Job, limit: int, *, tile: int | None = None, may_split: bool = True) -> Setting:
        """The quickest setting that keeps to ``limit`` bytes; other arguments as of ``settings``.

        Raises:
            MemoryLimitError: none does; the message names the smallest limit that one would keep to.
        """
        peaks = []
        for setting in self.settings(job, tile=tile, may_split=may_split):
            peaks.append(self.peak_bytes(job, setting))
            if peaks[-1] <= limit:
                return setting
        what = f"a latent of {job.height}x{job.width} cells" if job.batch == 1 else f"{job.batch} latents"
        raise MemoryLimitError(
            f"a memory limit of {limit / 2**20:.0f} MiB is too small for {what}: the smallest that this decode fits "
            f"into is {-(-min(peaks) // 2**20)} MiB. Raise the limit or decode a smaller latent."
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

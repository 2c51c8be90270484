"""What a decode will cost, without running it: an analytic model of peak memory and time, and what is done to fit.

Operations are those of ``latpix.operations``, less what a decode does once; memory is that of the tensors that live
together in each of its stages. Levers are pulled in a fixed order, those that leave the picture as it is first:
smaller pieces, pictures one at a time, latent features made again at every step, tiles.
Letters: n patches of a tile, d patch width, e pixel width, a pixel attention width, g latent width, s bytes of a
weight.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from latpix.bands import BAND as MAP_BAND
from latpix.errors import MemoryLimitError
from latpix.network.base_decoder import BAND, EXPANSION, reach_of
from latpix.network.config import NetworkConfig
from latpix.network.model import default_pieces
from latpix.network.pieces import Pieces
from latpix.network.precision import WIDENED
from latpix.operations import Operations, base_operations, call_operations
from latpix.tiling import BLOCK, PIECE, count_tiles, overlap_of

LEAST_TILE = 8  # latent cells a side
SMALL_TOKENS, SMALL_SHARE = 512, 4  # of the pieces under a limit; the pixel path's shrink by a factor
PROCESS_BYTES = 420 * 2**20  # of an interpreter with torch loaded, on a CPU that does not tell
LOADING_BYTES = 12 * 2**20  # that reading a latent, loading weights and saving a picture bring, beside all these
ROOM = 0.02  # of a limit that is named: no two processes hold the same before a decode
SLACK = 0.03  # of what is computed: libraries' workspaces
AROUND = "another picture: what is outside a tile is not seen"
HOLES = 0.45  # on a CPU: freed blocks that the C library keeps, of what is computed
MOST_HOLES, MOST_HOLES_FRUGALLY = 150 * 2**20, 40 * 2**20


@dataclass(frozen=True)
class Job:
    """What is to be decoded."""

    height: int  # of a latent, in cells
    width: int
    batch: int = 1
    steps: int = 4
    output: int | None = None  # pixels of a picture that is resampled; None is as painted
    largest: int | None = None  # side that tiles have at most; None paints any picture in one piece
    in_files: bool = False  # the state between steps lies in files


@dataclass(frozen=True)
class Lever:
    """Something that is done to take less memory."""

    what: str
    cost: str
    cuts: bool = False  # into tiles, which makes another picture

    def __str__(self) -> str:
        return f"{self.what} ({self.cost})"


ONE_AT_A_TIME = Lever("one picture at a time", "the same pictures")


@dataclass(frozen=True)
class Setting:
    """How a decode is done."""

    tile: int  # side of a tile in latent cells
    pieces: Pieces
    batch: int  # pictures handed over together
    levers: tuple[Lever, ...] = ()  # pulled to come here, in order


@dataclass(frozen=True)
class Plan:
    """A decode's size and cost."""

    height: int  # of a picture, in pixels
    width: int
    peak_bytes: int  # on a CPU the whole process, on an accelerator what the allocator reserves
    seconds: float
    setting: Setting
    tiles: int

    @property
    def levers(self) -> tuple[str, ...]:
        """What was done to fit the memory limit, in order, each with its cost."""
        return tuple(map(str, self.setting.levers))

    @property
    def tile(self) -> int:
        """Side of a tile in latent cells."""
        return self.setting.tile


@dataclass(frozen=True)
class CostModel:
    """Costs of one checkpoint on one device."""

    config: NetworkConfig
    held: int  # bytes before the decode: weights, and all else in the process or on the accelerator
    dtype: torch.dtype
    on_cpu: bool
    guided: bool = False  # two conditions, one of them of the null caption
    frugal: bool = False  # there is a limit: freed blocks are given back
    quantized: bool = False  # weights of the blocks rest in eight bits, and are widened while they are used
    ranks: int = 1  # processes that share the rows of a picture in one piece; costs are those of each

    @property
    def _cell(self) -> int:
        """Output pixels per side of a latent cell."""
        return self.config.latent_downsample * self.config.scale

    def peak_bytes(self, job: Job, setting: Setting) -> int:
        """Peak memory of a decode: the largest of its stages."""
        picture = 12 * job.height * job.width * self._cell**2  # one float32 picture
        if job.in_files:
            return self._process_bytes(max(self._stages_in_files(job, setting)))
        in_tiles = setting.tile < max(job.height, job.width)
        stages = list((self._stages_in_tiles if in_tiles else self._stages)(job, setting))
        results = picture if job.output is None else 12 * job.output
        resampled = 0
        if job.output is not None:  # along one axis, then along the other
            resampled = picture + results + round((picture * results) ** 0.5)
        before = results * setting.batch if setting.batch > 1 else 0
        return self._process_bytes(before + max(resampled, *stages))

    def _process_bytes(self, work: int) -> int:
        """Of all that is held while so much is computed."""
        holes = min(round(HOLES * work), MOST_HOLES_FRUGALLY if self.frugal else MOST_HOLES)
        return self.held + round((1 + SLACK) * work) + (holes if self.on_cpu else 0)

    def _stages(self, job: Job, setting: Setting) -> Iterator[int]:
        """Of a picture in one piece."""
        c, n = self.config, self._patches(job.height, job.width)
        picture, columns = 12 * job.height * job.width * self._cell**2, job.width * self._cell // c.patch_size
        own = -(-n // (self.ranks * columns)) * columns if self.ranks > 1 else n
        kept = self._condition_bytes(n) + self._feature_bytes(own, setting.pieces)
        base = picture * bool(c.base_widths)
        whole = picture * (1 + self.guided) + base  # state, the guess before where steps read it, what was painted on
        yield base + max(self._base_bytes(job.height, job.width), base)
        yield whole + kept + self._stack_bytes(n)
        yield from (whole + kept + stage for stage in self._call_bytes(own, setting.pieces, n))
        yield base + kept + (5 + self.guided) * picture  # between two steps: the state twice, the guess, noise

    def _stages_in_tiles(self, job: Job, setting: Setting) -> Iterator[int]:
        """The whole picture's state, what tiles add up to and latent projection; the rest of one tile."""
        c, everything = self.config, self._patches(job.height, job.width)
        pixels = job.height * job.width * self._cell**2
        base = 12 * pixels * bool(c.base_widths)
        projected = everything * c.latent_width * self.dtype.itemsize
        whole = 12 * pixels * (2 + self.guided) + base + projected
        yield base + max(self._base_bytes(job.height, job.width), base)
        yield base + self._stack_bytes(everything)
        yield from (whole + stage for stage in self._tile_bytes(job, setting))

    def _stages_in_files(self, job: Job, setting: Setting) -> Iterator[int]:
        """A tile, a block of the base picture or a band of a map at a time."""
        c, s = self.config, self.dtype.itemsize
        latent = 3 * 4 * job.height * job.width * c.latent_channels  # given, padded, on its device
        places = min(self._patches(job.height, job.width), MAP_BAND)
        if c.base_widths:
            coarse = min(job.height * job.width * c.latent_unpatchify**2, MAP_BAND)
            yield latent + coarse * c.base_widths[0] * EXPANSION * (2 * s + 12)
            height, width = (_widest_block(side, reach_of(c)) for side in (job.height, job.width))
            yield latent + self._finer_bytes(height * width) + 2 * 12 * (BLOCK * self._cell) ** 2
            yield latent + 2 * 12 * places * c.patch_size**2  # of the base picture: the mapped file, and a copy
        yield latent + self._stack_bytes(places)
        height, width = min(setting.tile, job.height), min(setting.tile, job.width)
        # Of the state, of the base picture, and of the guess that guidance compares with.
        crops = 12 * height * width * self._cell**2 * (1 + bool(c.base_widths) + self.guided)
        *of_call, blended, stepped = self._tile_bytes(job, setting)
        yield from (latent + crops + stage for stage in of_call)
        yield from (latent + stage for stage in (blended, stepped))

    def _tile_bytes(self, job: Job, setting: Setting) -> Iterator[int]:
        """Of one tile's part of a step, then of the step of a piece of the picture."""
        c, height, width = self.config, min(setting.tile, job.height), min(setting.tile, job.width)
        n, part = self._patches(height, width), 12 * height * width * self._cell**2
        kept = self._condition_bytes(n) + self._feature_bytes(n, setting.pieces)
        kept += n * c.latent_width * self.dtype.itemsize  # its part of the projection
        yield from (kept + stage for stage in self._call_bytes(n, setting.pieces))
        yield kept + 3 * part  # prediction, weights
        yield 8 * 12 * min(PIECE**2, job.height * job.width * self._cell**2)

    def _patches(self, height: int, width: int) -> int:
        """Of a part of ``height`` x ``width`` cells."""
        return height * width * self._cell**2 // self.config.patch_size**2

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
        """Of the latent projection's convolutions: a block's maps, and what is merged with it."""
        c, s = self.config, self.dtype.itemsize
        outputs = 4 + 2 * bool(c.image_channels) + (c.rgb_head not in (None, -1))
        return n * c.latent_width * (outputs * s + 12)

    def _call_bytes(self, n: int, pieces: Pieces, seen: int | None = None) -> Iterator[int]:
        """Of each stage of a network call, the state and the condition apart; ``seen`` patches have keys and values."""
        c, s = self.config, self.dtype.itemsize
        wide = s * self.quantized  # of a weight that is widened, some rows at a time in float32
        d, a, area, area_e = c.width, c.pixel_attention_width, c.patch_size**2, c.patch_size**2 * c.pixel_width
        text = c.caption_length if c.caption_width else 0
        tokens, patches = min(pieces.tokens, n), min(pieces.patches, n)
        caption = 3 * 4 * d * text
        stream, joint, attended = 4 * d * n + caption, 3 * s * d * (n + text), s * d * (n + text)
        yield stream + 12 * area * n + 6 * area * n  # to patches
        yield stream + joint + tokens * (3 * s * d + 18 * d) + 3 * wide * d**2
        yield stream + 2 * attended + 2 * s * d * ((seen or n) + text)  # others' keys and values too
        yield stream + attended + tokens * (4 * d + 3 * s * c.mlp_width) + wide * d * c.mlp_width
        rows = 2 * 4 * min(WIDENED, 2 * area_e) * d * self.quantized
        pixels = (4 * area_e + 4 * d) * n
        pack = 2 if s == 2 and self.on_cpu else 1  # a product in bfloat16 copies its weight into another order
        part = area_e * min(pieces.pixels, area) // area
        codes = d * self.quantized  # of the weights' part that is widened
        weights = 2 * area_e * (d * s * pack + codes)
        yield pixels + 3 * s * a * n + rows + patches * area_e * (2 * s + 12 + s) + weights
        yield pixels + 2 * s * a * (n + (seen or n))
        weights = part * (4 * (d * s * pack + codes) + a * wide)
        yield pixels + s * a * n + rows + patches * part * (14 * s + 8) + weights
        yield pixels + 15 * area * n  # to pixels: the picture, and as measured a quarter of it on the way

    def _base_bytes(self, height: int, width: int) -> int:
        """Of the base decoder's widest moment: the coarse level, and it again or the last level of a band of rows."""
        c = self.config
        if not c.base_widths:
            return 0
        coarse = height * width * c.latent_unpatchify**2 * c.base_widths[0] * self.dtype.itemsize
        band = self._finer_bytes(min(height, BAND + 2 * reach_of(c)) * width)
        # A side branch keeps its input, its norm's float32 input and output, and what contracts again.
        side = coarse * EXPANSION * (1 + 2 * 4 // self.dtype.itemsize)
        return coarse + max(2 * coarse + side, band)

    def _finer_bytes(self, cells: int) -> int:
        """Of the base decoder's last level."""
        c = self.config
        area = cells * c.latent_downsample**2  # native pixels
        return area * (c.base_widths[-1] * (4 * self.dtype.itemsize + 4) + 2 * 3 * c.scale**2 * 4)

    def operations(self, job: Job, setting: Setting) -> int:
        """Multiply-adds, counted twice, of one picture's decode."""
        c, passes = self.config, 1 + self.guided

        def call(side: int) -> Operations:
            return call_operations(c, *(min(side, own) * self._cell // c.patch_size for own in (job.height, job.width)))

        part = call(setting.tile)
        tiles = count_tiles(job.height, job.width, setting.tile)
        painted = base_operations(c, job.height, job.width, finer=self._finer_cells(job))
        if tiles > 1 or job.in_files:  # at every step tiles are told all anew but the projection
            stack = call(max(job.height, job.width)).latent_stack
            return painted + stack + passes * tiles * job.steps * (part.total - part.latent_stack)
        once = part.once - (0 if setting.pieces.keep_features else part.heads)
        return painted + passes * (job.steps * (part.total - once) + once)

    def _finer_cells(self, job: Job) -> int:
        """Of the base picture, whose finer levels are painted in bands of rows, or into a file in blocks; what is seen
        of neighbours is painted again."""
        reach = reach_of(self.config) if self.config.base_widths else 0

        def with_neighbours(length: int, size: int) -> int:
            return sum(min(at + size + reach, length) - max(at - reach, 0) for at in range(0, length, size))

        if job.in_files:
            return with_neighbours(job.height, BLOCK) * with_neighbours(job.width, BLOCK)
        return with_neighbours(job.height, BAND) * job.width

    def settings(self, job: Job, *, tile: int | None = None, may_split: bool = False) -> Iterator[Setting]:
        """Ways to decode, the quickest first, each taking less memory than the one before.

        ``tile`` fixes the side of tiles; with ``may_split`` the pictures of a batch may be handed over one by one.
        """
        whole = max(job.height, job.width)
        side = min(tile or job.largest or whole, whole)
        first: tuple[Lever, ...] = ()
        if tile is None and side < whole:
            first = (Lever(_tiles(job, side), f"{AROUND}; none larger was trained on", cuts=True),)
        # A tile's features last for one call: there is nothing to keep.
        usual = replace(default_pieces(self.config), keep_features=side == whole)
        small = replace(usual, tokens=SMALL_TOKENS, patches=usual.patches // SMALL_SHARE)
        last = Setting(side, usual, job.batch, first)
        yield last
        lever = Lever(
            f"pieces of {small.tokens} tokens and {small.patches} patches",
            "weights are read more often; the same picture",
        )
        last = Setting(side, small, job.batch, (*first, lever))
        yield last
        if job.batch > 1 and may_split:
            last = replace(last, batch=1, levers=(*last.levers, ONE_AT_A_TIME))
            yield last
        at_once = self.operations(job, Setting(whole, usual, 1))
        if side == whole:
            last = replace(last, pieces=replace(small, keep_features=False))
            share = self.operations(job, last) / at_once - 1
            cost = f"+{share:.1%} operations; the same picture"
            last = replace(last, levers=(*last.levers, Lever("latent features made again at every step", cost)))
            yield last
        if tile is not None:
            return
        exact, least = last.levers[len(first) :], self.peak_bytes(job, last)
        for smaller in range(side - 1, LEAST_TILE - 1, -1):
            last = replace(last, tile=smaller)
            peak = self.peak_bytes(job, last)
            if peak >= least:  # more tiles than before may hold more together than each saves
                continue
            least = peak
            cost = f"{self.operations(job, last) / at_once - 1:+.0%} operations; {AROUND}"
            yield replace(last, levers=(*exact, Lever(_tiles(job, smaller), cost, cuts=True)))

    def choose(self, job: Job, limit: int, *, tile: int | None = None, may_split: bool = False) -> Setting:
        """The quickest setting that keeps to ``limit`` bytes; other arguments as of ``settings``.

        Raises:
            MemoryLimitError: none does; the message names a limit that one would keep to.
        """
        for setting in self.settings(job, tile=tile, may_split=may_split):
            if self.peak_bytes(job, setting) <= limit:
                break
        else:
            raise MemoryLimitError(self._refusal(job, limit, tile, may_split=may_split))
        if setting.batch == job.batch:
            return setting
        alone = self.choose(replace(job, batch=1), limit, tile=tile)  # perhaps in larger pieces
        return replace(alone, levers=(ONE_AT_A_TIME, *alone.levers))

    def _refusal(self, job: Job, limit: int, tile: int | None, *, may_split: bool) -> str:
        """Why a limit is refused, and what would do."""

        def least(job: Job) -> int:
            peaks = (self.peak_bytes(job, setting) for setting in self.settings(job, tile=tile, may_split=may_split))
            return -(-round(min(peaks) * (1 + ROOM * self.on_cpu)) // 2**20)

        what = f"a latent of {job.height}x{job.width} cells" if job.batch == 1 else f"{job.batch} latents"
        if tile is not None:
            what += " whole" if tile >= max(job.height, job.width) else f" in tiles of {tile}"
        fits, others = least(job), dict[str, int]()
        if job.batch > 1 and not may_split:
            others["one at a time"] = least(replace(job, batch=1))
        if not job.in_files and job.output is None:
            others["painted straight into a .tiff"] = least(replace(job, batch=1, in_files=True))
        less = ", ".join(f"{way}: {size} MiB" for way, size in others.items() if size < fits)
        return (
            f"a memory limit of {limit / 2**20:.0f} MiB is too small for {what}: the smallest that this decode fits "
            f"into is {fits} MiB{f' ({less})' if less else ''}. Raise the limit or decode a smaller latent."
        )


def _widest_block(length: int, reach: int) -> int:
    """Along a side of ``length`` cells, the most that is read for a block of the base picture."""
    return max(min(at + BLOCK + reach, length) - max(at - reach, 0) for at in range(0, length, BLOCK))


def _tiles(job: Job, side: int) -> str:
    count = count_tiles(job.height, job.width, side)
    return f"{count} tiles of {side} latent cells a side, {overlap_of(side)} shared"


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

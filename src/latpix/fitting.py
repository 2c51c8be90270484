"""Fit a decode into memory: before it, the way that a plan chooses; where memory runs out all the same, the next one.

job --costs--> settings, the quickest first --limit--> setting --paint--> picture, or a setting that takes less
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from latpix.arithmetic import sound
from latpix.checkpoints.registry import Checkpoint
from latpix.devices import free_memory, is_out_of_memory, keep_little, parse_bytes, reserved_bytes, resident_bytes
from latpix.errors import MemoryLimitError, MemoryWarning, OptionError, OutputError
from latpix.latents.spaces import LATENT_SPACES
from latpix.network.model import Denoiser
from latpix.network.precision import QuantizedLinear, resting_dtypes
from latpix.plan import (
    LEAST_TILE,
    LOADING_BYTES,
    PROCESS_BYTES,
    CostModel,
    Job,
    Plan,
    Setting,
    operations_per_second,
)
from latpix.team import Team, alone
from latpix.tiling import count_tiles

PAGE = 4096  # bytes of a file that are read together
LESS = 0.15  # of what a decode takes: the least that a way to go on must save


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The decodes of one network on one device, by this process or by a team.

    ``tile`` and ``limit`` are ``tile`` and ``memory_limit`` of ``Decoder.decode``.
    """

    network: Denoiser
    row: Checkpoint
    device: torch.device
    dtype: torch.dtype
    team: Team | None = None

    def job(
        self, h: int, w: int, *, batch: int, steps: int, target: tuple[int, int] | None, in_files: bool = False
    ) -> Job:
        """``batch`` latents of ``h`` x ``w`` cells to be decoded; ``target`` is of a picture that is resampled."""
        cell = LATENT_SPACES[self.row.space].downsample
        trained = max(LEAST_TILE, self.row.native_sizes[1] // cell)
        known = max(h, w) <= trained or self.row.knows(h * cell, w * cell)
        return Job(
            h,
            w,
            batch=batch,
            steps=steps,
            output=None if target is None else target[0] * target[1],
            largest=None if known else trained,
            in_files=in_files,
        )

    def plan(
        self,
        job: Job,
        tile: int | str,
        limit: str | int | None,
        *,
        size: tuple[int, int],
        pictures: int,
        may_split: bool = False,
    ) -> Plan:
        """What ``pictures`` of a job will cost, each of ``size`` (height, width) in pixels; nothing runs.

        Raises:
            MemoryLimitError, OptionError: as of ``choose``.
        """
        costs, setting = self.costs(frugal=limit is not None), self.choose(job, tile, limit, may_split=may_split)
        return Plan(
            height=size[0],
            width=size[1],
            peak_bytes=costs.peak_bytes(job, setting),
            seconds=pictures * costs.operations(job, setting) / operations_per_second(self.device, self.dtype),
            setting=setting,
            tiles=count_tiles(job.height, job.width, setting.tile),
        )

    def begin(self, job: Job, tile: int | str, limit: str | int | None) -> Setting:
        """How to decode; the memory that is freed meanwhile goes back to the system.

        Raises:
            MemoryLimitError, OptionError: as of ``choose``.
        """
        if self.device.type == "cpu":
            keep_little(frugal=limit is not None)
        return self.choose(job, tile, limit)

    def choose(self, job: Job, tile: int | str, limit: str | int | None, *, may_split: bool = False) -> Setting:
        """The quickest way that fits the limit; ``may_split``: pictures of a batch may be handed over one by one.

        Raises:
            MemoryLimitError: nothing fits; the message names a limit that would do.
            OptionError: no such tile or limit.
        """
        bytes_limit, side = None if limit is None else parse_bytes(limit), _side(job, tile)
        if bytes_limit is None:
            return next(self.costs(held=0).settings(job, tile=side))
        costs = self.costs(frugal=True)
        try:
            return costs.choose(job, bytes_limit, tile=side, may_split=may_split)
        except MemoryLimitError as refusal:
            if side is None:
                raise
            costs.choose(job, bytes_limit, may_split=may_split)  # says what would fit, if nothing does
            raise MemoryLimitError(f'{refusal} Or leave tile at "auto": then one is chosen that fits.') from None

    def paint(
        self,
        paint: Callable[[Setting], None],
        job: Job,
        tile: int | str,
        first: Setting,
        settings: list[Setting],
    ) -> None:
        """Paint a picture as the one before it; where memory runs out in the ``first`` setting, in one that takes less.

        Args:
            paint: a picture in a setting.
            job, tile: what all pictures of the decode are part of.
            first: of ``begin``.
            settings: those of the pictures before; this one's is added before it is painted, and stays if it was.

        Raises:
            MemoryLimitError: it ran out again, or nothing takes less.
            TeamError: this process cannot go on, and others wait for it.
        """
        setting = settings[-1] if settings else first
        with sound(self.device, self.dtype, self.row.network.head_widths):
            if self._fits(paint, setting, settings):
                return
            free_memory()
            if setting is first and self._fits(paint, self._following(job, first, tile), settings):
                return
        free_memory()
        raise MemoryLimitError(
            f"the device {self.device} ran out of memory again, in a decode that takes less: set a memory limit below "
            "what is free there, take a smaller tile, or decode a smaller latent."
        )

    def _fits(self, paint: Callable[[Setting], None], setting: Setting, settings: list[Setting]) -> bool:
        """Paint, and whether memory was enough; what was alive when it was not is gone.

        Raises:
            TeamError: this process cannot go on, and others wait for it.
        """
        settings.append(setting)  # a file's metadata, written while it is painted, tell it
        try:
            paint(setting)
        except (RuntimeError, MemoryError, OutputError) as error:
            if self.team is not None and (is_out_of_memory(error) or isinstance(error, OutputError)):
                raise alone(self.team, error) from error
            if not is_out_of_memory(error):
                raise
            settings.pop()
            return False
        return True

    def _following(self, job: Job, failed: Setting, tile: int | str) -> Setting:
        """The next way that takes a good deal less memory than one that ran out of it, with a word on it.

        Raises:
            MemoryLimitError: there is none.
        """
        costs = self.costs()
        took = costs.peak_bytes(job, failed)
        peaks = {s: costs.peak_bytes(job, s) for s in costs.settings(job, tile=_side(job, tile))}
        less = {setting: peak for setting, peak in peaks.items() if peak < took}
        if not less:
            raise MemoryLimitError(
                f"the device {self.device} has too little memory for this, and nothing takes less: decode a smaller "
                "latent."
            )
        most = took - LESS * (took - costs.held)
        chosen = next((setting for setting, peak in less.items() if peak <= most), min(less, key=less.__getitem__))
        warnings.warn(
            f"the device {self.device} ran out of memory; going on with {', '.join(map(str, chosen.levers))}.",
            MemoryWarning,
            stacklevel=3,
        )
        return chosen

    def costs(self, held: int | None = None, *, frugal: bool = False) -> CostModel:
        """Of the network here; ``held`` is what is there before a decode, default what is there now."""
        return CostModel(
            self.row.network,
            self.held() if held is None else held,
            self.dtype,
            on_cpu=self.device.type == "cpu",
            guided=self.row.guided,
            frugal=frugal,
            quantized=any(isinstance(module, QuantizedLinear) for module in self.network.modules()),
            ranks=self.team.size if self.team else 1,
        )

    def held(self) -> int:
        """Bytes that are there before a decode: weights, and what else the process holds or has reserved; in a team the
        most that one of its processes has, so that all plan alike."""
        held = self._held_here()
        return held if self.team is None else max(self.team.gather(held))

    def room(self, limit: str | int | None) -> int | None:
        """Bytes that a limit leaves this process beside what is there before a decode; None is no limit.

        Raises:
            OptionError: no such limit.
        """
        return None if limit is None else parse_bytes(limit) - self._held_here()

    def _held_here(self) -> int:
        """The same of this process."""
        resting = resting_dtypes(self.network, self.dtype)
        weights = sum(p.numel() * resting[name].itemsize for name, p in self.network.named_parameters())
        here = not any(p.is_meta for p in self.network.parameters())
        if self.device.type != "cpu":
            reserved = reserved_bytes(self.device)
            return max(weights, reserved) if here else weights + reserved
        for p in self.network.parameters() if here else ():
            p.flatten()[:: PAGE // p.element_size()].sum()  # a mapped file's pages count once they were read
        resident = resident_bytes()
        if here and resident:
            return resident
        return weights + (resident + LOADING_BYTES if resident else PROCESS_BYTES)


def _side(job: Job, tile: int | str) -> int | None:
    """The side of a tile that was asked for; None leaves it to the plan.

    Raises:
        OptionError: no such tile.
    """
    if tile == "auto":
        return None
    if tile != "off" and (not isinstance(tile, int) or tile < LEAST_TILE):
        raise OptionError(f'tile is {tile!r}; expected "auto", "off" or a side of at least {LEAST_TILE} latent cells.')
    whole = max(job.height, job.width)
    return whole if isinstance(tile, str) else min(tile, whole)

"""What a job will become, before it is painted: its sizes, what it costs, and by which way."""

from dataclasses import dataclass, field

from latpix.batching.outputs import Job, Output
from latpix.decoder import Decoder
from latpix.errors import LatpixError, MemoryLimitError
from latpix.files.tiled_tiff import SUFFIXES
from latpix.output_sizes import LEAST_CELLS
from latpix.plan import Plan, Setting
from latpix.tiling import count_tiles

STREAM_FROM = 2**26  # output pixels, 8192x8192: from there on a TIFF is never held as a whole


@dataclass
class Outlook:
    """Of the jobs of one run, all decoded alike; arguments as of ``Decoder.decode``."""

    decoder: Decoder
    steps: int | None
    scale: float | None
    asked_size: tuple[int, int] | None
    tile: int | str
    memory_limit: str | int | None
    colour_lock: bool
    _plans: dict[tuple[int, int, int, bool], Plan] = field(default_factory=dict)

    def cells(self, job: Job) -> tuple[int, int]:
        """Height and width of a job's latent."""
        height, width = job.measure.shape[-2:]
        space = self.decoder.space
        if job.measure.space is not None:
            return height, width
        if space.fixed_size is not None:
            return space.fixed_size, space.fixed_size
        return -(-height // space.downsample), -(-width // space.downsample)

    def painted_size(self, job: Job) -> tuple[int, int]:
        """Height and width of a job's picture at the trained scale."""
        space, own, scale = self.decoder.space, job.measure.native, self.decoder.checkpoint.scale
        height, width = (side * space.downsample for side in self.cells(job))
        if own is not None and space.fixed_size is None:
            height, width = own
        return height * scale, width * scale

    def size(self, job: Job) -> tuple[int, int]:
        """Height and width of its output."""
        if self.asked_size is not None:
            return self.asked_size
        trained = self.decoder.checkpoint.scale
        height, width = (round(side / trained * (self.scale or trained)) for side in self.painted_size(job))
        return height, width

    def plan(self, cells: tuple[int, int], *, batch: int = 1, in_files: bool = False) -> Plan:
        """What decoding ``batch`` latents of so many cells will cost, handed over together where that fits.

        Raises:
            OptionError, ScheduleError, MemoryLimitError: as of ``Decoder.plan``.
        """
        (h, w), key = cells, (*cells, batch, in_files)
        if key not in self._plans:
            self._plans[key] = self.decoder.plan(
                height=h,
                width=w,
                batch=batch,
                steps=self.steps,
                tile=self.tile,
                memory_limit=self.memory_limit,
                scale=self.scale,
                size=self.asked_size,
                in_files=in_files,
                one_by_one=True,
            )
        return self._plans[key]

    def streams(self, job: Job, output: Output) -> bool:
        """Whether it goes straight into its file: a TIFF, as it is painted, too large to be held."""
        painted = self.painted_size(job)
        is_tiff = output.path.suffix.lower() in SUFFIXES
        return is_tiff and self.size(job) == painted and self.into_file(self.cells(job), painted)

    def into_file(self, cells: tuple[int, int], size: tuple[int, int]) -> bool:
        """Whether a TIFF that is as large as it is painted goes straight into its file; the size in pixels."""
        if self.colour_lock:
            return False
        if size[0] * size[1] >= STREAM_FROM:
            return True
        try:
            self.plan(cells)
        except MemoryLimitError:
            return True
        except LatpixError:  # the decode will say so, where one job's error does not end the others
            return False
        return False

    def splits(self, job: Job, batch: int) -> bool:
        """Whether so many pictures do not fit together."""
        if batch == 1 or self.memory_limit is None:
            return False
        try:
            return self.plan(self.cells(job), batch=batch).setting.batch < batch
        except LatpixError:  # likewise
            return False

    def how(self, job: Job, setting: Setting, *, in_files: bool) -> str:
        """What is done besides painting the whole picture at the trained scale in the usual pieces, in words."""
        rows, columns = (max(side, LEAST_CELLS) for side in self.cells(job))
        tiles = count_tiles(rows, columns, setting.tile)
        (height, width), (asked_height, asked_width) = self.painted_size(job), self.size(job)
        parts = [lever.what for lever in setting.levers if not lever.cuts]
        if tiles > 1:
            parts.append(f"painted in {tiles} tiles of {setting.tile} latent cells")
        if in_files:
            parts.append("written straight into the file")
        if (height, width) != (asked_height, asked_width):
            scale = self.decoder.checkpoint.scale
            parts.append(
                f"painted {scale} times larger ({width}x{height}), then resampled to {asked_width}x{asked_height}"
            )
        return ", ".join(parts)

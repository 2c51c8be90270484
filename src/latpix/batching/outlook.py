"""What a job will become, before it is painted: its sizes, what it costs, and by which way."""

from dataclasses import dataclass, field
from pathlib import Path

from latpix.batching.outputs import Job, Output
from latpix.decoder import LEAST_CELLS, Decoder
from latpix.errors import MemoryLimitError
from latpix.files.tiled_tiff import SUFFIXES
from latpix.plan import Plan
from latpix.tiling import cut_tiles

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
    _plans: dict[tuple[int, int, bool], Plan] = field(default_factory=dict)

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

    def plan(self, job: Job, *, in_files: bool) -> Plan:
        """What decoding it will cost.

        Raises:
            MemoryLimitError: more than the limit.
        """
        h, w = self.cells(job)
        if (h, w, in_files) not in self._plans:
            self._plans[h, w, in_files] = self.decoder.plan(
                height=h,
                width=w,
                steps=self.steps,
                tile=self.tile,
                memory_limit=self.memory_limit,
                scale=self.scale,
                size=self.asked_size,
                in_files=in_files,
            )
        return self._plans[h, w, in_files]

    def streams(self, job: Job, output: Output) -> bool:
        """Whether it goes straight into its file: a TIFF, as it is painted, too large to be held."""
        height, width = self.painted_size(job)
        if not _is_tiff(output.path) or self.size(job) != (height, width) or self.colour_lock:
            return False
        if height * width >= STREAM_FROM:
            return True
        try:
            self.plan(job, in_files=False)
        except MemoryLimitError:
            return True
        return False

    def how(self, job: Job, tile: int, *, in_files: bool) -> str:
        """What is done besides painting the whole picture at the trained scale, in words; ``tile`` in latent cells."""
        rows, columns = (max(side, LEAST_CELLS) for side in self.cells(job))
        tiles = len(cut_tiles(rows, columns, tile))
        (height, width), (asked_height, asked_width) = self.painted_size(job), self.size(job)
        parts = []
        if tiles > 1:
            parts.append(f"painted in {tiles} tiles of {tile} latent cells")
        if in_files:
            parts.append("written straight into the file")
        if (height, width) != (asked_height, asked_width):
            scale = self.decoder.checkpoint.scale
            parts.append(
                f"painted {scale} times larger ({width}x{height}), then resampled to {asked_width}x{asked_height}"
            )
        return ", ".join(parts)


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES

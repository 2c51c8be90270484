"""How a run's latents are to be decoded: what was asked for, and the captions that it comes to."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from latpix.batching.captions import Captions, embed_captions
from latpix.batching.outputs import Job, Work
from latpix.checkpoints.registry import Checkpoint
from latpix.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Painting:
    """How to decode, for all jobs of a run; what is None is left to the latent, then to the checkpoint."""

    seed: int | None = None  # a manifest's own comes first
    caption: str | None = None  # likewise
    caption_file: str | Path | None = None  # embeddings made before
    no_caption: bool = False  # paint without words
    caption_model: str | Path | None = None  # hub id or folder of the text encoder
    captions: Captions | None = None  # of ``with_captions``; None embeds them when the painting starts
    steps: int | None = None
    scale: float | None = None
    size: tuple[int, int] | None = None  # height, width of the output
    tile: int | str = "auto"
    memory_limit: str | int | None = None
    detail_map: Path | None = None  # a picture file
    colour_lock: bool = False

    def __post_init__(self) -> None:
        given = {"caption": self.caption is not None, "caption_file": self.caption_file is not None}
        names = [
            f"--{name.replace('_', '-')}" for name, there in {**given, "no_caption": self.no_caption}.items() if there
        ]
        if len(names) > 1:
            raise UsageError(f"{' and '.join(names)} were given; give one of them.")

    def own_caption(self, job: Job) -> str | None:
        """A job's text: the manifest's, else the run's, else the latent's."""
        captions = (job.item.caption, self.caption, job.measure.caption)
        return next((caption for caption in captions if caption is not None), None)


def with_captions(painting: Painting, work: Work, row: Checkpoint, *, device: str | torch.device = "auto") -> Painting:
    """The same, with the captions of all work embedded: best before a decoder is loaded, so that neither is in memory
    beside the text encoder.

    Args:
        painting: how to decode.
        work: what.
        row: of the checkpoint that will; where it reads no captions, nothing is embedded.
        device: where the text encoder runs.

    Raises:
        CaptionError, DownloadError, MissingExtraError, MemoryLimitError: as of ``embed_captions``.
    """
    jobs = [job for job in work.jobs if isinstance(job, Job) and job.outputs]
    if not row.network.caption_width or painting.captions is not None or not jobs:
        return painting
    captions = embed_captions(
        [painting.own_caption(job) for job in jobs],
        row,
        file=painting.caption_file,
        none=painting.no_caption,
        model=painting.caption_model,
        device=device,
    )
    return replace(painting, captions=captions)

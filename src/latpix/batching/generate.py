"""Text to pictures, in an order that never holds two large models at once.

    captions -> freed -> backbone: latents, native pictures -> freed -> decoder: pictures, side by side, results.jsonl

Captions come first because a missing text encoder should be said before hours of generating. Everything in between is
a file: what was finished stays, and a later run goes on from there. So a picture is the same to the bit whether its
latent was saved a minute or a month ago. A latent that is there is used if it is the one that this run would make.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.backbones.registry import Backbone
from latpix.backbones.sources import Source
from latpix.batching.captions import embed_captions
from latpix.batching.inputs import Failure, Item, measure
from latpix.batching.outputs import Job, Output, Result, Work, make_folder
from latpix.batching.paint import OnStep
from latpix.batching.painting import Painting
from latpix.batching.results import add_result, read_results, settle_results
from latpix.batching.run import decode
from latpix.batching.shots import Generation, Shot
from latpix.checkpoints.registry import Checkpoint
from latpix.decoder import Decoder
from latpix.devices import free_memory
from latpix.errors import LatpixError, OutputError
from latpix.files.latent_files import Latent, read_latent, save_latent
from latpix.files.picture_files import read_metadata, read_picture, save_picture

GAP = 16  # pixels of white between two pictures side by side


@dataclass(frozen=True, kw_only=True)
class BackboneCall:
    """How latents are made: a backbone and how it is called."""

    row: Backbone
    open: Callable[[], Source]  # loads it
    height: int  # native, in pixels
    width: int
    steps: int
    seed: int = 0  # of every prompt that has none of its own


@dataclass
class GenerationRun:
    """One run of ``latpix generate``."""

    work: Generation
    backbone: BackboneCall
    decodes: Checkpoint | None  # None where latents are only saved
    open_decoder: Callable[[], Decoder]
    painting: Painting
    device: str | torch.device = "auto"  # of the caption encoder
    batch: int = 1
    overwrite: bool = False
    on_step: Callable[[int, int, str], None] | None = None  # (step, steps, what)
    _failed: set[int] = field(default_factory=set)  # prompts

    def run(self) -> Iterator[Result | Failure]:
        """Rows as they are finished: latents' where only they are saved, else pictures'.

        Raises:
            CheckpointError, CaptionError, DownloadError, ...: what all prompts need is not there; before any is run.
        """
        yield from self.work.failures
        if not self._shots():
            return
        painting = self._with_captions()
        for row in self._make_latents():
            if isinstance(row, Failure) or self.work.latents_only:
                yield row
        if not self.work.latents_only:
            yield from self._paint(painting)
        settle_results(self.work.folder)

    def _with_captions(self) -> Painting:
        """How to paint, with all captions embedded; their encoder is gone afterwards."""
        row, painting = self.decodes, self.painting
        if row is None or not row.network.caption_width:
            return painting
        captions = embed_captions(
            [painting.caption or shots[0].prompt.caption for shots in self._shots()],
            row,
            file=painting.caption_file,
            none=painting.no_caption,
            model=painting.caption_model,
            device=self.device,
        )
        return replace(painting, captions=captions)

    def _make_latents(self) -> Iterator[Result | Failure]:
        """Every latent and native picture that is missing; the backbone is gone afterwards."""
        for shots in self._shots():
            try:
                for shot in shots:
                    self._check_own(shot)
            except LatpixError as error:
                yield self._failure(shots, error)
        waiting = [shots for shots in self._shots() if self.overwrite or any(self._missing(shot) for shot in shots)]
        if not waiting:
            return
        source = self.backbone.open()
        for shots in waiting:
            try:
                yield from self._run_backbone(source, shots)
            except LatpixError as error:
                traceback.clear_frames(error.__traceback__)  # which hold the backbone
                yield self._failure(shots, error)
        del source
        free_memory()

    def _run_backbone(self, source: Source, shots: Sequence[Shot]) -> Iterator[Result]:
        """The latents of one prompt that are not there, then the native pictures."""
        start = time.perf_counter()
        prompt = shots[0].prompt
        make_folder(shots[0].latent)
        wanted = [shot for shot in shots if self.overwrite or not shot.latent.exists()]
        if wanted:
            latents = source.latents(
                prompt=prompt.caption,
                class_id=prompt.class_id,
                seed=self._seed(shots[0]),
                stops=[shot.step for shot in wanted],
                on_step=self._report(self.backbone.row.name),
            )
            for shot in wanted:
                forget(shot)
                save_latent(latents[shot.step], shot.latent, overwrite=True)
        codec = None if self.work.latents_only else source.native()
        for shot in shots:
            latent = read_latent(shot.latent)
            if codec is not None and not shot.native.exists():
                save_picture(codec.decode(latent.tensor)[0], shot.native)
            row = self._row(shot, latent, (time.perf_counter() - start) / len(shots))
            if codec is None:
                add_result(self.work.folder, self._line(shot, row, checkpoint=None))
            yield row

    def _check_own(self, shot: Shot) -> None:
        """A latent that is there, and will be used, is the one that this run would make.

        Raises:
            OutputError: it is another's.
        """
        if self.overwrite or not shot.latent.exists():
            return
        latent, asked = read_latent(shot.latent), self.backbone
        size = (latent.native_height, latent.native_width)
        found = {"prompt": latent.caption, "seed": latent.seed, "source": latent.source, "size": size}
        expected = {
            "prompt": shot.prompt.caption,
            "seed": self._seed(shot),
            "source": f"{asked.row.name}, step {shot.step} of {asked.steps}",
            "size": (asked.height, asked.width),
        }
        other = [f"{key} {found[key]} and not {value}" for key, value in expected.items() if found[key] != value]
        if other:
            raise OutputError(
                f'"{shot.latent}" is of another run: {"; ".join(other)}. Replace it (--overwrite), or choose another '
                "folder."
            )

    def _paint(self, painting: Painting) -> Iterator[Result | Failure]:
        """Every picture that is missing, from its latent file."""
        shots = {shot.picture: shot for shots in self._shots() for shot in shots}
        waiting = [shot for shot in shots.values() if not shot.picture.exists()]
        for shot in shots.values():
            if shot not in waiting:
                self._repair(shot)
        if not waiting:
            return
        work = Work(jobs=[_job(shot) for shot in waiting], inputs=self.work.inputs, skipped=[])
        decoder = self.open_decoder()
        rows = decode(work, decoder=decoder, painting=painting, batch=self.batch, on_step=self._report("decode"))
        for row in rows:
            if isinstance(row, Result):
                shot = shots[row.output]
                save_pair(shot)
                add_result(self.work.folder, self._line(shot, row, checkpoint=decoder.checkpoint.name))
            yield row

    def _repair(self, shot: Shot) -> None:
        """What belongs to a picture that is there, if an interrupt came between."""
        if not shot.pair.exists():
            save_pair(shot)
        if not any(line["output"] == shot.picture.name for line in read_results(self.work.folder)):
            story = read_metadata(shot.picture)
            height, width = story["height"], story["width"]
            row = replace(
                self._row(shot, read_latent(shot.latent), 0.0), output=shot.picture, height=height, width=width
            )
            add_result(self.work.folder, self._line(shot, row, checkpoint=story["checkpoint"]))

    def _row(self, shot: Shot, latent: Latent, seconds: float) -> Result:
        return Result(
            input=shot.prompt.text,
            output=shot.latent,
            height=self.backbone.height,
            width=self.backbone.width,
            seed=self._seed(shot),
            latent_sigma=latent.latent_sigma,
            seconds=seconds,
        )

    def _line(self, shot: Shot, row: Result, *, checkpoint: str | None) -> dict[str, Any]:
        """What ``results.jsonl`` says of an output; its files are named as they are in the folder."""
        files = {} if checkpoint is None else {name: getattr(shot, name).name for name in ("latent", "native", "pair")}
        return {
            "index": shot.prompt.index,
            "step": shot.step,
            "steps": self.backbone.steps,
            "prompt": shot.prompt.text,
            "backbone": self.backbone.row.name,
            "checkpoint": checkpoint,
            **{name: value for name, value in vars(row).items() if name != "output"},
            "output": row.output.name,
            **files,
        }

    def _failure(self, shots: Sequence[Shot], error: LatpixError) -> Failure:
        """A prompt that goes no further."""
        self._failed.add(shots[0].prompt.index)
        return Failure(input=shots[0].prompt.text, error=error)

    def _seed(self, shot: Shot) -> int:
        return self.backbone.seed if shot.prompt.seed is None else shot.prompt.seed

    def _shots(self) -> list[list[Shot]]:
        """Those of the prompts that have not failed."""
        found = [shots for shots in self.work.shots if not isinstance(shots, Failure) and shots]
        return [shots for shots in found if shots[0].prompt.index not in self._failed]

    def _missing(self, shot: Shot) -> bool:
        return not shot.latent.exists() or not (self.work.latents_only or shot.native.exists())

    def _report(self, what: str) -> OnStep | None:
        report = self.on_step
        return None if report is None else lambda step, steps: report(step, steps, what)


def forget(shot: Shot) -> None:
    """Remove what was made of a latent that is about to be replaced: files of two runs must not stand together."""
    for path in (shot.pair, shot.picture, shot.native):
        path.unlink(missing_ok=True)


def save_pair(shot: Shot) -> None:
    """The native picture, enlarged the plain way, beside ours."""
    ours = read_picture(shot.picture)
    save_picture(side_by_side(read_picture(shot.native), ours)[0], shot.pair, overwrite=True)


def side_by_side(small: Float[Tensor, "1 3 y x"], large: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 3 H w2"]:
    """Two pictures of one subject at the larger one's size, left and right of a white line."""
    height, width = large.shape[-2:]
    enlarged = F.interpolate(small, size=(height, width), mode="bicubic", antialias=True).clamp(-1, 1)
    return torch.cat([enlarged, large.new_ones(1, 3, height, GAP), large], dim=3)


def _job(shot: Shot) -> Job:
    item = Item(name=shot.prompt.text, path=shot.latent, seed=shot.prompt.seed)
    return Job(item=item, measure=measure(item, "latent"), outputs=(Output(path=shot.picture),))

"""Text to pictures, in an order that never holds two large models at once.

    backbone: latents, native pictures -> freed -> captions -> freed -> decoder: pictures, side by side, results.jsonl

Everything in between is a file: what was finished stays, and a later run goes on from there. So a picture is the same
to the bit whether its latent was saved a minute or a month ago.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.backbones.generate import generate_latents
from latpix.backbones.registry import Backbone
from latpix.backbones.vae import Vae
from latpix.batching.inputs import Failure, Item, measure
from latpix.batching.outputs import Job, Output, Result, Work, make_folder
from latpix.batching.paint import OnStep, Painting, with_captions
from latpix.batching.results import add_result
from latpix.batching.run import decode
from latpix.batching.shots import Generation, Shot
from latpix.checkpoints.registry import Checkpoint
from latpix.decoder import Decoder
from latpix.devices import free_memory
from latpix.errors import LatpixError
from latpix.files.latent_files import save_latent
from latpix.files.picture_files import read_picture, save_picture

GAP = 16  # pixels of white between two pictures side by side


@dataclass(frozen=True, kw_only=True)
class BackboneCall:
    """How latents are made: a backbone and how it is called."""

    row: Backbone
    open: Callable[[], Any]  # loads the pipeline
    height: int  # native, in pixels
    width: int
    steps: int
    guidance: float | None = None
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
    overwrite: bool = False
    on_step: Callable[[int, int, str], None] | None = None  # (step, steps, what)
    _failed: set[int] = field(default_factory=set)  # prompts

    def run(self) -> Iterator[Result | Failure]:
        """Rows as they are finished: latents' where only they are saved, else pictures'."""
        yield from self.work.failures
        for row in self._make_latents():
            if isinstance(row, Failure) or self.work.latents_only:
                yield row
        if not self.work.latents_only:
            yield from self._paint()

    def _make_latents(self) -> Iterator[Result | Failure]:
        """Every latent and native picture that is missing; the pipeline is gone afterwards."""
        waiting = [shots for shots in self._shots() if self.overwrite or any(self._missing(shot) for shot in shots)]
        if not waiting:
            return
        pipe = self.backbone.open()
        for shots in waiting:
            try:
                yield from self._run_backbone(pipe, shots)
            except LatpixError as error:
                traceback.clear_frames(error.__traceback__)  # which hold the pipeline
                self._failed.add(shots[0].prompt.index)
                yield Failure(input=shots[0].prompt.text, error=error)
        del pipe
        free_memory()

    def _run_backbone(self, pipe: Any, shots: list[Shot]) -> list[Result]:
        start = time.perf_counter()
        asked, prompt = self.backbone, shots[0].prompt
        seed = asked.seed if prompt.seed is None else prompt.seed
        steps = [shot.step for shot in shots]
        latents = generate_latents(
            pipe,
            asked.row,
            prompt=prompt.text,
            steps=asked.steps,
            guidance=asked.guidance,
            height=asked.height,
            width=asked.width,
            seed=seed,
            stop_at=[step for step in steps if step < asked.steps],
            final=asked.steps in steps,
            on_step=self._report(asked.row.name),
        )
        seconds = (time.perf_counter() - start) / len(shots)
        make_folder(shots[0].latent)
        vae = None if self.work.latents_only else Vae.of(pipe.vae, asked.row.space)
        for shot in shots:
            latent = replace(latents[shot.step], seed=seed)
            if self.overwrite or not shot.latent.exists():
                save_latent(latent, shot.latent, overwrite=self.overwrite)
            if vae is not None and (self.overwrite or not shot.native.exists()):
                save_picture(vae.decode(latent.tensor)[0], shot.native, overwrite=self.overwrite)
        return [
            Result(
                input=prompt.text,
                output=shot.latent,
                height=asked.height,
                width=asked.width,
                seed=seed,
                latent_sigma=latents[shot.step].latent_sigma,
                seconds=seconds,
            )
            for shot in shots
        ]

    def _paint(self) -> Iterator[Result | Failure]:
        """Every picture that is missing, from its latent file."""
        assert self.decodes is not None
        by_path = {shot.picture: shot for shots in self._shots() for shot in shots}
        waiting = [shot for shot in by_path.values() if self.overwrite or not shot.picture.exists()]
        if not waiting:
            return
        work = Work(jobs=[_job(shot) for shot in waiting], inputs=self.work.inputs, skipped=[])
        painting = with_captions(self.painting, work, self.decodes, device=self.device)
        decoder = self.open_decoder()
        rows = decode(
            work, decoder=decoder, painting=painting, overwrite=self.overwrite, on_step=self._report("decode")
        )
        for row in rows:
            if isinstance(row, Result):
                shot = by_path.pop(row.output)
                save_pair(shot, overwrite=True)
                add_result(self.work.folder, self._line(shot, row, decoder))
            yield row
        for shot in by_path.values():  # their pictures were there already
            if shot.picture.exists() and not shot.pair.exists():
                save_pair(shot, overwrite=True)

    def _line(self, shot: Shot, row: Result, decoder: Decoder) -> dict[str, Any]:
        """What ``results.jsonl`` says of a picture; paths are relative to the folder."""
        files = {name: str(getattr(shot, name).relative_to(self.work.folder)) for name in ("latent", "native", "pair")}
        return {
            "index": shot.prompt.index,
            "step": shot.step,
            "steps": self.backbone.steps,
            "prompt": shot.prompt.text,
            "backbone": self.backbone.row.name,
            "checkpoint": decoder.checkpoint.name,
            **{name: value for name, value in vars(row).items() if name != "output"},
            "output": str(row.output.relative_to(self.work.folder)),
            **files,
        }

    def _shots(self) -> list[list[Shot]]:
        """Those of the prompts that have not failed."""
        found = [shots for shots in self.work.shots if not isinstance(shots, Failure) and shots]
        return [shots for shots in found if shots[0].prompt.index not in self._failed]

    def _missing(self, shot: Shot) -> bool:
        return not shot.latent.exists() or not (self.work.latents_only or shot.native.exists())

    def _report(self, what: str) -> OnStep | None:
        report = self.on_step
        return None if report is None else lambda step, steps: report(step, steps, what)


def save_pair(shot: Shot, *, overwrite: bool) -> None:
    """The native picture, enlarged the plain way, beside ours."""
    ours = read_picture(shot.picture)
    save_picture(side_by_side(read_picture(shot.native), ours)[0], shot.pair, overwrite=overwrite)


def side_by_side(small: Float[Tensor, "1 3 y x"], large: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 3 H w2"]:
    """Two pictures of one subject at the larger one's size, left and right of a white line."""
    height, width = large.shape[-2:]
    enlarged = F.interpolate(small, size=(height, width), mode="bicubic", antialias=True).clamp(-1, 1)
    return torch.cat([enlarged, large.new_ones(1, 3, height, GAP), large], dim=3)


def _job(shot: Shot) -> Job:
    item = Item(name=shot.prompt.text, path=shot.latent, seed=shot.prompt.seed)
    return Job(item=item, measure=measure(item, "latent"), outputs=(Output(path=shot.picture),))

"""Text to pictures, in an order that never holds two large models at once.

    backbone: latents, native pictures -> freed -> captions -> freed -> decoder: pictures, side by side, results.jsonl

Everything in between is a file: what was finished stays, and a later run goes on from there. So a picture is the same
to the bit whether its latent was saved a minute or a month ago.

| file in OUT                    | is                                                         |
| ------------------------------ | ---------------------------------------------------------- |
| ``<stem>_step24.safetensors``  | the latent after 24 steps; ``_final`` that after the last  |
| ``<stem>_step24_native.png``   | the backbone's own decode of it                            |
| ``<stem>_step24.png``          | ours                                                       |
| ``<stem>_step24_pair.png``     | both, side by side, at our size                            |
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.backbones.generate import generate_latents
from latpix.backbones.registry import Backbone
from latpix.backbones.vae import Vae
from latpix.batching.inputs import Failure, Item, measure
from latpix.batching.outputs import Existing, Job, Output, Result, Work, check_folder, check_new, make_folder
from latpix.batching.paint import OnStep, Painting, with_captions
from latpix.batching.prompts import Prompt
from latpix.batching.results import add_result
from latpix.batching.run import decode
from latpix.checkpoints.registry import Checkpoint
from latpix.decoder import Decoder
from latpix.devices import free_memory
from latpix.distributed import Ranks
from latpix.errors import LatpixError, UsageError
from latpix.files.latent_files import save_latent
from latpix.files.picture_files import read_picture, save_picture

GAP = 16  # pixels of white between two pictures side by side


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One latent of one prompt, and the files that are made of it."""

    prompt: Prompt
    step: int  # steps done when it is taken
    latent: Path
    native: Path
    picture: Path
    pair: Path

    def files(self, *, latents_only: bool) -> tuple[Path, ...]:
        """What a run makes of it."""
        return (self.latent,) if latents_only else (self.latent, self.native, self.picture, self.pair)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one process has to generate; ``outputs``, ``skipped`` and ``inputs`` as of ``Work``."""

    folder: Path
    shots: list[list[Shot] | Failure]  # of each prompt
    inputs: int
    skipped: list[Path]
    latents_only: bool
    steps: int  # of a whole run of the backbone

    @property
    def outputs(self) -> int:
        """How many latents will be decoded, or saved."""
        return sum(len(shots) for shots in self.shots if not isinstance(shots, Failure))

    @property
    def failures(self) -> list[Failure]:
        """Prompts that cannot be used."""
        return [shots for shots in self.shots if isinstance(shots, Failure)]


def plan_generation(
    prompts: Sequence[Prompt | Failure],
    out: Path,
    *,
    stops: Sequence[int],
    steps: int,
    suffix: str = ".png",
    latents_only: bool = False,
    existing: Existing = "refuse",
    ranks: Ranks | None = None,
) -> Generation:
    """Name all files, and check that each can be written.

    Args:
        prompts: of ``find_prompts``.
        out: a folder, made when missing.
        stops: steps after which a latent is taken; ``steps`` for the final one.
        steps: of a whole run of the backbone.
        suffix: of pictures.
        latents_only: make nothing but latent files.
        existing: what to do with files that are there already.
        ranks: this process among several.

    Raises:
        UsageError: ``out`` is a file's name, or two prompts would share their files.
        OutputError: a file that exists, or a folder that cannot be made.
    """
    if out.suffix and not out.is_dir():
        raise UsageError(f'"{out}" looks like a file, but several are made of each prompt; name a folder (no suffix).')
    check_folder(out)
    _check_stems(prompts)
    shots = [
        one if isinstance(one, Failure) else [_shot(one, step, steps, out, suffix) for step in sorted(set(stops))]
        for one in prompts
    ]
    mine: list[list[Shot] | Failure] = []
    skipped = []
    for one in (ranks or Ranks()).share(shots):
        if isinstance(one, Failure) or existing == "overwrite":
            mine.append(one)
            continue
        files = {shot: shot.files(latents_only=latents_only) for shot in one}
        if existing == "refuse":
            check_new([path for paths in files.values() for path in paths if path.exists()])
        done = [shot for shot, paths in files.items() if all(path.exists() for path in paths)]
        skipped += [shot.latent if latents_only else shot.picture for shot in done]
        mine.append([shot for shot in one if shot not in done])
    return Generation(
        folder=out, shots=mine, inputs=len(prompts), skipped=skipped, latents_only=latents_only, steps=steps
    )


@dataclass(frozen=True, kw_only=True)
class Backbones:
    """How latents are made: a backbone and how it is called."""

    row: Backbone
    open: Callable[[], Any]  # loads the pipeline
    height: int  # native, in pixels
    width: int
    steps: int
    guidance: float | None = None
    seed: int = 0  # of every prompt that has none of its own


@dataclass
class Generator:
    """One run of ``latpix generate``."""

    work: Generation
    backbone: Backbones
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


def _shot(prompt: Prompt, step: int, steps: int, folder: Path, suffix: str) -> Shot:
    base = f"{prompt.stem}_final" if step == steps else f"{prompt.stem}_step{step}"
    return Shot(
        prompt=prompt,
        step=step,
        latent=folder / f"{base}.safetensors",
        native=folder / f"{base}_native{suffix}",
        picture=folder / f"{base}{suffix}",
        pair=folder / f"{base}_pair{suffix}",
    )


def _job(shot: Shot) -> Job:
    item = Item(name=shot.prompt.text, path=shot.latent, seed=shot.prompt.seed)
    return Job(item=item, measure=measure(item, "latent"), outputs=(Output(path=shot.picture),))


def _check_stems(prompts: Sequence[Prompt | Failure]) -> None:
    seen: dict[str, str] = {}
    for one in prompts:
        if isinstance(one, Failure):
            continue
        if one.stem in seen:
            raise UsageError(
                f'"{seen[one.stem]}" and "{one.text}" would both be saved as "{one.stem}"; name them apart.'
            )
        if Path(one.stem).name != one.stem:
            raise UsageError(f'the output "{one.stem}" leaves the output folder; give a plain name.')
        seen[one.stem] = one.text

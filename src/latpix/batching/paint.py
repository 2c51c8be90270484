"""The painter: decodes many latents, grouped by shape, in the order of the inputs, past the ones that fail.

job --load--> latent --(one task per output)--> stacked by shape --decode--> pixels --> picture with its story
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.batching.inputs import Failure
from latpix.batching.outlook import Outlook
from latpix.batching.outputs import Job, Output, Result, Work, make_folder
from latpix.batching.painting import Painting, with_captions
from latpix.batching.story import Origin, story_of
from latpix.decoder import Decoder
from latpix.errors import LatpixError, OptionError, TeamError
from latpix.files.latent_files import Latent
from latpix.files.picture_files import read_picture, save_picture
from latpix.latents.noising import noise_latent
from latpix.latents.spaces import LATENT_SPACES
from latpix.plan import ONE_AT_A_TIME, Setting
from latpix.sampling.noise import LATENT_DRAW, noise_field
from latpix.team import all_or_none

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A job's latent, where it came from, and what else its picture needs."""

    latent: Latent
    origin: Origin
    icc_profile: bytes | None = None
    colours: Float[Tensor, "1 3 y x"] | None = None  # to lock to; None leaves it to the base decoder


@dataclass(frozen=True, kw_only=True)
class Task:
    """One output of one job, and its place among all outputs."""

    place: int
    job: Job
    output: Output


Row = Result | Failure | None  # None: its job has failed in an earlier row


@dataclass
class Painter:
    """A decoder, what it is asked for, and how a job becomes a latent."""

    decoder: Decoder
    painting: Painting
    load: Callable[[Job], Loaded]
    renoises: bool = False  # noise a latent to its output's sigma; else believe that it is that noisy already
    overwrite: bool = False
    on_step: OnStep | None = None
    _loaded: dict[int, Loaded] = field(default_factory=dict)  # by id of the job; those of the batch at hand
    _failed: set[int] = field(default_factory=set)  # jobs that could not be loaded
    _detail: Tensor | None = None  # the detail map

    def __post_init__(self) -> None:
        asked = self.painting
        self._outlook = Outlook(
            self.decoder, asked.steps, asked.scale, asked.size, asked.tile, asked.memory_limit, asked.colour_lock
        )

    def run(self, work: Work, batch: int) -> Iterator[Result | Failure]:
        """Rows in the order of the outputs; on an interrupt those that are finished, then the interrupt.

        Raises:
            OptionError: an option that the first of several inputs cannot be decoded with, nor then the others.
            CaptionError: captions that cannot be embedded, or none where the checkpoint reads them.
        """
        self.painting = with_captions(self.painting, work, self.decoder.checkpoint, device=self.decoder.device)
        if self.painting.detail_map is not None:
            self._detail = read_picture(self.painting.detail_map)
        rows = list(slots(work))
        waiting: dict[int, Row] = {place: row for place, row in enumerate(rows) if isinstance(row, Failure)}
        tasks = [row for row in rows if isinstance(row, Task)]
        due = 0
        try:
            for number, group in enumerate(group_tasks(tasks, batch, self._likeness)):
                for place, row in self._finish(group, strict=number == 0 and work.inputs > 1):
                    waiting[place] = row  # noqa: PERF403 (an interrupt must find what is finished)
                while due in waiting:
                    row = waiting.pop(due)
                    due += 1
                    if row is not None:
                        yield row
        except KeyboardInterrupt:
            yield from (row for _, row in sorted(waiting.items()) if isinstance(row, Result))
            raise
        yield from (row for _, row in sorted(waiting.items()) if row is not None)

    def preview(self, work: Work) -> Iterator[Result | Failure]:
        """The rows that ``run`` would give, with the seconds they are expected to take."""
        for row in slots(work):
            yield row if isinstance(row, Failure) else self._expected(row)

    def _finish(self, group: Sequence[Task], *, strict: bool) -> Iterator[tuple[int, Row]]:
        """Load, decode and save a group; ``strict`` lets an OptionError through."""
        start = time.perf_counter()
        jobs = {id(task.job) for task in group}
        self._loaded = {key: loaded for key, loaded in self._loaded.items() if key in jobs}
        ready = []
        for task in group:
            try:
                if id(task.job) not in self._loaded and id(task.job) not in self._failed:
                    with all_or_none(self.decoder.team):
                        self._loaded[id(task.job)] = self.load(task.job)
            except TeamError:
                raise
            except LatpixError as error:
                self._failed.add(id(task.job))
                yield task.place, Failure(input=task.job.item.name, error=error)
                continue
            if id(task.job) in self._failed:
                yield task.place, None
            else:
                ready.append(task)
        if ready:
            yield from self._make(ready, start, strict=strict)

    def _make(self, tasks: Sequence[Task], start: float, *, strict: bool) -> Iterator[tuple[int, Row]]:
        latents = [self._latent(task) for task in tasks]
        if self._outlook.streams(tasks[0].job, tasks[0].output):
            for task, latent in zip(tasks, latents, strict=True):
                yield task.place, self._stream(task, latent)
            return
        if self._outlook.splits(tasks[0].job, len(tasks)):
            for task in tasks:
                for place, row in self._make([task], start, strict=strict and task is tasks[0]):
                    if isinstance(row, Result):
                        row = replace(row, how=", ".join(filter(None, (ONE_AT_A_TIME.what, row.how))))
                    yield place, row
                start = time.perf_counter()
            return
        try:
            pictures = self._decode(tasks, latents)
        except TeamError:
            raise
        except LatpixError as error:
            if len(tasks) > 1:  # one of them is at fault: which?
                for task in tasks:
                    yield from self._make([task], time.perf_counter(), strict=strict and task is tasks[0])
                return
            if strict and isinstance(error, OptionError) and not self._brings_its_sigma(tasks[0]):
                raise
            yield tasks[0].place, Failure(input=tasks[0].job.item.name, error=error)
            return
        seconds = (time.perf_counter() - start) / len(tasks)
        settings = self.decoder.last_settings
        for task, latent, pixels, setting in zip(tasks, latents, pictures, settings, strict=True):
            yield task.place, self._save(task, latent, pixels, setting, seconds)

    def _decode(self, tasks: Sequence[Task], latents: Sequence[Latent]) -> Float[Tensor, "b 3 H W"]:
        colour_lock: bool | Tensor = self.painting.colour_lock
        if colour_lock and (colours := [self._loaded[id(task.job)].colours for task in tasks])[0] is not None:
            colour_lock = torch.cat([one for one in colours if one is not None])
        return self.decoder.decode(
            replace(latents[0], tensor=torch.cat([latent.tensor for latent in latents])),
            latent_sigma=[latent.latent_sigma for latent in latents],
            seed=[self._seed(task) for task in tasks],
            scale=self.painting.scale,
            size=self.painting.size,
            colour_lock=colour_lock,
            **self._common(tasks[0].job),
        )

    def _stream(self, task: Task, latent: Latent) -> Result | Failure:
        """Decode straight into the file."""
        start, loaded, path = time.perf_counter(), self._loaded[id(task.job)], task.output.path

        def told() -> tuple[dict[str, Any], Result]:
            (setting,), size = self.decoder.last_settings, self._outlook.painted_size(task.job)
            return self._told(task, latent, size, setting, in_files=True)

        try:
            with all_or_none(self.decoder.team):
                make_folder(path)  # in each process: each keeps files beside the picture
            self.decoder.decode_to_tiff(
                latent,
                path,
                seed=self._seed(task),
                metadata=lambda: told()[0],
                icc_profile=loaded.icc_profile,
                overwrite=self.overwrite,
                **self._common(task.job),
            )
        except TeamError:
            raise
        except LatpixError as error:
            return Failure(input=task.job.item.name, error=error)
        return replace(told()[1], seconds=time.perf_counter() - start)

    def _save(
        self, task: Task, latent: Latent, pixels: Float[Tensor, "3 H W"], setting: Setting, seconds: float
    ) -> Result | Failure:
        start, loaded, path = time.perf_counter(), self._loaded[id(task.job)], task.output.path
        height, width = pixels.shape[-2:]
        try:
            story, result = self._told(task, latent, (height, width), setting, in_files=False)
            if self._writes:
                make_folder(path)
                save_picture(pixels, path, metadata=story, icc_profile=loaded.icc_profile, overwrite=self.overwrite)
        except LatpixError as error:
            return Failure(input=task.job.item.name, error=error)
        return replace(result, seconds=seconds + time.perf_counter() - start)

    @property
    def _writes(self) -> bool:
        """Of processes that make each picture together, the first one writes it."""
        return self.decoder.team is None or self.decoder.team.rank == 0

    def _common(self, job: Job) -> dict[str, Any]:
        """Arguments of both ways to decode."""
        report, captions = self.on_step, self.painting.captions
        return {
            "caption": self._states(job),
            "null_caption": captions.negative if captions else None,
            "steps": self.painting.steps,
            "detail_map": self._detail,
            "tile": self.painting.tile,
            "memory_limit": self.painting.memory_limit,
            "on_step": None if report is None else lambda step, steps, _x0: report(step, steps),
        }

    def _told(
        self, task: Task, latent: Latent, size: tuple[int, int], setting: Setting, *, in_files: bool
    ) -> tuple[dict[str, Any], Result]:
        """What a picture of ``size`` carries that was painted in ``setting``, and its row but for the seconds."""
        job, loaded, captions = task.job, self._loaded[id(task.job)], self.painting.captions
        seed = self._seed(task)
        lock = None if not self.painting.colour_lock else "base decoder" if loaded.colours is None else "codec"
        story = story_of(
            self.decoder,
            latent,
            loaded.origin,
            index=task.output.index,
            size=size,
            setting=setting,
            seed=seed,
            steps=self.painting.steps,
            caption=self._caption(job),
            caption_embedding=captions.story(self.painting.own_caption(job)) if captions else None,
            in_files=in_files,
            colour_lock=lock,
            detail_map=self.painting.detail_map,
        )
        result = Result(
            input=job.item.name,
            output=task.output.path,
            height=size[0],
            width=size[1],
            seed=seed,
            latent_sigma=latent.latent_sigma,
            seconds=0.0,
            how=self._outlook.how(job, setting, in_files=in_files),
        )
        return story, result

    def _latent(self, task: Task) -> Latent:
        """The task's own picture of its job's latent, at the task's sigma."""
        latent = self._loaded[id(task.job)].latent
        one = replace(latent, tensor=latent.tensor[task.output.index : task.output.index + 1])
        sigma = self._sigma(task)
        if self.renoises:
            return renoise(one, latent_sigma=sigma, seed=self._seed(task))
        return replace(one, latent_sigma=sigma)

    def _sigma(self, task: Task) -> float:
        given = task.output.latent_sigma
        return task.job.measure.latent_sigma if given is None else given

    def _brings_its_sigma(self, task: Task) -> bool:
        """Whether an OptionError may be the latent's own doing."""
        return task.output.latent_sigma is None and task.job.measure.latent_sigma > 0

    def _seed(self, task: Task) -> int:
        """The manifest's, else the run's, else the latent's own, else 0; picture k of a file adds k."""
        job = task.job
        seeds = (job.item.seed, self.painting.seed, job.measure.seed, 0)
        return next(seed for seed in seeds if seed is not None) + task.output.index

    def _caption(self, job: Job) -> str | None:
        """The text that a job is painted with."""
        own, captions = self.painting.own_caption(job), self.painting.captions
        return captions.text(own) if captions else own

    def _states(self, job: Job) -> Tensor | None:
        """That text as the network reads it."""
        captions = self.painting.captions
        return captions.embedding(self.painting.own_caption(job)) if captions else None

    def _likeness(self, task: Task) -> Hashable:
        """What tasks that are decoded together have in common."""
        measure = task.job.measure
        return (
            measure.shape[1:],
            measure.native,
            self._caption(task.job),
            self._outlook.streams(task.job, task.output),
        )

    def _expected(self, task: Task) -> Result | Failure:
        streams = self._outlook.streams(task.job, task.output)
        try:
            plan = self._outlook.plan(self._outlook.cells(task.job), in_files=streams)
        except LatpixError as error:
            return Failure(input=task.job.item.name, error=error)
        height, width = self._outlook.size(task.job)
        return Result(
            input=task.job.item.name,
            output=task.output.path,
            height=height,
            width=width,
            seed=self._seed(task),
            latent_sigma=self._sigma(task),
            seconds=plan.seconds,
            how=self._outlook.how(task.job, plan.setting, in_files=streams),
        )


def renoise(latent: Latent, *, latent_sigma: float, seed: int) -> Latent:
    """A clean latent at noise level ``latent_sigma``, with the seed's noise for latents."""
    channels, h, w = latent.tensor.shape[1:]
    noise = noise_field([seed], channels, h, w, device=latent.tensor.device)(LATENT_DRAW)
    rule = LATENT_SPACES[latent.space].noising
    return replace(latent, tensor=noise_latent(latent.tensor, noise, latent_sigma, rule), latent_sigma=latent_sigma)


def slots(work: Work) -> Iterator[Task | Failure]:
    """One slot per output and per failed input, in order."""
    place = 0
    for job in work.jobs:
        if isinstance(job, Failure):
            yield job
            place += 1
            continue
        for output in job.outputs:
            yield Task(place=place, job=job, output=output)
            place += 1


def group_tasks(tasks: Sequence[Task], batch: int, likeness: Callable[[Task], Hashable]) -> list[list[Task]]:
    """Tasks that are alike, ``batch`` at a time; groups come in the order of their first task."""
    groups: list[list[Task]] = []
    open_groups: dict[Hashable, list[Task]] = {}
    for task in tasks:
        key = likeness(task)
        group = open_groups.get(key)
        if group is None or len(group) == batch:
            group = open_groups[key] = []
            groups.append(group)
        group.append(task)
    return groups

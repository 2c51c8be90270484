"""Where results go: names, and every check that can be made before any work starts.

| OUT                                | means                                                     |
| ---------------------------------- | --------------------------------------------------------- |
| an existing folder, or no suffix   | a folder, made when missing: ``<stem>.png`` in it         |
| a known suffix                     | one file: one input, one picture in it, one latent_sigma  |
| another suffix                     | an error                                                  |

``<stem>_00.png``, ... where a latent file holds several pictures; ``<stem>_sigma0.20.png`` with several sigmas.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from latpix.batching.inputs import SUFFIXES, Failure, Item, Kind, Measure, measure
from latpix.distributed import Ranks
from latpix.errors import LatpixError, OutputError, UsageError
from latpix.files.atomic import check_output

Existing = Literal["refuse", "overwrite", "skip"]
WRITTEN: dict[Kind, tuple[str, ...]] = {"picture": SUFFIXES["picture"], "latent": (".safetensors",)}


@dataclass(frozen=True, kw_only=True)
class Output:
    """One file to make."""

    path: Path
    index: int = 0  # of the picture within its input
    latent_sigma: float | None = None  # None leaves it to the latent's own


@dataclass(frozen=True, kw_only=True)
class Job:
    """An input, its size, and what is to be made of it."""

    item: Item
    measure: Measure
    outputs: tuple[Output, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished output."""

    input: str  # as it was given
    output: Path
    height: int  # pixels; of a latent file, of the picture it stands for
    width: int
    seed: int | None
    latent_sigma: float
    seconds: float
    how: str = ""  # what was done besides painting the whole picture at the trained scale


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one process has to do, in the order of the inputs."""

    jobs: list[Job | Failure]
    inputs: int  # of all processes together
    skipped: list[Path]  # outputs that are there already and stay
    together: bool = False  # every process has all of it: they make each picture together

    @property
    def outputs(self) -> int:
        """How many files will be made."""
        return sum(len(job.outputs) for job in self.jobs if isinstance(job, Job))

    @property
    def failures(self) -> list[Failure]:
        """Inputs that cannot be worked on, as was found while measuring them."""
        return [job for job in self.jobs if isinstance(job, Failure)]


def plan_work(
    found: Sequence[Item | Failure],
    out: str | Path,
    *,
    reads: Kind,
    writes: Kind = "picture",
    suffix: str | None = None,
    space: str | None = None,
    latent_sigmas: Sequence[float] | None = None,
    existing: Existing = "refuse",
    ranks: Ranks | None = None,
    may_team: bool = False,
) -> Work:
    """Measure the inputs, name their outputs, and check that each can be written.

    Args:
        found: of ``find_inputs`` or ``read_manifest``.
        out: a file or a folder, as in the module's table.
        reads, writes: what the inputs and the outputs are.
        suffix: of the outputs in a folder; default .png, or .safetensors for latents.
        space: of latent files that do not say it.
        latent_sigmas: one output for each; default one output, at the latent's own.
        existing: what to do with an output that is there already.
        ranks: this process among several; it gets its share of the outputs.
        may_team: where there are fewer outputs than processes, each gets all, to make them together with the others.

    Raises:
        UsageError: one file for several outputs, two inputs that would make the same file.
        OutputError: an unknown suffix, a missing folder, an output that exists, or one that is an input.
    """
    measured = [_measured(item, reads, space) for item in found]
    sigmas = tuple(latent_sigmas) if latent_sigmas else (None,)
    several = len(found) > 1 or len(sigmas) > 1 or any(isinstance(m, Measure) and m.pictures > 1 for m in measured)
    place = _Place.of(Path(out), writes, suffix, several=several)
    jobs: list[Job | Failure] = []
    for item, size in zip(found, measured, strict=True):
        if isinstance(size, Failure):
            jobs.append(size)
            continue
        assert isinstance(item, Item)  # a Failure measures as itself
        try:
            jobs.append(Job(item=item, measure=size, outputs=_outputs(item, size, sigmas, place)))
        except OutputError as error:  # a name that a manifest gives
            jobs.append(Failure(input=item.name, error=error))
    _check_distinct([job for job in jobs if isinstance(job, Job)])
    ranks = ranks or Ranks()
    together = may_team and ranks.size > sum(len(job.outputs) if isinstance(job, Job) else 1 for job in jobs)
    kept, skipped = _settle_existing(jobs if together else _shared(jobs, ranks), existing)
    return Work(jobs=kept, inputs=len(found), skipped=skipped, together=together)


@dataclass(frozen=True)
class _Place:
    """One file, or a folder and the suffix of what goes into it."""

    path: Path
    suffix: str
    is_file: bool
    suffixes: tuple[str, ...]

    @classmethod
    def of(cls, out: Path, writes: Kind, suffix: str | None, *, several: bool) -> "_Place":
        suffixes = WRITTEN[writes]
        inside = suffix or suffixes[0]
        if out.is_dir() or not out.suffix:
            check_folder(out)
            return cls(out, inside, False, suffixes)
        _check_suffix(out, suffixes)
        if suffix and _same(suffix) != _same(out.suffix):
            raise UsageError(f'"{out}" ends in {out.suffix}, but the format asked for is {suffix[1:]}; name one.')
        if several:
            raise UsageError(f'"{out}" is one file, but there are several outputs; name a folder (no suffix).')
        check_output(out, overwrite=True)
        return cls(out, out.suffix, True, suffixes)

    def base(self, item: Item) -> Path:
        """An item's output, before sigmas and numbers are added."""
        if self.is_file:
            return self.path
        if item.output is None:
            return self.path / f"{item.path.stem}{self.suffix}"
        if Path(item.output).is_absolute() or ".." in Path(item.output).parts:
            raise OutputError(f'the output "{item.output}" leaves the output folder; name a file inside it.')
        named = self.path / item.output
        if not named.suffix:
            return named.with_name(named.name + self.suffix)
        _check_suffix(named, self.suffixes)
        return named


def _measured(item: Item | Failure, kind: Kind, space: str | None) -> Measure | Failure:
    if isinstance(item, Failure):
        return item
    try:
        return measure(item, kind, space=space)
    except LatpixError as error:
        return Failure(input=item.name, error=error)


def _shared(jobs: Sequence[Job | Failure], ranks: Ranks) -> list[Job | Failure]:
    """A process's share, by outputs; those of one input are one job again."""
    single: list[tuple[int, Job | Failure]] = []
    for place, job in enumerate(jobs):
        if isinstance(job, Job):
            single += [(place, replace(job, outputs=(output,))) for output in job.outputs]
        else:
            single.append((place, job))
    own: dict[int, Job | Failure] = {}
    for place, job in ranks.share(single, lambda one: _cost(one[1])):
        before = own.get(place)
        if isinstance(before, Job) and isinstance(job, Job):
            job = replace(job, outputs=before.outputs + job.outputs)
        own[place] = job
    return list(own.values())


def _cost(job: Job | Failure) -> tuple[int, ...]:
    """The same for jobs that take as long: their shape."""
    return job.measure.shape if isinstance(job, Job) else ()


def _outputs(item: Item, size: Measure, sigmas: Sequence[float | None], place: _Place) -> tuple[Output, ...]:
    base = place.base(item)
    outputs = []
    for index in range(size.pictures):
        for sigma in sigmas:
            number = f"_{index:02d}" if size.pictures > 1 else ""
            level = f"_sigma{sigma:.2f}" if len(sigmas) > 1 else ""
            path = base.with_name(f"{base.stem}{number}{level}{base.suffix}")
            outputs.append(Output(path=path, index=index, latent_sigma=sigma))
    return tuple(outputs)


def _check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise OutputError(
            f'"{path}" ends in {path.suffix}, which is not written; expected {", ".join(suffixes)}, '
            "or a folder (no suffix, or one that exists)."
        )


def check_folder(folder: Path) -> None:
    """A folder that exists or can be made."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise OutputError(f'"{nearest}" is a file, so there can be no folder "{folder}"; choose another name.')
    if not os.access(nearest, os.W_OK):
        raise OutputError(f'"{nearest}" may not be written to; choose another folder.')


def _check_distinct(jobs: Sequence[Job]) -> None:
    """No two outputs share a file, and none replaces an input."""
    makers = [(output.path.absolute(), job.item.name) for job in jobs for output in job.outputs]
    counts = Counter(path for path, _ in makers)
    for path, count in counts.items():
        if count > 1:
            names = " and ".join(f'"{name}"' for maker, name in makers if maker == path)
            raise UsageError(f'{names} would both become "{path.name}"; name them apart in a manifest, or run twice.')
    inputs = {job.item.path.resolve() for job in jobs}
    for path in counts:
        if path.resolve() in inputs:
            raise OutputError(f'the output "{path}" is one of the inputs; choose another folder or name.')


def _settle_existing(jobs: Sequence[Job | Failure], existing: Existing) -> tuple[list[Job | Failure], list[Path]]:
    """The jobs without the outputs that stay as they are, and those outputs."""
    there = [output.path for job in jobs if isinstance(job, Job) for output in job.outputs if output.path.exists()]
    if not there or existing == "overwrite":
        return list(jobs), []
    if existing == "refuse":
        check_new(there)
    stay = set(there)
    kept = [
        replace(job, outputs=tuple(output for output in job.outputs if output.path not in stay))
        if isinstance(job, Job)
        else job
        for job in jobs
    ]
    return kept, there


def check_new(there: Sequence[Path]) -> None:
    """No output is there already.

    Args:
        there: outputs that exist.

    Raises:
        OutputError: one or more of them do.
    """
    if there:
        exist = f'"{there[0]}" exists' if len(there) == 1 else f'{len(there)} outputs, the first "{there[0]}", exist'
        raise OutputError(
            f"{exist} already; replace what is there (--overwrite), or keep it and make the others (--skip-existing)."
        )


def make_folder(path: Path) -> None:
    """Make the folder of an output.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f'the folder "{path.parent}" cannot be made: {error.strerror}.') from error


def _same(suffix: str) -> str:
    """One spelling per format."""
    return {".jpeg": ".jpg", ".tif": ".tiff"}.get(suffix.lower(), suffix.lower())

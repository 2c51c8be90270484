"""Read every sample of a folder of shards, as any reader of webdataset would, and say what is wrong.

Each shard is read from its first byte to its last with the library itself: parts that lack, bytes that changed since
they were packed, pictures that do not decode to what their JSON says, latents that do not fit their picture, keys that
come twice, an index that says something else.
"""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latpix.data.ahead import decode_latents
from latpix.data.pictures import decode, fit
from latpix.data.scan import OnStep
from latpix.data.shards import (
    FACTS,
    INDEX,
    LATENT,
    PICTURES,
    Entry,
    Facts,
    index_shard,
    read_facts,
    read_index,
    shard_files,
)
from latpix.errors import DataError, LatpixError, MissingExtraError


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong."""

    shard: str
    key: str  # empty where it is the shard itself
    message: str


@dataclass
class Report:
    """What is in a folder of shards."""

    shards: int = 0
    samples: int = 0  # that are sound
    bytes: int = 0
    captioned: int = 0
    megapixels: float = 0.0
    buckets: Counter[str] = field(default_factory=Counter)
    latents: Counter[str] = field(default_factory=Counter)  # samples by space
    problems: list[Problem] = field(default_factory=list)


def check(folder: str | Path, *, on_step: OnStep | None = None) -> Report:
    """Read all of it.

    Raises:
        DataError: there is no shard.
        MissingExtraError: webdataset is not installed.
    """
    folder = Path(folder)
    report, paths = Report(), shard_files(folder)
    indexed = _indexed(folder, report)
    keys: dict[str, str] = {}
    for number, path in enumerate(paths, start=1):
        report.shards += 1
        report.bytes += path.stat().st_size
        for sample in _samples(path, report):
            key = sample["__key__"]
            if key in keys:
                report.problems.append(Problem(shard=path.name, key=key, message=f"is in {keys[key]} too"))
            keys[key] = path.name
            try:
                _count(_sound(sample, path.name), report)
            except LatpixError as error:
                report.problems.append(Problem(shard=path.name, key=key, message=str(error)))
        if indexed is not None:
            _compare(path, indexed.get(path.name), report)
        if on_step is not None:
            on_step(number, len(paths), "check")
    return report


def _indexed(folder: Path, report: Report) -> dict[str, list[Entry]] | None:
    """The index by shard, if there is one."""
    if not (folder / INDEX).exists():
        return None
    found: dict[str, list[Entry]] = {}
    try:
        for entry in read_index(folder):
            found.setdefault(entry.shard, []).append(entry)
    except (DataError, ValueError, KeyError, TypeError) as error:
        report.problems.append(Problem(shard=INDEX, key="", message=str(error)))
        return None
    return found


def _compare(path: Path, indexed: list[Entry] | None, report: Report) -> None:
    """The index against a shard in which nothing else is wrong."""
    if all(problem.shard != path.name for problem in report.problems) and list(index_shard(path)) != indexed:
        report.problems.append(Problem(shard=path.name, key="", message=f"is not as {INDEX} says; pack again"))


def _samples(path: Path, report: Report) -> Iterator[dict[str, Any]]:
    try:
        from webdataset.tariterators import group_by_keys, tar_file_iterator
    except ImportError as error:
        raise MissingExtraError.of("train", "webdataset") from error
    try:
        with path.open("rb") as file:
            yield from group_by_keys({"__url__": path.name, **one} for one in tar_file_iterator(file))
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        message = f"no whole tar ({error.args[0] if error.args else error}); delete it and pack again"
        report.problems.append(Problem(shard=path.name, key="", message=message))


def _sound(sample: dict[str, Any], shard: str) -> Facts:
    """What a sample is.

    Raises:
        LatpixError: it is not sound.
    """
    key, parts = sample["__key__"], {name for name in sample if not name.startswith("__")}
    pictures = [name for name in PICTURES if name in parts]
    if FACTS not in parts or len(pictures) != 1 or parts - {FACTS, LATENT, *pictures}:
        raise DataError(f"holds {', '.join(sorted(parts))}; expected {FACTS} and one picture")
    facts, data = read_facts(sample[FACTS], f"{shard}/{key}"), sample[pictures[0]]
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise DataError("the picture's bytes are not those that were packed")
    levels = decode(data, "the picture")
    if levels.shape[1:] != (facts.height, facts.width):
        raise DataError(f"the picture is {levels.shape[2]}x{levels.shape[1]}, not {facts.width}x{facts.height}")
    fitted = fit(levels, facts.placement.resized, facts.placement.crop)
    if (facts.latent is None) != (LATENT not in parts):
        raise DataError("it has a latent or lacks one, unlike what it says")
    if facts.latent is not None:
        expected = tuple(side // facts.latent.cell for side in fitted.shape[1:])
        for name, latent in decode_latents(sample[LATENT], facts.latent, key).items():
            if latent.shape[1:] != expected or not latent.isfinite().all():
                raise DataError(
                    f"{name} is {list(latent.shape)} or holds NaN; expected [c, {expected[0]}, {expected[1]}]"
                )
    return facts


def _count(facts: Facts, report: Report) -> None:
    report.samples += 1
    report.captioned += bool(facts.captions)
    report.megapixels += facts.width * facts.height / 1e6
    report.buckets[facts.placement.bucket] += 1
    if facts.latent is not None:
        report.latents[facts.latent.space] += 1

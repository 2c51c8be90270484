"""Shards: webdataset tars of samples, and an index of where each part of a sample lies.

A sample is ``KEY.json`` (what it is), ``KEY.jpg``, ``.png`` or ``.webp`` (its picture, 8-bit RGB, whole) and, where
latents were made ahead, ``KEY.latent.safetensors``. Nothing about it is guessed later: the JSON says the range of its
levels, its size, bucket, scaling and crop. Any reader of webdataset reads the tars; the index, made from their headers,
lets a loader go straight to any sample.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from latpix.data.buckets import Placement, Size
from latpix.data.pictures import RANGE, SUFFIXES
from latpix.errors import DataError, MissingExtraError
from latpix.files.atomic import writing

FORMAT, LEVELS = "latpix-sample-1", "uint8 RGB"
INDEX, PLAN, DROPPED = "index.jsonl", "plan.json", "dropped.jsonl"
PICTURES, LATENT, FACTS = tuple(SUFFIXES.values()), "latent.safetensors", "json"


@dataclass(frozen=True, kw_only=True)
class LatentFacts:
    """What the latents of a sample are."""

    space: str
    scale: int  # the picture is this many times larger than what was encoded
    downsample: int  # pixels of what was encoded, per side of a cell
    codec_sha256: str
    mirrored: bool  # a latent of the mirrored picture lies beside it

    @property
    def cell(self) -> int:
        """Pixels of the picture per side of a cell."""
        return self.scale * self.downsample


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The JSON of a sample."""

    source: str  # the name of the file it came from
    sha256: str  # of the stored picture's bytes
    width: int  # of the stored picture
    height: int
    placement: Placement
    captions: tuple[str, ...]  # the same picture in different words; maybe none
    latent: LatentFacts | None = None

    def to_row(self) -> dict[str, Any]:
        """As JSON can hold it, with the format and the range of the levels."""
        stored = {"format": FORMAT, "levels": LEVELS, "range": list(RANGE), "bucket": self.placement.bucket}
        return {**asdict(self), **stored}

    @classmethod
    def from_row(cls, row: Any, name: str) -> "Facts":
        """Of ``to_row``.

        Raises:
            DataError: it is something else, or its range is not the one that we store.
        """
        try:
            if (row["format"], row["levels"], row["range"]) != (FORMAT, LEVELS, list(RANGE)):
                raise ValueError(f"format {row['format']}, levels {row['levels']}, range {row['range']}")
            placed, latent = row["placement"], row["latent"]
            made = {
                "placement": Placement(
                    placed["ratio"], placed["level"], Size(*placed["resized"]), Size(*placed["crop"])
                ),
                "captions": tuple(row["captions"]),
                "latent": LatentFacts(**latent) if latent else None,
            }
            return cls(**{**{field.name: row[field.name] for field in fields(cls)}, **made})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{name} does not say what a sample is ({error}); pack it with `latpix data pack`."
            ) from error


def read_facts(text: bytes, name: str) -> Facts:
    """The JSON of a sample.

    Raises:
        DataError: it is none.
    """
    try:
        row = json.loads(text)
    except ValueError as error:
        raise DataError(f"the JSON of {name} is damaged: {error}.") from error
    return Facts.from_row(row, name)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where a file of a sample lies in its tar."""

    suffix: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One sample of the index."""

    shard: str
    key: str
    facts: Facts
    picture: Part
    latent: Part | None

    @property
    def name(self) -> str:
        """Where it is, for messages."""
        return f"{self.shard}/{self.key}"

    def read(self, folder: Path, part: Part) -> bytes:
        """The bytes of one of its files.

        Raises:
            DataError: the shard is missing, or shorter than the index says.
        """
        try:
            with (folder / self.shard).open("rb") as file:
                file.seek(part.offset)
                data = file.read(part.size)
        except OSError as error:
            raise DataError(f'"{folder / self.shard}" cannot be read: {error.strerror}.') from error
        if len(data) != part.size:
            raise DataError(f'"{folder / self.shard}" is cut off; run `latpix data check {folder}`.')
        return data

    def to_line(self) -> str:
        """As a line of the index."""
        parts = {"picture": vars(self.picture), "latent": vars(self.latent) if self.latent else None}
        row = {"shard": self.shard, "key": self.key, "facts": self.facts.to_row(), **parts}
        return json.dumps(row, ensure_ascii=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Entry":
        """Of a line of the index."""
        row: dict[str, Any] = json.loads(line)
        return cls(
            shard=row["shard"],
            key=row["key"],
            facts=Facts.from_row(row["facts"], row["key"]),
            picture=Part(**row["picture"]),
            latent=Part(**row["latent"]) if row["latent"] else None,
        )


def write_shard(path: Path, samples: Iterable[dict[str, Any]]) -> None:
    """A tar of samples (``__key__`` and bytes by suffix), whole or not at all; the same samples give the same bytes.

    Raises:
        MissingExtraError: webdataset is not installed.
        OutputError: it cannot be written.
    """
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise MissingExtraError.of("train", "webdataset") from error
    with writing(path) as part, part.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write(sample)


def shard_files(folder: Path) -> list[Path]:
    """The tars of a folder, in the order of names.

    Raises:
        DataError: there is none.
    """
    found = sorted(folder.glob("*.tar"))
    if not found:
        raise DataError(f'"{folder}" holds no shards (*.tar); make them with `latpix data pack FOLDER -o {folder}`.')
    return found


def read_index(folder: str | Path) -> list[Entry]:
    """All samples of a folder of shards, in the order in which they lie there.

    Raises:
        DataError: there are none, or not all that there should be.
    """
    folder = Path(folder)
    shards = shard_files(folder)
    index = folder / INDEX
    if not index.exists():
        _check_finished(folder, {shard.name for shard in shards})
        return [entry for shard in shards for entry in index_shard(shard)]
    entries = [Entry.from_line(line) for line in index.read_text(encoding="utf-8").splitlines()]
    if missing := sorted({entry.shard for entry in entries} - {shard.name for shard in shards}):
        raise DataError(f'{len(missing)} shards of "{index}" are missing, the first is {missing[0]}; pack again.')
    return entries


def _check_finished(folder: Path, shards: set[str]) -> None:
    if not (folder / PLAN).exists():
        return  # somebody took some of the shards along, and knows which
    planned = json.loads((folder / PLAN).read_text(encoding="utf-8"))["shards"]
    if missing := len(planned.keys() - shards):
        raise DataError(f'"{folder}" was not packed to its end, {missing} shards are missing; pack it again to go on.')


def write_index(folder: Path) -> list[Entry]:
    """Make the index from the shards that are there."""
    entries = [entry for shard in shard_files(folder) for entry in index_shard(shard)]
    with writing(folder / INDEX, overwrite=True) as part:
        part.write_text("".join(entry.to_line() for entry in entries), encoding="utf-8")
    return entries


def index_shard(path: Path) -> Iterator[Entry]:
    """The samples of one shard, from the headers of its tar and their JSON.

    Raises:
        DataError: it is no tar, cut off, or a sample lacks a part.
    """
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                members.setdefault(key, {})[suffix] = member
            for key, found in members.items():
                yield _entry(tar, path.name, key, found)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f'"{path}" is no whole tar: {error}; delete it and pack again.') from error


def _entry(tar: tarfile.TarFile, shard: str, key: str, found: dict[str, tarfile.TarInfo]) -> Entry:
    pictures = [suffix for suffix in PICTURES if suffix in found]
    if len(pictures) != 1 or FACTS not in found:
        raise DataError(f"{shard}/{key} holds {', '.join(found)}; expected {FACTS} and one of {', '.join(PICTURES)}.")
    text = tar.extractfile(found[FACTS])
    assert text is not None
    facts = read_facts(text.read(), f"{shard}/{key}")
    if (facts.latent is not None) != (LATENT in found):
        raise DataError(f"{shard}/{key} {'lacks' if facts.latent else 'holds'} a latent, unlike what its {FACTS} says.")
    latent = found.get(LATENT)
    return Entry(
        shard=shard,
        key=key,
        facts=facts,
        picture=_part(pictures[0], found[pictures[0]]),
        latent=_part(LATENT, latent) if latent else None,
    )


def _part(suffix: str, member: tarfile.TarInfo) -> Part:
    return Part(suffix=suffix, offset=member.offset_data, size=member.size)

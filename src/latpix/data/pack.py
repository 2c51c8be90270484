"""Pictures and captions into shards: scan, drop what teaches nothing, give each a bucket, write.

    sources --scan--> sound pictures --drop--> samples --place--> plan --write--> shards, one by one --> index

The plan depends on the pictures and the settings alone: which sample lies in which shard, in a shuffled order. A shard
appears whole or not at all, so a second run goes on after the last one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import lcm
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from latpix.data.ahead import Encoding
from latpix.data.buckets import MULTIPLE
from latpix.data.choose import Dropped, Packing, Sample, arrange, choose
from latpix.data.pictures import decode, encode, fit, kind_of
from latpix.data.scan import JOURNAL, OnStep, scan, upright_levels
from latpix.data.shards import DROPPED, FACTS, INDEX, LATENT, PLAN, Facts, LatentFacts, write_index, write_shard
from latpix.data.sources import Source
from latpix.errors import DataError, OptionError, OutputError
from latpix.files.atomic import writing

FORMAT = "latpix-shards-1"


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What was packed."""

    output: Path
    pictures: int  # that were given
    samples: int
    captioned: int  # samples with a caption
    shards: int
    resumed: int  # shards that were there already
    bytes: int
    buckets: dict[str, int]  # samples by shape, most first
    dropped: list[Dropped]

    @property
    def dropped_counts(self) -> dict[str, int]:
        """How many for which reason."""
        return dict(Counter(one.reason for one in self.dropped))


def pack(
    sources: Sequence[Source],
    out: str | Path,
    *,
    packing: Packing | None = None,
    encoding: Encoding | None = None,
    overwrite: bool = False,
    workers: int = 0,
    on_step: OnStep | None = None,
) -> Packed:
    """Pack pictures into the shards of a folder; go on where a run of the same pictures and settings was broken off.

    Args:
        sources: of ``sources.find_pictures``, or a manifest's.
        out: the folder, made when missing.
        packing: buckets and shards.
        encoding: latents to make ahead.
        overwrite: replace shards that were packed from other pictures or with other settings.
        workers: processes that scan pictures; 0 scans them here.
        on_step: called as ``on_step(done, total, what)``.

    Raises:
        OutputError: the folder holds other shards, cannot be written, or another process packs into it.
        DataError: nothing is left to pack, or a picture changed while it was packed.
        OptionError: the buckets do not fit the latents' cells.
        MissingExtraError: webdataset is not installed.
    """
    packing, out = packing or Packing(), Path(out)
    _multiple(packing, encoding.facts if encoding else None)  # before anything is written
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f'the folder "{out}" cannot be made: {error.strerror}.') from error
    with _alone(out):
        return _pack(sources, out, packing, encoding, overwrite=overwrite, workers=workers, on_step=on_step)


def _pack(
    sources: Sequence[Source],
    out: Path,
    packing: Packing,
    encoding: Encoding | None,
    *,
    overwrite: bool,
    workers: int,
    on_step: OnStep | None,
) -> Packed:
    latent = encoding.facts if encoding else None
    scanned = list(scan(sources, out / JOURNAL, workers=workers, on_step=on_step))
    samples, dropped = choose(sources, scanned, packing, _multiple(packing, latent))
    if not samples:
        counts = ", ".join(f"{count} {reason}" for reason, count in Counter(d.reason for d in dropped).items())
        raise DataError(f"none of {len(sources)} pictures can be packed ({counts}); no shard was written.")
    shards = arrange(samples, packing)
    resumed = _start(out, shards, dropped, asdict(packing), latent, overwrite=overwrite)
    done = 0
    for name, members in shards.items():
        if not (out / name).exists():
            write_shard(out / name, _sample_files(members, encoding, latent, done, len(samples), on_step))
        done += len(members)
    entries = write_index(out)
    return Packed(
        output=out,
        pictures=len(sources),
        samples=len(entries),
        captioned=sum(bool(entry.facts.captions) for entry in entries),
        shards=len(shards),
        resumed=resumed,
        bytes=sum((out / name).stat().st_size for name in shards),
        buckets=dict(Counter(entry.facts.placement.bucket for entry in entries).most_common()),
        dropped=dropped,
    )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No other process packs into the folder; what a killed one left half written is removed."""
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise OutputError(f'another process packs into "{out}" now; wait for it, or choose another folder.') from error
    try:
        for part in out.glob(".latpix-*.part"):
            part.unlink()
        yield
    finally:
        lock.release()


def _multiple(packing: Packing, latent: LatentFacts | None) -> int:
    """What the sides of whole pictures are multiples of."""
    if latent is None:
        return MULTIPLE
    if packing.size is not None and MULTIPLE % latent.cell:
        raise OptionError(
            f"buckets are multiples of {MULTIPLE} pixels, and a latent cell of space {latent.space} at scale "
            f"{latent.scale} covers {latent.cell}; pack whole pictures, or without latents."
        )
    return lcm(MULTIPLE, latent.cell)


def _start(
    out: Path,
    shards: dict[str, list[Sample]],
    dropped: list[Dropped],
    settings: dict[str, Any],
    latent: LatentFacts | None,
    *,
    overwrite: bool,
) -> int:
    """Write the plan, or find that it is the one that is there; how many of its shards are there too."""
    members = {name: [sample.identity for sample in samples] for name, samples in shards.items()}
    plan = {"format": FORMAT, "settings": settings, "latent": asdict(latent) if latent else None, "shards": members}
    text = json.dumps(plan, ensure_ascii=False)
    there = sorted(path.name for path in out.glob("*.tar"))
    if not ((out / PLAN).exists() and (out / PLAN).read_text(encoding="utf-8") == text):
        if there and not overwrite:
            raise OutputError(
                f'"{out}" holds {len(there)} shards of other pictures, captions or settings; '
                "choose another folder, or ask for overwriting."
            )
        for name in [*there, INDEX]:
            (out / name).unlink(missing_ok=True)
        with writing(out / PLAN, overwrite=True) as part:
            part.write_text(text, encoding="utf-8")
        there = []
    with writing(out / DROPPED, overwrite=True) as part:
        part.write_text("".join(json.dumps(vars(one), ensure_ascii=False) + "\n" for one in dropped), encoding="utf-8")
    return len(there)


def _sample_files(
    samples: Sequence[Sample],
    encoding: Encoding | None,
    latent: LatentFacts | None,
    done: int,
    total: int,
    on_step: OnStep | None,
) -> Iterator[dict[str, Any]]:
    """The files of each sample of a shard."""
    for number, sample in enumerate(samples, start=done + 1):
        data = sample.scanned.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sample.scanned.sha256:
            raise DataError(f'"{sample.scanned.path}" has changed since it was scanned; pack again.')
        if not sample.scanned.plain:
            data = encode(upright_levels(sample.scanned.path))
        facts = Facts(
            source=sample.scanned.name,
            sha256=hashlib.sha256(data).hexdigest(),
            width=sample.scanned.width,
            height=sample.scanned.height,
            placement=sample.placement,
            captions=sample.captions,
            latent=latent,
        )
        files: dict[str, Any] = {
            "__key__": sample.key,
            FACTS: json.dumps(facts.to_row(), ensure_ascii=False).encode(),
            kind_of(data) or "": data,
        }
        if encoding is not None:
            placement = sample.placement
            files[LATENT] = encoding.encode(fit(decode(data, sample.key), placement.resized, placement.crop))
        yield files
        if on_step is not None:
            on_step(number, total, "pack")

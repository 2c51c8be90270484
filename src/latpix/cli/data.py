"""``latpix data``: pictures and captions into shards to train on, and whether such shards are sound."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latpix.cli import options
from latpix.cli.screen import FAILED, SOME_FAILED, Screen, progress_bar
from latpix.errors import UsageError

if TYPE_CHECKING:
    from latpix.batching.inputs import Failure
    from latpix.data.ahead import Encoding
    from latpix.data.check import Report
    from latpix.data.pack import Packed
    from latpix.data.sources import Source

SHOWN = 8  # dropped pictures and problems that people get to see; --json and dropped.jsonl have all


def sizes(text: str) -> tuple[int, int | None]:
    """``N``, or ``N-M``."""
    try:
        smallest, _, largest = text.partition("-")
        return int(smallest), int(largest) if largest else None
    except ValueError:
        raise click.BadParameter(f'"{text}" is not a size; write it like 2048, or 2048-4096.') from None


@click.group()
def data() -> None:
    """Pack pictures and captions into shards to train on, and check such shards."""


@data.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="SHARDS",
    help="A folder (made when missing).",
)
@options.manifest
@click.option(
    "--buckets",
    type=sizes,
    metavar="N|N-M",
    help="Side of the shapes to train in, or smallest and largest; without it pictures stay whole.",
)
@click.option(
    "--least", type=click.IntRange(min=1), default=256, show_default=True, help="Side of the smallest picture."
)
@click.option("--shard-size", default="500MB", show_default=True, metavar="SIZE", help="Of the pictures in a shard.")
@click.option("--shuffle-seed", type=int, default=0, show_default=True, metavar="N", help="Of the order in the shards.")
@click.option("--encode", "space", metavar="SPACE", help="Make latents of this space ahead, e.g. flux2.")
@click.option("--scale", type=click.IntRange(min=1), default=4, show_default=True, help="Picture / encoded picture.")
@click.option("--mirrored", is_flag=True, help="Make latents of the mirrored pictures too.")
@options.codec
@options.memory_limit
@options.device
@options.dtype
@click.option("--workers", type=click.IntRange(min=0), default=0, metavar="N", help="Processes that scan pictures.")
@click.option("--overwrite", is_flag=True, help="Replace shards of other pictures or settings.")
@options.speech
@click.pass_obj
def pack(
    screen: Screen,
    /,
    folders: tuple[Path, ...],
    out: Path,
    manifest: Path | None,
    buckets: tuple[int, int | None] | None,
    least: int,
    shard_size: str,
    shuffle_seed: int,
    overwrite: bool,
    workers: int,
    **latents: Any,
) -> int:
    """Pack the pictures below FOLDERs, with the captions of .txt or .json files beside them, into webdataset shards.

    Damaged and tiny pictures and all but one of those that look the same are left out, counted and listed. Run again,
    it goes on where it was broken off.

    \b
    latpix data pack photos/ -o shards --buckets 2048
    latpix data pack --manifest pictures.jsonl -o shards --buckets 2048-4096
    latpix data pack photos/ -o shards --encode flux2 --mirrored
    """
    from latpix.data.choose import Packing
    from latpix.data.pack import pack as pack_shards
    from latpix.devices import parse_bytes

    size, largest = buckets or (None, None)
    packing = Packing(size=size, largest=largest, least=least, shard_bytes=parse_bytes(shard_size), seed=shuffle_seed)
    sources, failures = _sources(folders, manifest)
    encoding = _encoding(screen, **latents)
    start = time.perf_counter()
    with progress_bar(len(sources), shown=screen.verbosity >= 0) as bar:
        packed = pack_shards(
            sources,
            out,
            packing=packing,
            encoding=encoding,
            overwrite=overwrite,
            workers=workers,
            on_step=bar.step,
        )
    _show_packed(screen, packed, failures, time.perf_counter() - start)
    return SOME_FAILED if failures else 0


@data.command()
@click.argument("shards", type=click.Path(path_type=Path), metavar="SHARDS")
@options.speech
@click.pass_obj
def check(screen: Screen, /, shards: Path) -> int:
    """Read every sample of a folder of SHARDS and say what is there and what is wrong."""
    from latpix.data.check import check as check_shards

    start = time.perf_counter()
    with progress_bar(1, shown=screen.verbosity >= 0) as bar:
        report = check_shards(shards, on_step=bar.step)
    _show_report(screen, shards, report, time.perf_counter() - start)
    return FAILED if report.problems else 0


def _sources(folders: tuple[Path, ...], manifest: Path | None) -> "tuple[list[Source], list[Failure]]":
    """What to pack, and the lines of a manifest that cannot be used."""
    from latpix.batching.inputs import Failure, read_manifest
    from latpix.data.sources import Source, find_pictures

    if not folders and manifest is None:
        raise UsageError("nothing to pack; name FOLDERs of pictures, or --manifest FILE.jsonl.")
    sources = find_pictures(folders) if folders else []
    lines = read_manifest(manifest, "picture") if manifest else []
    failures = [line for line in lines if isinstance(line, Failure)]
    for line in lines:
        if not isinstance(line, Failure):
            sources.append(Source(name=line.name, path=line.path, caption=line.caption))
    if not sources:
        raise UsageError(f'no line of "{manifest}" can be used: {failures[0].error}')
    return sources, failures


def _encoding(screen: Screen, space: str | None, scale: int, mirrored: bool, **codec: Any) -> "Encoding | None":
    """What makes latents ahead, if they are asked for."""
    if space is None:
        if mirrored or codec["vae"] or codec["model"]:
            raise UsageError("--mirrored, --vae and --model say how to make latents; add --encode SPACE.")
        return None
    from latpix.backbones.encode import load_codec
    from latpix.data.ahead import Encoding

    loaded = load_codec(space, **codec)
    screen.note(f"encoding to space {space} on {loaded.device}", level=1)
    return Encoding(codec=loaded, scale=scale, mirrored=mirrored)


def _show_packed(screen: Screen, packed: "Packed", failures: "list[Failure]", seconds: float) -> None:
    dropped = [vars(one) for one in packed.dropped]
    dropped += [{"source": one.input, "reason": "manifest", "message": str(one.error)} for one in failures]
    counts = packed.dropped_counts | ({"manifest": len(failures)} if failures else {})
    if screen.json:
        facts = {**vars(packed), "output": str(packed.output), "dropped": counts, "dropped_pictures": dropped}
        screen.document({**facts, "seconds": seconds})
        return
    for failure in failures:
        screen.error(f"{failure.input}: {failure.error}")
    click.echo(packed.output)
    there = f", {packed.resumed} of them there already" if packed.resumed else ""
    screen.note(
        f"{packed.samples} samples ({packed.captioned} with a caption) in {packed.shards} shards{there}, "
        f"{packed.bytes / 1e6:,.1f} MB, {seconds:.1f} s"
    )
    screen.note(f"shapes: {_listed(packed.buckets)}")
    if packed.dropped:
        screen.note(f"dropped: {_listed(packed.dropped_counts)}; see {packed.output / 'dropped.jsonl'}")
        for one in packed.dropped[:SHOWN]:
            screen.note(f"  {one.source}: {one.reason}, {one.message}", level=1)


def _show_report(screen: Screen, shards: Path, report: "Report", seconds: float) -> None:
    problems = [vars(problem) for problem in report.problems]
    if screen.json:
        facts = {**vars(report), "problems": problems, "ok": not problems}
        screen.document({"input": str(shards), **facts, "seconds": seconds})
        return
    click.echo(
        f"{report.samples} sound samples ({report.captioned} with a caption) in {report.shards} shards, "
        f"{report.megapixels:,.1f} megapixels, {report.bytes / 1e6:,.1f} MB"
    )
    click.echo(f"shapes: {_listed(report.buckets)}")
    if report.latents:
        click.echo(f"latents: {_listed(report.latents)}")
    for problem in report.problems[:SHOWN]:
        screen.error(f"{problem.shard}{'/' if problem.key else ''}{problem.key}: {problem.message}")
    if len(problems) > SHOWN:
        screen.error(f"and {len(problems) - SHOWN} more; --json lists all")


def _listed(counts: dict[str, int]) -> str:
    """Counts, the largest first."""
    rows = sorted(counts.items(), key=lambda row: -row[1])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return (", ".join(f"{count} {name}" for name, count in rows[:SHOWN]) or "none") + more

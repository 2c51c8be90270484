"""``latpix checkpoints``: the registry, and what weight files are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latpix.cli import options
from latpix.cli.screen import FAILED, Screen

if TYPE_CHECKING:
    from latpix.checkpoints.load import Report
    from latpix.checkpoints.registry import Checkpoint


SHOWN = 8  # entries of a list that people get to see; --json has all


@click.group()
def checkpoints() -> None:
    """List, fetch, convert and check the weights of decoders."""


@checkpoints.command("list")
@options.speech
@click.pass_obj
def list_rows(screen: Screen, /) -> None:
    """List the registry: every checkpoint, whose latents it decodes to which size, and which of them are here."""
    from latpix.backbones.registry import BACKBONES
    from latpix.checkpoints.load import stored
    from latpix.checkpoints.registry import CHECKPOINTS

    if screen.json:
        screen.document([_facts(row) for row in CHECKPOINTS.values()])
        return
    lines = [("name", "space", "scale", "parameters", "version", "paints, px", "backbones", "here")]
    for row in CHECKPOINTS.values():
        here = "yes" if stored(row).is_file() else "withdrawn" if row.withdrawn else "-"
        low, high = (side * row.scale for side in row.native_sizes)
        sides = str(low) if low == high else f"{low}-{high}"
        millions = f"{row.parameters / 1e6:,.0f} M"
        users = ", ".join(backbone.name for backbone in BACKBONES.values() if backbone.space == row.space) or "-"
        lines.append((row.name, row.space or "text", str(row.scale), millions, row.version, sides, users, here))
    _table(lines)


@checkpoints.command()
@click.argument("checkpoint", metavar="NAME|FILE")
@options.speech
@click.pass_obj
def show(screen: Screen, /, checkpoint: str) -> None:
    """Show one row of the registry with its tensors, or what a weight FILE is."""
    from latpix.checkpoints.convert import upstream_name
    from latpix.checkpoints.registry import find

    path = Path(checkpoint)
    if path.is_file():
        from latpix.checkpoints.load import inspect
        from latpix.checkpoints.tensors import read_weights

        facts, shapes = _report(inspect(path)), read_weights(path).shapes
    else:
        row = find(checkpoint)
        facts, shapes = _facts(row), row.shapes
    tensors = {upstream_name(name): list(shape) for name, shape in shapes.items()}
    if screen.json:
        screen.document({**facts, "tensors": tensors})
        return
    _table([(name.replace("_", " "), _said(value)) for name, value in facts.items()])
    click.echo(f"\n{len(tensors)} tensors, by upstream's names")
    for name, shape in tensors.items():
        click.echo(f"  {name}  {'x'.join(map(str, shape)) or 'one number'}")


@checkpoints.command()
@click.argument("name")
@click.option("--overwrite", is_flag=True, help="Fetch even if it is here already.")
@options.speech
@click.pass_obj
def fetch(screen: Screen, /, name: str, overwrite: bool) -> None:
    """Download a released checkpoint from its hub repository, convert it to our format, and verify it."""
    from latpix.checkpoints import fetch as hub
    from latpix.checkpoints.registry import find

    row = find(name)
    screen.note(f"{row.name}: {row.license}")
    path = hub.fetch(name, overwrite=overwrite)
    if screen.json:
        screen.document({"name": row.name, "path": str(path), "license": row.license})
    else:
        click.echo(path)


@checkpoints.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Ends in .safetensors (our format) or .pth (upstream's).",
)
@options.like
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@options.speech
@click.pass_obj
def convert(screen: Screen, /, file: Path, out: Path, like: str | None, overwrite: bool) -> None:
    """Write an upstream FILE in our format, or one of ours in upstream's; not a bit of a tensor changes."""
    from latpix.checkpoints.load import convert as convert_file

    row = convert_file(file, out, like=like, overwrite=overwrite)
    if screen.json:
        screen.document({"input": str(file), "output": str(out), "name": row.name})
    else:
        click.echo(out)


@checkpoints.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.speech
@click.pass_obj
def check(screen: Screen, /, file: Path) -> int:
    """Check a weight FILE strictly: which rows fit it, or what it lacks and has too much."""
    from latpix.checkpoints.load import inspect

    report = inspect(file)
    if screen.json:
        screen.document(_report(report))
    else:
        _table([(name.replace("_", " "), _said(value)) for name, value in _report(report).items()])
    if not report.fits:
        screen.error(f"CheckpointError: {file} fits no row of the registry.")
        return FAILED
    return 0


def _facts(row: "Checkpoint") -> dict[str, Any]:
    from latpix.backbones.registry import BACKBONES
    from latpix.checkpoints.load import stored

    return {
        "name": row.name,
        "space": row.space,
        "scale": row.scale,
        "parameters": row.parameters,
        "version": row.version,
        "upstream_path": row.upstream_path,
        "license": row.license,
        "native_sizes": list(row.native_sizes),
        "backbones": [one.name for one in BACKBONES.values() if one.space == row.space],
        "encoders": [one.encoder.model for one in BACKBONES.values() if one.space == row.space][:1],
        "output_sizes": [side * row.scale for side in row.native_sizes],
        "withdrawn": row.withdrawn,
        "here": stored(row).is_file(),
    }


def _report(report: "Report") -> dict[str, Any]:
    size = Path(report.path).stat().st_size
    return {**vars(report), "file_bytes": size, "peak_over_file": round(report.peak_bytes / size, 2)}


def _said(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, list | tuple):
        more = f" and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
        return (", ".join(map(str, value[:SHOWN])) or "none") + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)


def _table(lines: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

"""``latpix doctor``: is everything there, and does this device compute what it should?"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latpix.cli import options
from latpix.cli.screen import FAILED, Screen

if TYPE_CHECKING:
    from latpix.doctor.rows import GoldenRow


@click.command()
@click.option(
    "--goldens",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Recompute the golden numbers of this folder on --device, a row per case.",
)
@options.device
@options.speech
@click.pass_obj
def doctor(screen: Screen, /, goldens: Path | None, device: str) -> int:
    """Show versions, devices, extras, shipped weights and which attention runs; recompute golden numbers."""
    from latpix.doctor.backbones import backbone_needs
    from latpix.doctor.environment import environment

    backbones = {name: [vars(need) for need in needs] for name, needs in backbone_needs().items()}
    found = {**environment(), "backbones": backbones}
    if not screen.json:
        _show(found)
    if goldens is None:
        if screen.json:
            screen.document(found)
        return 0
    rows = _recompute(screen, goldens, device)
    if screen.json:
        # A result that is not a number is infinitely wrong, and JSON knows no infinity.
        cases = [{**vars(row), "max_error": min(row.max_error, sys.float_info.max)} for row in rows]
        screen.document({**found, "goldens": cases})
    return 0 if rows and all(row.ok for row in rows) else FAILED


def _recompute(screen: Screen, folder: Path, device: str) -> "list[GoldenRow]":
    """All rows, each shown as it comes."""
    from latpix.doctor.goldens import recompute

    rows = []
    for row in recompute(folder, device):
        rows.append(row)
        if not screen.json:
            verdict = "ok   " if row.ok else "WRONG"
            click.echo(f"{verdict}  {row.max_error:9.3g} of {row.tolerance:g}  {row.case}")
    good = sum(row.ok for row in rows)
    screen.note(f"{good} of {len(rows)} cases are within their tolerance")
    return rows


def _show(found: dict[str, Any]) -> None:
    click.echo(f"latpix {found['latpix']}, torch {found['torch']}, python {found['python']}, {found['platform']}")
    for device, facts in found["device_facts"].items():
        memory = f", {facts['memory_bytes'] / 2**30:.0f} GiB" if facts["memory_bytes"] else ""
        threads = f", {facts['threads']} threads" if "threads" in facts else ""
        click.echo(f"device {device}: {facts['name']}{memory}{threads}; computes in {facts['dtype']}")
        for width, kinds in facts["attention"].items():
            said = ", ".join(kind if right else f"{kind} (WRONG NUMBERS, not used)" for kind, right in kinds.items())
            click.echo(f"  attention that runs, heads {width} wide: {said}")
    for kind in ("extras", "weights"):
        states = ", ".join(f"{name} {'yes' if there else 'NO'}" for name, there in found[kind].items())
        click.echo(f"{kind}: {states}")
    for name, needs in found["backbones"].items():
        missing = [need for need in needs if not need["here"]]
        states = ", ".join(f"{need['what']} {'yes' if need['here'] else 'NO'}" for need in needs)
        click.echo(f"backbone {name}: {states}")
        for need in missing:
            click.echo(f"    {need['mend']}")
    click.echo(f"fetched checkpoints are kept in {found['home']}")

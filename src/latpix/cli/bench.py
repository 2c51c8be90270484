"""``latpix bench``: how fast is this machine, and what has latpix gained over the plain implementation?"""

import json
from pathlib import Path
from typing import Any

import click

from latpix.cli import options
from latpix.cli.screen import Screen
from latpix.errors import BenchmarkError, UsageError


@click.command()
@click.option(
    "--preset", type=click.Choice(["cpu", "gpu"]), help="The cases of a kind of device. [default: that of --device]"
)
@click.option("--case", "names", multiple=True, metavar="NAME", help="Only this case of the preset; may be repeated.")
@options.checkpoint
@click.option("--size", type=options.size, metavar="WxH", help="Of the output. [default, with --checkpoint: 1024x1024]")
@options.device
@click.option("--profile", is_flag=True, help="Show each stage's share of the time.")
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="An earlier run: fail where this one is 5 % slower or takes 3 % more memory. Same class of device only.",
)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for bench.json and roofline.svg (made when missing).",
)
@options.speech
@click.pass_obj
def bench(
    screen: Screen,
    /,
    preset: str | None,
    names: tuple[str, ...],
    checkpoint: str | None,
    like: str | None,
    size: tuple[int, int] | None,
    device: str,
    profile: bool,
    against: Path | None,
    out: Path | None,
) -> int:
    """Time decodes, from latent to pixels, against the plain implementation in the same run.

    On a CPU one thread is timed by the process's own time, so other work on the machine hardly matters; the whole
    preset takes about eleven minutes. Networks have random weights, but for flux2-tiny: nothing is downloaded.

    \b
    latpix bench -o bench
    latpix bench --case mid-1024 --profile
    latpix bench --checkpoint flux1-2k --size 2048x2048 --device cuda
    latpix bench --against docs/benchmarks/speed-cpu.json
    """
    from latpix.benchmark.cases import chosen
    from latpix.benchmark.report import profile as profile_table
    from latpix.benchmark.report import table
    from latpix.benchmark.run import bench as run
    from latpix.benchmark.run import preset_of
    from latpix.benchmark.write import write

    one = checkpoint is not None or size is not None
    if one and names:
        raise UsageError(f"--case {names[0]} is of a preset; leave out --checkpoint and --size.")
    picked, fitting = preset_of(device, preset)
    document = run(
        picked,
        fitting,
        names=names,
        only=chosen(checkpoint, size or (1024, 1024), like=like) if one else None,
        profile=profile,
        on_case=lambda name: screen.note(f"{name} ..."),
    )
    if out is not None:
        screen.note(f"{write(document, out)}")
    if screen.json:
        screen.document(document)
    else:
        click.echo(table(document))
        if profile:
            click.echo("\n" + profile_table(document))
    if against is not None:
        _compare(screen, document, against)
    return 0


def _compare(screen: Screen, document: dict[str, Any], against: Path) -> None:
    """Fail where something became slower or larger."""
    from latpix.benchmark.report import regressions

    try:
        earlier = json.loads(against.read_text(encoding="utf-8"))
        found = regressions(document, earlier)
    except (ValueError, KeyError, TypeError):
        raise UsageError(f'"{against}" is no document of `latpix bench --json`, or of its -o.') from None
    if found is None:
        screen.note(f"not compared: {against} is of {earlier['device']}, this is {document['device']}")
    elif found:
        raise BenchmarkError(f"slower or larger than {against}:\n" + "\n".join(f"  {line}" for line in found))

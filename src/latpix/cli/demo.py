"""``latpix demo``: what the shipped weights do, without any download."""

from dataclasses import asdict
from pathlib import Path

import click

from latpix.cli import options
from latpix.cli.screen import Screen


@click.command()
@click.option(
    "-o",
    "--output",
    "folder",
    default="demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the pictures go; made when missing.",
)
@click.option("--again", is_flag=True, help="Make everything anew, even if it is there.")
@options.device
@options.dtype
@options.speech
@click.pass_obj
def demo(screen: Screen, /, folder: Path, again: bool, device: str, dtype: str) -> int:
    """Decode a shipped FLUX.2 latent, and the photograph it came from, to 2048x2048.

    Writes the pictures, the plain way of enlarging for comparison, a side-by-side, and a table of fidelity.
    """
    from latpix import Codec, Decoder
    from latpix.cli.screen import progress_bar
    from latpix.evaluation.demo import SHEET, TABLE, make_demo, table

    decoder = Decoder.load("flux2-tiny", device=device, dtype=dtype)
    codec = Codec.load("flux2-lite", device=decoder.device, dtype=decoder.dtype)
    screen.note("decoding twice to 2048x2048 ...")
    with progress_bar(2, shown=screen.verbosity >= 0) as bar:
        made = make_demo(folder, decoder=decoder, codec=codec, on_step=bar.step, again=again)
    if screen.json:
        screen.document({"folder": str(made.folder), "fidelity": [asdict(row) for row in made.rows]})
        return 0
    if not made.fresh:
        screen.note("it was there already, made with these weights on this device; --again makes it anew")
    click.echo(table(made.rows))
    for name in [*(row.file for row in made.rows), SHEET, TABLE]:
        click.echo(made.folder / name)
    return 0

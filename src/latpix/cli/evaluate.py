"""``latpix evaluate``: how good are a checkpoint's pictures, or anybody's?"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latpix.cli import options
from latpix.cli.screen import FAILED, SOME_FAILED, Screen, progress_bar
from latpix.errors import UsageError

if TYPE_CHECKING:
    from latpix.batching.inputs import Failure
    from latpix.evaluation.methods import Method
    from latpix.evaluation.run import Row, Subject

SHIPPED = "flux2-tiny"
PAINTING = ("like", "vae", "model", "caption", "caption_file", "no_caption", "caption_model", "seed", "steps")


@click.command()
@click.argument("pictures", nargs=-1, metavar="PICTURE...")
@click.option(
    "--pairs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help='One pair a line: {"image": result, "reference": original}.',
)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    metavar="REPORT_DIR",
    help="Folder of the report (made when missing); run again, it goes on.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME|FILE",
    help="See `latpix checkpoints list`; may be repeated. [default: flux2-tiny]",
)
@options.like
@options.codec
@options.caption
@options.embedded_caption
@options.seed
@click.option("--steps", type=int, metavar="N", help="Of every checkpoint. [default: its own]")
@click.option("--tile", type=options.tile, default="auto", metavar="auto|off|N", help="Side of tiles in latent cells.")
@options.memory_limit
@options.device
@options.dtype
@options.speech
@click.pass_obj
def evaluate(
    screen: Screen,
    /,
    pictures: tuple[str, ...],
    pairs: Path | None,
    out: Path | None,
    checkpoints: tuple[str, ...],
    **how: Any,
) -> int:
    """Measure checkpoints on PICTUREs (files, folders or globs), or results beside their originals.

    Each photograph is shrunk by the checkpoint's scale, encoded, decoded, and compared with itself, beside the plain
    way: the native decode, enlarged by Lanczos. Of large pictures the middle 1024x1024 is measured. With -o the folder
    gets report.json and report.html.

    \b
    latpix evaluate photos/ -o report
    latpix evaluate photos/ --checkpoint flux2-tiny --checkpoint run/weights.safetensors -o report
    latpix evaluate --pairs results.jsonl --json
    """
    from latpix.evaluation.report import document, table, write_report
    from latpix.evaluation.run import evaluate as run

    subjects, failures = _subjects(pictures, pairs)
    inputs = len(subjects) + len(failures)
    if not subjects:
        return _failed(screen, failures, inputs)
    methods = _methods(screen, pairs, checkpoints, how)
    start = time.perf_counter()
    with progress_bar(len(methods) * len(subjects), shown=screen.verbosity >= 0) as bar:

        def step(row: "Row", there: bool) -> None:
            if screen.verbosity > 0:
                with bar.aside():
                    screen.note(f"{row['method']}: {row['picture']}{', measured before' if there else ''}")
            bar.advance()

        found = run(subjects, methods, folder=out, on_row=step)
    for library, keys in found.left_out.items():
        screen.note(f'left out, evaluation needs {library} (pip install "latpix[eval]"): {", ".join(keys)}')
    unread, failures = failures, [*failures, *found.failures]
    if len(failures) == inputs:
        return _failed(screen, failures, inputs)
    facts = document(found, unread)
    report = write_report(found, out, unread) if out else None
    if screen.json:
        screen.document({**facts, "report": str(report) if report else None})
    else:
        click.echo(report if report else table(found))
        if report:
            screen.note(table(found))
    if facts["cropped"]:
        screen.note(f"of {facts['cropped']} larger ones the middle {facts['crop']} pixels a side were measured")
    screen.note(f"measured: {facts['pictures']} of {inputs} in {time.perf_counter() - start:.1f} s")
    return _failed(screen, failures, inputs, said=screen.json) if failures else 0


def _subjects(pictures: tuple[str, ...], pairs: Path | None) -> "tuple[list[Subject], list[Failure]]":
    """What to measure, and the lines of --pairs that cannot be used."""
    from latpix.batching.inputs import find_inputs
    from latpix.evaluation.run import Subject, read_pairs

    if pairs is not None:
        if pictures:
            raise UsageError(f"{pictures[0]} and --pairs were both given; give one of them.")
        return read_pairs(pairs)
    items = {item.name: item for item in find_inputs(pictures, "picture")}
    return [Subject(name=name, paths=(item.path,)) for name, item in items.items()], []


def _methods(screen: Screen, pairs: Path | None, checkpoints: tuple[str, ...], how: dict[str, Any]) -> "list[Method]":
    """What makes the results."""
    from latpix.evaluation.methods import Painting, methods_of
    from latpix.evaluation.run import pairs_method

    if pairs is not None:
        given = [f"--{key.replace('_', '-')}" for key in PAINTING if how[key]] + ["--checkpoint"] * bool(checkpoints)
        if given:
            raise UsageError(f"--pairs are results already; {', '.join(given)} is for photographs.")
        return [pairs_method()]
    loading = {key: how.pop(key) for key in ("like", "vae", "model", "device", "dtype")}
    painting = Painting(**{**how, "seed": how["seed"] or 0})
    methods = methods_of(checkpoints or (SHIPPED,), painting, **loading)
    screen.note(f"compared: {', '.join(method.label for method in methods)}", level=1)
    return methods


def _failed(screen: Screen, failures: "list[Failure]", inputs: int, *, said: bool = False) -> int:
    """List what failed, and give the exit code; in JSON too, where no document has ``said`` it."""
    for one in failures:
        kind = type(one.error).__name__
        if screen.json and not said:
            screen.document({"input": one.input, "error": kind, "message": str(one.error)})
        screen.error(("" if inputs == 1 else f"{one.input}: ") + f"{kind}: {one.error}", one.error)
    return FAILED if inputs == 1 else SOME_FAILED

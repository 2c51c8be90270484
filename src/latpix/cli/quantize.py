"""``latpix quantize``: a checkpoint in, a smaller one out."""

from pathlib import Path

import click

from latpix.cli import options
from latpix.cli.screen import Screen


@click.command()
@click.argument("checkpoint", metavar="NAME|FILE")
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ends in .safetensors.",
)
@click.option(
    "--to",
    "kind",
    type=click.Choice(["int8", "fp8"]),
    default="int8",
    show_default=True,
    help="int8 runs everywhere; fp8 on NVIDIA H100 and newer.",
)
@options.like
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@options.speech
@click.pass_obj
def quantize(screen: Screen, /, checkpoint: str, out: Path, kind: str, like: str | None, overwrite: bool) -> None:
    """Write a checkpoint with the large weights in eight bits, and say what each layer lost.

    The result is used like any checkpoint file. A layer that would lose too much ends it, and nothing is written.

    \b
    latpix quantize flux1-2k -o flux1-2k-int8.safetensors
    latpix decode cat.safetensors -o cat.png --checkpoint flux1-2k-int8.safetensors
    """
    from latpix.checkpoints.quantize import FLOOR
    from latpix.checkpoints.quantize import quantize as quantize_file

    layers = quantize_file(checkpoint, out, kind=kind, like=like, overwrite=overwrite)
    size, floor = out.stat().st_size, f"{FLOOR:.0f}"
    if screen.json:
        table = [{"layer": layer.name, "shape": layer.shape, "snr_db": round(layer.snr, 2)} for layer in layers]
        screen.document({"input": checkpoint, "output": str(out), "kind": kind, "file_bytes": size, "layers": table})
        return
    widest = max(len(layer.name) for layer in layers)
    for layer in layers:
        shape = "x".join(map(str, layer.shape))
        screen.note(f"{layer.name.ljust(widest)}  {shape:>11}  {layer.snr:6.1f} dB")
    lowest = min(layer.snr for layer in layers)
    screen.note(f"{len(layers)} layers in {kind}, the lowest {lowest:.1f} dB (floor {floor}); {size / 1e6:.1f} MB")
    click.echo(out)

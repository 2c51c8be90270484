"""``latpix plan``: what a decode will take, and what is done to fit it into memory."""

import click

from latpix.cli import options
from latpix.cli.jobs import SHIPPED
from latpix.cli.screen import Screen
from latpix.errors import UsageError


@click.command()
@click.option("--size", type=options.size, metavar="WxH", help="Of the output, in pixels.")
@click.option("--latent-size", type=options.size, metavar="WxH", help="Of the latent instead, in cells.")
@options.checkpoint
@options.scale
@click.option("--steps", type=int, metavar="N", help="As of decode.")
@options.tile_option
@options.batch_option
@options.memory_limit
@options.picture_format
@options.device
@options.dtype
@options.speech
@click.pass_obj
def plan(
    screen: Screen,
    /,
    size: tuple[int, int] | None,
    latent_size: tuple[int, int] | None,
    checkpoint: str | None,
    like: str | None,
    scale: float | None,
    steps: int | None,
    tile: str | int,
    batch: int,
    memory_limit: str | None,
    picture_format: str | None,
    device: str,
    dtype: str,
) -> None:
    """Say how much time and memory a decode will take, and what it does to keep to a memory limit. Runs nothing.

    \b
    latpix plan --size 2048x2048
    latpix plan --size 4096x4096 --checkpoint flux2-2kto4k --memory-limit 6GiB
    latpix plan --size 16384x16384 --format tiff --memory-limit 2GiB
    latpix plan --latent-size 64x48 --batch 8 --json
    """
    from latpix.batching.outlook import Outlook
    from latpix.decoder import Decoder

    if (size is None) == (latent_size is None):
        raise UsageError("give either --size (pixels of the output) or --latent-size (cells).")
    decoder = Decoder.without_weights(checkpoint or SHIPPED, like=like, device=device, dtype=dtype)
    trained = decoder.checkpoint.scale
    if size is not None:
        cell = decoder.space.downsample * (scale or trained)
        latent_size = (-int(-size[0] // cell), -int(-size[1] // cell))
    assert latent_size is not None
    height, width = (side * decoder.space.downsample * trained for side in latent_size)
    outlook = Outlook(decoder, steps, scale, None, tile, memory_limit, colour_lock=False)
    in_files = picture_format == "tiff" and scale in (None, trained) and outlook.into_file(latent_size, (height, width))
    found = outlook.plan(latent_size, batch=batch, in_files=in_files)
    if screen.json:
        screen.document(
            {
                "height": found.height,
                "width": found.width,
                "peak_bytes": found.peak_bytes,
                "seconds": found.seconds,
                "levers": list(found.levers),
                "tiles": found.tiles,
                "tile": found.tile,
                "batch": found.setting.batch,
                "in_files": in_files,
            }
        )
        return
    kind = str(decoder.dtype).removeprefix("torch.")
    pictures = "" if batch == 1 else f"{batch} pictures of "
    into = ", straight into the file" if in_files else ""
    network = f"by {decoder.checkpoint.name} on {decoder.device} in {kind}"
    click.echo(f"{pictures}{found.width}x{found.height} {network}{into}")
    where = "the whole process" if decoder.device.type == "cpu" else "on the device"
    click.echo(f"  memory  {found.peak_bytes / 2**20:.0f} MiB at most, {where}")
    click.echo(f"  time    about {found.seconds:.0f} s")
    for lever in found.levers:
        click.echo(f"  lever   {lever}")

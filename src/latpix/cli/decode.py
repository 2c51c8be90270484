"""``latpix decode``: latent files in, pictures out."""

from pathlib import Path
from typing import Any

import click

from latpix.cli import options
from latpix.cli.jobs import default_checkpoint, found_inputs, load_decoder, note_caption, painting_of
from latpix.cli.screen import Screen


@click.command()
@click.argument("latents", nargs=-1, metavar="LATENT...")
@options.output
@options.manifest
@options.space
@options.checkpoint
@options.latent_sigma
@options.painting
@options.device
@options.dtype
@options.existing
@options.picture_format
@options.dry_run
@options.speech
@click.pass_obj
def decode(
    screen: Screen,
    /,
    latents: tuple[str, ...],
    out: Path,
    manifest: Path | None,
    space: str | None,
    checkpoint: str | None,
    like: str | None,
    latent_sigmas: tuple[float, ...] | None,
    device: str,
    dtype: str,
    replace: bool | None,
    picture_format: str | None,
    dry_run: bool,
    batch: int,
    **painting: Any,
) -> int:
    """Decode LATENTs (.safetensors, .npy, .npz, .pt; folders or globs of them) into pictures.

    --latent-sigma replaces what the file says of its noise.

    \b
    latpix decode cat.safetensors -o cat.png --seed 7
    latpix decode latents/ -o pictures --skip-existing
    """
    from latpix.batching import run
    from latpix.batching.outputs import plan_work
    from latpix.distributed import ranks_of_torchrun

    ranks = ranks_of_torchrun()
    work = plan_work(
        found_inputs(latents, manifest, "latent"),
        out,
        reads="latent",
        suffix=picture_format and options.FORMATS[picture_format],
        space=space,
        latent_sigmas=latent_sigmas,
        existing=options.existing_of(replace),
        ranks=ranks,
    )
    if not work.outputs:  # nothing to make: no need to load anything
        return screen.follow(work, lambda _on_step: iter(work.failures))
    decoder = load_decoder(screen, checkpoint or default_checkpoint(work), ranks.device(device), dtype, like)
    note_caption(screen, decoder, painting["caption"])
    return screen.follow(
        work,
        lambda on_step: run.decode(
            work,
            decoder=decoder,
            painting=painting_of(painting),
            batch=batch,
            overwrite=bool(replace),
            dry_run=dry_run,
            on_step=on_step,
        ),
        dry_run=dry_run,
    )

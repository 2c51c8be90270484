"""``latpix decode``: latent files in, pictures out."""

from pathlib import Path
from typing import Any

import click

from latpix.cli import options
from latpix.cli.jobs import (
    default_checkpoint,
    embed_captions,
    found_inputs,
    load_decoder,
    painting_of,
    team_of,
)
from latpix.cli.screen import Screen


@click.command()
@click.argument("latents", nargs=-1, metavar="LATENT...")
@options.output
@options.manifest
@options.space
@options.checkpoint
@options.latent_sigma
@options.decoding
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
    compiled: bool,
    replace: bool | None,
    picture_format: str | None,
    dry_run: bool,
    batch: int,
    **painting: Any,
) -> int:
    """Decode LATENTs (.safetensors, .npy, .npz, .pt; folders or globs of them) into pictures.

    --latent-sigma replaces what the file says of its noise, and --caption what it says of its subject.

    \b
    latpix decode cat.safetensors -o cat.png --seed 7
    latpix decode latents/ -o pictures --skip-existing
    latpix decode cat.safetensors -o cat.png --checkpoint flux1-2k --caption-file captions.safetensors
    """
    from latpix.batching import run
    from latpix.batching.outputs import Job, plan_work
    from latpix.distributed import ranks_of_torchrun

    ranks, asked = ranks_of_torchrun(), painting_of(painting)
    found = found_inputs(latents, manifest, "latent")
    work = plan_work(
        found,
        out,
        reads="latent",
        suffix=picture_format and options.FORMATS[picture_format],
        space=space,
        latent_sigmas=latent_sigmas,
        existing=options.existing_of(replace),
        ranks=ranks,
        may_team=True,
    )
    if work.together and ranks.rank > 0:
        screen.mute()  # the first process speaks for all
    if not work.outputs:  # nothing to make: no need to load anything
        return screen.follow(work, lambda _on_step: iter(work.failures))
    spaces = {job.measure.space for job in work.jobs if isinstance(job, Job) and job.measure.space}
    name, where = checkpoint or default_checkpoint(spaces), ranks.device(device)
    if not dry_run:
        asked = embed_captions(screen, asked, work, name, like, where)
    with team_of(work.together and not dry_run, where) as team:
        decoder = load_decoder(screen, name, where, dtype, like, compiled=compiled and not dry_run)
        decoder.team = team
        return screen.follow(
            work,
            lambda on_step: run.decode(
                work,
                decoder=decoder,
                painting=asked,
                batch=batch,
                overwrite=bool(replace),
                dry_run=dry_run,
                on_step=on_step,
            ),
            dry_run=dry_run,
        )

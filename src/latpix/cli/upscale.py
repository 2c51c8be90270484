"""``latpix upscale``: pictures in, larger pictures out."""

from pathlib import Path
from typing import Any

import click

from latpix.cli import options
from latpix.cli.jobs import (
    embed_captions,
    encoder_of_checkpoint,
    found_inputs,
    load_decoder,
    painting_of,
    team_of,
)
from latpix.cli.screen import Screen


@click.command()
@click.argument("pictures", nargs=-1, metavar="PICTURE...")
@options.output
@options.manifest
@options.checkpoint
@options.codec
@options.latent_sigma
@options.decoding
@click.pass_obj
def upscale(
    screen: Screen,
    /,
    pictures: tuple[str, ...],
    out: Path,
    manifest: Path | None,
    checkpoint: str | None,
    like: str | None,
    vae: str | None,
    model: str | None,
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
    """Enlarge PICTUREs (files, folders or globs): encode each to a latent, then decode that four times larger.

    What encodes follows from the checkpoint's latent space: flux2-lite for flux2, the backbone's own VAE or vision
    encoder for others (--vae, --model). With --latent-sigma the latent is noised first, which gives the decoder more
    freedom.

    \b
    latpix upscale photo.jpg -o photo-4x.png
    latpix upscale holiday/ -o enlarged --skip-existing
    latpix upscale photo.jpg -o enlarged --latent-sigma 0,0.2,0.4
    latpix upscale photo.jpg -o enlarged --checkpoint flux1-2k --vae ae.safetensors
    """
    from latpix.batching import run
    from latpix.batching.outputs import plan_work
    from latpix.distributed import ranks_of_torchrun

    ranks, asked = ranks_of_torchrun(), painting_of(painting)
    found = found_inputs(pictures, manifest, "picture")
    work = plan_work(
        found,
        out,
        reads="picture",
        suffix=picture_format and options.FORMATS[picture_format],
        latent_sigmas=latent_sigmas,
        existing=options.existing_of(replace),
        ranks=ranks,
        may_team=True,
    )
    if work.together and ranks.rank > 0:
        screen.mute()  # the first process speaks for all
    if not work.outputs:  # nothing to make: no need to load anything
        return screen.follow(work, lambda _on_step: iter(work.failures))
    name, where = checkpoint or "flux2-tiny", ranks.device(device)
    encoder = None
    if not dry_run:
        asked = embed_captions(screen, asked, work, name, like, where)
        encoder = encoder_of_checkpoint(
            screen,
            name,
            like,
            work,
            vae=vae,
            model=model,
            device=where,
            dtype=dtype,
            memory_limit=painting["memory_limit"],
        )
    with team_of(work.together and not dry_run, where) as team:
        decoder = load_decoder(screen, name, where, dtype, like, compiled=compiled and not dry_run)
        decoder.team = team
        return screen.follow(
            work,
            lambda on_step: run.upscale(
                work,
                decoder=decoder,
                codec=encoder,
                painting=asked,
                batch=batch,
                overwrite=bool(replace),
                dry_run=dry_run,
                on_step=on_step,
            ),
            dry_run=dry_run,
        )

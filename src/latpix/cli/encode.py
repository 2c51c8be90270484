"""``latpix encode``: pictures in, latent files out."""

from pathlib import Path

import click

from latpix.cli import options
from latpix.cli.jobs import encoder_for, found_inputs
from latpix.cli.screen import Screen


@click.command()
@click.argument("pictures", nargs=-1, metavar="PICTURE...")
@options.output
@options.manifest
@click.option("--space", default="flux2", show_default=True, metavar="NAME", help="The latent space to encode to.")
@options.codec
@options.memory_limit
@options.caption
@options.seed
@options.device
@options.dtype
@options.existing
@options.dry_run
@options.speech
@click.pass_obj
def encode(
    screen: Screen,
    /,
    pictures: tuple[str, ...],
    out: Path,
    manifest: Path | None,
    space: str,
    vae: str | None,
    model: str | None,
    memory_limit: str | None,
    caption: str | None,
    seed: int | None,
    device: str,
    dtype: str,
    replace: bool | None,
    dry_run: bool,
) -> int:
    """Encode PICTUREs (files, folders or globs) into latent files.

    --caption and --seed are written into the files, to be decoded with.

    \b
    latpix encode photo.jpg -o photo.safetensors --space flux2
    latpix encode holiday/ -o latents
    latpix encode photo.jpg -o latents --space flux1 --vae ae.safetensors
    """
    from latpix.batching import run
    from latpix.batching.outputs import plan_work
    from latpix.distributed import ranks_of_torchrun
    from latpix.latents.spaces import find_space

    find_space(space)
    ranks = ranks_of_torchrun()
    work = plan_work(
        found_inputs(pictures, manifest, "picture"),
        out,
        reads="picture",
        writes="latent",
        existing=options.existing_of(replace),
        ranks=ranks,
    )
    if not work.outputs:  # nothing to make: no need to load anything
        return screen.follow(work, lambda _on_step: iter(work.failures))
    encoder = None
    if not dry_run:
        where = ranks.device(device)
        encoder = encoder_for(
            screen, space, work, vae=vae, model=model, device=where, dtype=dtype, memory_limit=memory_limit
        )
    return screen.follow(
        work,
        lambda _on_step: run.encode(
            work, codec=encoder, caption=caption, seed=seed, overwrite=bool(replace), dry_run=dry_run
        ),
        dry_run=dry_run,
    )

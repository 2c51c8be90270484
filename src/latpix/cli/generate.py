"""``latpix generate``: text in; latents, the backbone's own pictures and ours out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latpix.cli import options
from latpix.cli.jobs import default_of_space, load_decoder, painting_of
from latpix.cli.screen import Screen
from latpix.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from latpix.backbones.registry import Backbone, Generator
    from latpix.batching.shots import Generation
    from latpix.checkpoints.registry import Checkpoint


@click.command()
@click.option("--backbone", required=True, metavar="NAME", help="flux, flux2, sd3, ...: see `latpix checkpoints list`.")
@click.option("--prompt", "texts", multiple=True, metavar="TEXT", help="What to generate; may be repeated.")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="A text file, one prompt a line.")
@options.manifest
@click.option("--class-id", "class_ids", type=int, multiple=True, metavar="N", help="Of ImageNet, for dinov2.")
@options.output
@click.option(
    "--stop-at",
    "stops",
    type=int,
    multiple=True,
    metavar="K",
    help="Stop the backbone after K steps and decode that; may be repeated. [default: run to the end]",
)
@click.option("--final", is_flag=True, help="With --stop-at: run to the end all the same, and decode that too.")
@click.option("--model", metavar="HUB|DIR", help="Other weights of the backbone's pipeline.")
@click.option("--backbone-steps", type=int, metavar="N", help="Of the backbone. [default: its own]")
@click.option("--guidance", type=float, metavar="X", help="Of the backbone. [default: its own]")
@click.option("--offload", is_flag=True, help="Keep only the working part of the backbone on the accelerator.")
@click.option("--save-latents-only", "latents_only", is_flag=True, help="Leave the decoding to `latpix decode`.")
@options.checkpoint
@options.decoding
@click.pass_obj
def generate(
    screen: Screen,
    /,
    backbone: str,
    texts: tuple[str, ...],
    prompts: Path | None,
    manifest: Path | None,
    class_ids: tuple[int, ...],
    out: Path,
    stops: tuple[int, ...],
    final: bool,
    model: str | None,
    backbone_steps: int | None,
    guidance: float | None,
    offload: bool,
    latents_only: bool,
    checkpoint: str | None,
    like: str | None,
    device: str,
    dtype: str,
    replace: bool | None,
    picture_format: str | None,
    dry_run: bool,
    batch: int,
    **painting: Any,
) -> int:
    """Generate from text with a backbone, stop it early if asked, and decode its latents.

    For each prompt and stop OUT gets the latent, the backbone's own decode, ours, and both side by side; results.jsonl
    has a line for each. --size is that of our pictures; the backbone works at a fraction of it.

    \b
    latpix generate --backbone flux --prompt "a cat" -o cats --stop-at 24 --checkpoint flux1-2k
    latpix generate --backbone flux2-klein-4b --prompts prompts.txt -o out --skip-existing
    latpix generate --backbone sdxl --prompt "a cat" -o cats --model ./my-sdxl --save-latents-only
    """
    from latpix.backbones.generate import check_stops, load_pipeline
    from latpix.backbones.registry import find_backbone
    from latpix.batching.generate import BackboneCall, GenerationRun
    from latpix.batching.prompts import find_prompts
    from latpix.batching.shots import plan_generation
    from latpix.batching.sizes import native_size
    from latpix.distributed import ranks_of_torchrun

    ranks = ranks_of_torchrun()
    row = find_backbone(backbone)
    source = _generator(row, class_ids)
    steps = backbone_steps or source.steps
    name = None if latents_only else checkpoint or default_of_space(row.space)
    decodes = None if name is None else _row_of(name, like, row)
    height, width = native_size(row, decodes, painting["size"], painting["scale"])
    highest = 1.0 if decodes is None else decodes.sampling.max_latent_sigma
    check_stops(row, stops, steps=steps, height=height, width=width, max_latent_sigma=highest, model=model)
    work = plan_generation(
        find_prompts(texts, prompts, manifest),
        out,
        stops=[*stops, *([steps] if final or not stops else [])],
        steps=steps,
        suffix=options.FORMATS[picture_format or "png"],
        latents_only=latents_only,
        existing=options.existing_of(replace),
        ranks=ranks,
    )
    if dry_run:
        return _preview(screen, work, row, decodes, model, (height, width))
    if not work.outputs:  # nothing to make: no need to load anything
        return screen.follow(work, lambda _on_step: iter(work.failures))
    where = ranks.device(device)
    asked = BackboneCall(
        row=row,
        open=lambda: load_pipeline(row, model=model, device=where, dtype=dtype, offload=offload),
        height=height,
        width=width,
        steps=steps,
        guidance=guidance,
        seed=painting["seed"] or 0,
    )
    return screen.follow(
        work,
        lambda on_step: GenerationRun(
            work,
            asked,
            decodes,
            lambda: load_decoder(screen, str(name), where, dtype, like),
            painting_of(painting),
            device=where,
            overwrite=bool(replace),
            on_step=on_step,
        ).run(),
    )


def _generator(row: "Backbone", class_ids: tuple[int, ...]) -> "Generator":
    """How the backbone generates.

    Raises:
        UsageError: it does so outside diffusers.
        OptionError: it knows no classes.
    """
    from latpix.backbones.generate import generator_of

    found = generator_of(row)
    if class_ids:
        raise OptionError(f'"{row.name}" generates from text, not from classes; give --prompt instead of --class-id.')
    return found


def _row_of(name: str, like: str | None, backbone: "Backbone") -> "Checkpoint":
    """The checkpoint's row; it reads what the backbone makes.

    Raises:
        CheckpointError: it does not; the message lists those that do.
    """
    from latpix.checkpoints.load import peek
    from latpix.checkpoints.registry import rows_that_read

    row = peek(name, like=like)
    if row.space != backbone.space:
        fitting = ", ".join(one.name for one in rows_that_read(backbone.space))
        raise CheckpointError(
            f'"{backbone.name}" makes latents of space "{backbone.space}", but checkpoint "{row.name}" reads '
            f'"{row.space}". Take one of {fitting}.'
        )
    return row


def _preview(
    screen: Screen,
    work: "Generation",
    row: "Backbone",
    checkpoint: "Checkpoint | None",
    model: str | None,
    native: tuple[int, int],
) -> int:
    """What would be made, downloaded and held."""
    from latpix.batching.forecast import parts_of

    parts = parts_of(row, checkpoint, model=model)
    rows = [
        {
            "input": shot.prompt.text,
            "output": str(shot.latent if work.latents_only else shot.picture),
            "step": shot.step,
        }
        for shots in work.shots
        if isinstance(shots, list)
        for shot in shots
    ]
    if screen.json:
        for one in rows:
            screen.document({**one, "native_height": native[0], "native_width": native[1], "dry_run": True})
        screen.document({"parts": [vars(part) for part in parts]})
        return 0
    for one in rows:
        click.echo(f"{one['input']} -> {one['output']}")
    for part in parts:
        state = "is here" if part.here else "to download"
        click.echo(f"{part.what}: {part.name}, about {part.bytes / 1e9:.1f} GB, {state}")
    missing, held = sum(part.bytes for part in parts if not part.here), max(part.bytes for part in parts)
    click.echo(f"{missing / 1e9:.1f} GB to download; at most {held / 1e9:.1f} GB of weights held at once")
    return 0

"""``latpix generate``: text in; latents, the backbone's own pictures and ours out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latpix.cli import options
from latpix.cli.jobs import default_checkpoint, load_decoder, painting_of
from latpix.cli.screen import FAILED, SOME_FAILED, Screen
from latpix.errors import CheckpointError

if TYPE_CHECKING:
    from latpix.backbones.encode import PictureCodec
    from latpix.backbones.registry import Backbone
    from latpix.backbones.sources import Source
    from latpix.batching.painting import Painting
    from latpix.batching.shots import Generation
    from latpix.checkpoints.registry import Checkpoint

RAE_STEPS = 50  # of the generators outside diffusers, where nothing else is asked for


@click.command()
@click.option("--backbone", required=True, metavar="NAME", help="flux, flux2, sd3, ...: see `latpix checkpoints list`.")
@click.option("--prompt", "texts", multiple=True, metavar="TEXT", help="What to generate; may be repeated.")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="A text file, one prompt a line.")
@options.manifest
@click.option("--class-id", "class_ids", type=int, multiple=True, metavar="N", help="Of ImageNet, with an adapter.")
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
@options.codec
@click.option("--adapter", metavar="MODULE:FUNCTION", help="Runs a generator outside diffusers; see the guide on RAE.")
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
    vae: str | None,
    model: str | None,
    adapter: str | None,
    backbone_steps: int | None,
    guidance: float | None,
    offload: bool,
    latents_only: bool,
    checkpoint: str | None,
    like: str | None,
    device: str,
    dtype: str,
    compiled: bool,
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
    from latpix.backbones.encode import load_codec
    from latpix.backbones.generate import check_stops, generator_of, load_pipeline
    from latpix.backbones.registry import find_backbone
    from latpix.backbones.sources import AdapterSource, PipelineSource, find_adapter
    from latpix.batching.generate import BackboneCall, GenerationRun
    from latpix.batching.prompts import find_prompts
    from latpix.batching.shots import plan_generation
    from latpix.batching.sizes import native_size
    from latpix.checkpoints.load import check_here
    from latpix.decoder import Decoder
    from latpix.distributed import ranks_of_torchrun
    from latpix.files.picture_files import read_picture
    from latpix.latents.spaces import LATENT_SPACES
    from latpix.per_picture import check_colour_lock

    ranks = ranks_of_torchrun()
    row = find_backbone(backbone)
    if adapter is None:
        generator_of(row)  # says so if it generates outside diffusers
    steps = backbone_steps if backbone_steps is not None else row.generator.steps if row.generator else RAE_STEPS
    name = None if latents_only else checkpoint or default_checkpoint({row.space})
    decodes = None if name is None else _row_of(name, like, row)
    height, width = native_size(row, decodes, painting["size"], painting["scale"])
    highest = 1.0 if decodes is None else decodes.sampling.max_latent_sigma
    check_stops(row, stops, steps=steps, height=height, width=width, max_latent_sigma=highest, model=model)
    asked = painting_of({**painting, "size": None})  # the native size is such that the scale alone gives it
    where = ranks.device(device)
    if name is not None:
        downsample = LATENT_SPACES[row.space].downsample
        options_of = {name: painting[name] for name in ("steps", "tile", "memory_limit")}
        probe = Decoder.without_weights(name, like=like, device=where, dtype=dtype)
        probe.plan(height=height // downsample, width=width // downsample, **options_of)
        if painting["colour_lock"]:
            check_colour_lock(probe.checkpoint)
        if painting["detail_map"] is not None:
            read_picture(painting["detail_map"])
    work = plan_generation(
        find_prompts(texts, prompts, manifest, class_ids=class_ids),
        out,
        stops=[*stops, *([steps] if final or not stops else [])],
        steps=steps,
        suffix=options.FORMATS[picture_format or "png"],
        latents_only=latents_only,
        existing=options.existing_of(replace),
        ranks=ranks,
    )
    if dry_run:
        return _preview(screen, work, row, name, decodes, asked, model, where, dtype)
    if not work.outputs:  # nothing to make: no need to load anything
        return screen.follow(work, lambda _on_step: iter(work.failures))
    if name is not None:
        check_here(name, like=like)

    def load_encoder() -> "PictureCodec":
        limit = painting["memory_limit"]
        return load_codec(row.space, vae=vae, model=model, device=where, dtype=dtype, memory_limit=limit)

    def open_source() -> "Source":
        if adapter is not None:
            sample = find_adapter(adapter)
            return AdapterSource(sample=sample, row=row, steps=steps, device=where, codec=load_encoder)
        return PipelineSource(
            pipe=load_pipeline(row, model=model, device=where, dtype=dtype, offload=offload),
            row=row,
            height=height,
            width=width,
            steps=steps,
            guidance=guidance,
            memory_limit=painting["memory_limit"],
            codec=None if vae is None else load_encoder,
        )

    seed = painting["seed"] or 0
    call = BackboneCall(row=row, open=open_source, height=height, width=width, steps=steps, seed=seed)
    return screen.follow(
        work,
        lambda on_step: GenerationRun(
            work,
            call,
            decodes,
            lambda: load_decoder(screen, str(name), where, dtype, like, compiled=compiled),
            asked,
            device=where,
            batch=batch,
            overwrite=bool(replace),
            on_step=on_step,
        ).run(),
    )


def _row_of(name: str, like: str | None, backbone: "Backbone") -> "Checkpoint":
    """The checkpoint's row; it reads what the backbone makes.

    Raises:
        CheckpointError: it does not; the message lists those that do.
    """
    from latpix.checkpoints.load import peek
    from latpix.checkpoints.registry import advised

    row = peek(name, like=like)
    if row.space != backbone.space:
        fitting = ", ".join(one.name for one in advised(backbone.space))
        raise CheckpointError(
            f'"{backbone.name}" makes latents of space "{backbone.space}", but checkpoint "{row.name}" reads '
            f'"{row.space}". Take one of {fitting}.'
        )
    return row


def _preview(
    screen: Screen,
    work: "Generation",
    row: "Backbone",
    name: str | None,
    checkpoint: "Checkpoint | None",
    painting: "Painting",
    model: str | None,
    device: str,
    dtype: str,
) -> int:
    """What would be made, downloaded and held."""
    from latpix.batching.forecast import parts_of

    texts = [painting.caption or shots[0].prompt.caption for shots in work.shots if isinstance(shots, list) and shots]
    parts = parts_of(row, name, checkpoint, painting, texts, model=model, device=device, dtype=dtype)
    for failure in work.failures:
        screen.error(f"{failure.input}: {type(failure.error).__name__}: {failure.error}")
    shown = [shot for shots in work.shots if isinstance(shots, list) for shot in shots]
    for shot in shown:
        output = str(shot.latent if work.latents_only else shot.picture)
        if screen.json:
            screen.document({"input": shot.prompt.text, "output": output, "step": shot.step, "dry_run": True})
        else:
            click.echo(f"{shot.prompt.text} -> {output}")
    missing, held = sum(part.bytes for part in parts if not part.here), max(part.bytes for part in parts)
    if screen.json:
        screen.document({"parts": [vars(part) for part in parts], "download_bytes": missing, "held_bytes": held})
    else:
        for part in parts:
            state = "is here" if part.here else "to download"
            click.echo(f"{part.what}: {part.name}, about {part.bytes / 1e9:.1f} GB, {state}")
        click.echo(f"{missing / 1e9:.1f} GB to download; at most {held / 1e9:.1f} GB of weights held at once")
    return 0 if not work.failures else FAILED if work.inputs == 1 else SOME_FAILED

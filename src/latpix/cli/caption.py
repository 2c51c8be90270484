"""``latpix caption``: texts in, a caption file out."""

import time
from pathlib import Path

import click

from latpix.cli import options
from latpix.cli.screen import Screen, progress_bar
from latpix.errors import UsageError


@click.command()
@click.argument("texts", nargs=-1, metavar="TEXT...")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="A text file, one caption a line.")
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ends in .safetensors.",
)
@click.option("--model", metavar="HUB|DIR", help="Other weights of the text encoder.")
@click.option("--negative", is_flag=True, help="Add the negative prompt, which undistilled checkpoints need.")
@options.device
@options.dtype
@options.existing
@options.speech
@click.pass_obj
def caption(
    screen: Screen,
    /,
    texts: tuple[str, ...],
    prompts: Path | None,
    out: Path,
    model: str | None,
    negative: bool,
    device: str,
    dtype: str,
    replace: bool | None,
) -> int:
    """Embed captions TEXT... with the text encoder into one FILE, to decode with on any machine (--caption-file).

    They are kept in the cache too, so that a caption is never embedded twice. The empty text is the null caption.

    \b
    latpix caption "a cat" "a dog" -o captions.safetensors
    latpix caption --prompts prompts.txt -o captions.safetensors
    latpix caption "" -o null.safetensors
    """
    from latpix.batching.prompts import read_prompts
    from latpix.captions.model_files import MODEL, identity
    from latpix.captions.prompt_prefix import NEGATIVE_PROMPT, VERSION
    from latpix.captions.provide import embed
    from latpix.files.caption_files import CaptionFile, check_caption_output, save_captions

    if (prompts is not None) == bool(texts):
        raise UsageError("give captions as TEXT..., or --prompts FILE, and not both.")
    check_caption_output(out, overwrite=replace is not None)
    if out.exists() and replace is False:
        screen.note(f"{out} is there already; skipped")
        return 0
    asked = list(dict.fromkeys([*(read_prompts(prompts) if prompts else texts), *[NEGATIVE_PROMPT] * negative]))
    start = time.perf_counter()
    with progress_bar(len(asked), shown=screen.verbosity >= 0) as bar:
        embedding = embed(
            asked,
            model=model,
            device=device,
            dtype=dtype,
            on_caption=lambda done, count: bar.step(done, count, "caption"),
        )
    captions = CaptionFile(embedding=embedding, texts=tuple(asked), encoder=identity(model or MODEL), prefix=VERSION)
    save_captions(captions, out, overwrite=bool(replace))
    seconds = time.perf_counter() - start
    if screen.json:
        facts = {"encoder": captions.encoder, "prefix_version": VERSION, "shape": list(embedding.shape)}
        screen.document({"output": str(out), "captions": len(asked), **facts, "seconds": seconds})
    else:
        click.echo(out)
    return 0

"""``latpix verify``: how a picture of ours was made, and whether the same bits come out again."""

from pathlib import Path

import click

from latpix.cli import options
from latpix.cli.screen import FAILED, Screen


@click.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--checkpoint", metavar="NAME|FILE", help="The checkpoint's file, if it was none of the registry.")
@options.like
@options.codec
@options.space
@options.device
@options.speech
@click.pass_obj
def verify(
    screen: Screen,
    /,
    picture: Path,
    checkpoint: str | None,
    like: str | None,
    vae: str | None,
    model: str | None,
    space: str | None,
    device: str,
) -> int:
    """Say how PICTURE was made, and make it again: do the same bits come out?

    The latent or the picture that it was made from must still be where it was, or beside PICTURE.
    """
    from latpix.batching.remake import remake

    made = remake(picture, checkpoint=checkpoint, vae=vae, model=model, like=like, space=space, device=device)
    if screen.json:
        screen.document({**made.story, **{key: value for key, value in vars(made).items() if key != "story"}})
    else:
        for key, value in made.story.items():
            click.echo(f"{key}: {value}")
        answer = {True: "the same bits came out again", False: "other bits came out", None: "it was not made again"}
        said = "the same picture came out again, to rounding" if made.to_rounding else answer[made.same_bits]
        click.echo(said + (f": {made.reason}" if made.reason else ""))
    return 0 if made.same_bits or made.to_rounding else FAILED

"""Options that commands share: one spelling, one help text and one way of reading each."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from latpix.batching.outputs import Existing
    from latpix.cli.screen import Screen

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tiff"}


def size(text: str) -> tuple[int, int]:
    """``WxH``, each at least 1, as (height, width)."""
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        width, height = 0, 0
    if min(width, height) < 1:
        raise click.BadParameter(f'"{text}" is not a size; write it like 2048x1536 (width, then height).')
    return height, width


def factor(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise click.BadParameter(f'"{text}" is not a factor to enlarge by; write it like 2.5.')
    return number


def memory(text: str) -> str:
    """A number of bytes in words, checked."""
    from latpix.devices import parse_bytes
    from latpix.errors import OptionError

    try:
        parse_bytes(text)
    except OptionError as error:
        raise click.BadParameter(str(error)) from None
    return text


def sigmas(text: str) -> tuple[float, ...]:
    """``X[,X...]``: noise levels in [0, 1]."""
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f'"{text}" is not a list of numbers; write it like 0,0.2,0.4.') from None
    for level in levels:
        if not 0 <= level <= 1:
            raise click.BadParameter(f"{level} is not a noise level; it goes from 0 (clean) to 1 (noise).")
    return levels


def tile(text: str) -> str | int:
    """``auto``, ``off``, or a side in latent cells."""
    try:
        return text if text in ("auto", "off") else int(text)
    except ValueError:
        raise click.BadParameter(f'"{text}" is none of auto, off, or a number of latent cells.') from None


def stacked(*options: Decorator[Any]) -> Decorator[Any]:
    """Several options as one decorator, in the order of --help."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _to_screen(set_on: Callable[["Screen", Any], None]) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        set_on(ctx.find_root().obj, value)

    return callback


def _verbosity(screen: "Screen", value: int) -> None:
    screen.verbosity = value or screen.verbosity


def _quiet(screen: "Screen", value: bool) -> None:
    screen.verbosity = -1 if value else screen.verbosity


def _json(screen: "Screen", value: bool) -> None:
    screen.json = value


speech = stacked(
    click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_to_screen(_json),
        help="Print JSON on stdout, and nothing else there.",
    ),
    click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_to_screen(_quiet), help="Say only what went wrong."
    ),
    click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_to_screen(_verbosity),
        help="Say more; -vv shows tracebacks.",
    ),
)

output = click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="A file with a known suffix, or a folder (made when missing).",
)
manifest = click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="One job a line, as JSON: image or latent, and optional caption, seed, output.",
)
like = click.option("--like", metavar="NAME", help="The registry row that a bare checkpoint file follows.")
checkpoint = stacked(
    click.option("--checkpoint", metavar="NAME|FILE", help="See `latpix checkpoints list`. [default: flux2-tiny]"),
    like,
)
codec = stacked(
    click.option("--vae", metavar="HUB|PATH", help="The VAE that encodes, or flux2-lite; of a RAE upstream's files."),
    click.option("--model", metavar="HUB|DIR", help="The pipeline with that VAE; of a RAE its vision encoder."),
)
space = click.option("--space", metavar="NAME", help="The latent space of files that do not say it, e.g. flux2.")
embedded_caption = stacked(
    click.option(
        "--caption-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Embeddings that `latpix caption` made; no text encoder is needed.",
    ),
    click.option("--no-caption", is_flag=True, help="Paint from the latent alone, with the null caption."),
    click.option("--caption-model", metavar="HUB|DIR", help="Other weights of the text encoder."),
)
caption = click.option("--caption", metavar="TEXT", help="What the pictures show (flux2-tiny does not read it).")
seed = click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**63 - 1),
    metavar="N",
    help="Of every item, unless the manifest says otherwise.",
)
device = click.option("--device", default="auto", metavar="auto|cpu|cuda[:i]|mps|xpu", help="Where to compute.")
dtype = click.option(
    "--dtype",
    default="auto",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="What the network computes in.",
)
compiling = click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the network's blocks first: for many pictures, or large ones.",
)
existing = click.option(
    "--overwrite/--skip-existing", "replace", default=None, help="What to do with outputs that exist."
)
dry_run = click.option("--dry-run", is_flag=True, help="Say what would be made; make nothing.")
memory_limit = click.option(
    "--memory-limit",
    type=memory,
    metavar="6GiB",
    help="What does not fit is done in smaller pieces, then tiles, or refused; see `latpix plan`.",
)
tile_option = click.option(
    "--tile", type=tile, default="auto", metavar="auto|off|N", help="Side of the tiles that a large job is cut into."
)
batch_option = click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Pictures of one shape handed over together; each is still painted alone.",
)
scale = click.option(
    "--scale", type=factor, metavar="X", help="Output side / native side, if not the checkpoint's own."
)
painting = stacked(
    caption,
    embedded_caption,
    seed,
    click.option("--steps", type=int, metavar="N", help="Fewer are quicker and smoother; 1 to 4 for most."),
    scale,
    click.option(
        "--size", type=size, metavar="WxH", help="Of the output, instead of --scale; the picture is stretched to it."
    ),
    tile_option,
    memory_limit,
    click.option(
        "--detail-map",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="PICTURE",
        help="Where it is white the network paints freely, where it is black it stays close to the latent.",
    ),
    click.option(
        "--colour-lock",
        is_flag=True,
        help="Hold the colours to those of the codec's decode (upscale) or of the base decoder (decode).",
    ),
    batch_option,
)
latent_sigma = click.option(
    "--latent-sigma",
    "latent_sigmas",
    type=sigmas,
    metavar="X[,X...]",
    help="How noisy the latent is, 0 to 1; one output for each.",
)
picture_format = click.option(
    "--format", "picture_format", type=click.Choice(list(FORMATS)), help="Of pictures in a folder. [default: png]"
)

# What every command that decodes ends with.
decoding = stacked(painting, device, dtype, compiling, existing, picture_format, dry_run, speech)


def existing_of(replace: bool | None) -> "Existing":
    """What --overwrite/--skip-existing asks for."""
    return "refuse" if replace is None else "overwrite" if replace else "skip"

"""What `upscale`, `encode` and `decode` share between reading the command line and starting the work."""

import time
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latpix.cli.screen import Screen
from latpix.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from latpix.backbones.encode import PictureCodec
    from latpix.batching.inputs import Failure, Item, Kind
    from latpix.batching.outputs import Work
    from latpix.batching.painting import Painting
    from latpix.decoder import Decoder
    from latpix.team import Team

SHIPPED = "flux2-tiny"


def found_inputs(given: tuple[str, ...], manifest: Path | None, kind: "Kind") -> "list[Item | Failure]":
    """The inputs of a command: what was named, or the lines of a manifest."""
    from latpix.batching.inputs import find_inputs, read_manifest

    if manifest is None:
        return [*find_inputs(given, kind)]
    if given:
        raise UsageError(f"{given[0]} and --manifest were both given; give one of them.")
    return read_manifest(manifest, kind)


def load_decoder(
    screen: Screen, checkpoint: str, device: str, dtype: str, like: str | None, *, compiled: bool = False
) -> "Decoder":
    """The decoder, with a word on what was loaded, and on what takes longer the first time."""
    from latpix.decoder import Decoder

    start = time.perf_counter()
    decoder = Decoder.load(checkpoint, device=device, dtype=dtype, like=like)
    kind = str(decoder.dtype).removeprefix("torch.")
    seconds = time.perf_counter() - start
    screen.note(f"{decoder.checkpoint.name} on {decoder.device} in {kind}, loaded in {seconds:.1f} s", level=1)
    if compiled:
        decoder.compile()
        screen.note("compiling: the first pictures of the first two or three sizes take longer, by up to minutes.")
    return decoder


def default_checkpoint(spaces: Collection[str]) -> str:
    """The shipped checkpoint, if it reads latents of one of these spaces, or if there are none.

    Raises:
        CheckpointError: it reads none of them; the message lists the rows that do.
    """
    from latpix.checkpoints.registry import advised, find

    if not spaces or find(SHIPPED).space in spaces:
        return SHIPPED
    listed = [f'space "{space}": {", ".join(row.name for row in advised(space))}' for space in sorted(spaces)]
    raise CheckpointError(f"name a --checkpoint; {SHIPPED} does not read these latents. Of {'; '.join(listed)}.")


def team_of(together: bool, device: str) -> "AbstractContextManager[Team | None]":
    """The processes that make each picture together, met; None where each has pictures of its own."""
    from latpix.devices import pick_device
    from latpix.team import meet

    return meet(pick_device(device)) if together else nullcontext()


def painting_of(given: dict[str, Any]) -> "Painting":
    """The options of ``options.painting`` as one value."""
    from latpix.batching.painting import Painting

    return Painting(**given)


def embed_captions(
    screen: Screen, painting: "Painting", work: "Work", checkpoint: str, like: str | None, device: str
) -> "Painting":
    """The captions of all work, embedded before the decoder is there; a word where they will not be read.

    Raises:
        CheckpointError: no such checkpoint.
        CaptionError, DownloadError, MissingExtraError: the captions cannot be embedded.
    """
    from latpix.batching.painting import with_captions
    from latpix.checkpoints.load import peek, stored
    from latpix.checkpoints.registry import CHECKPOINTS

    row = peek(checkpoint, like=like)
    if not row.network.caption_width:
        if painting.caption is not None:
            screen.note(f"{row.name} reads no caption; it is only written into the pictures.")
        return painting
    if checkpoint in CHECKPOINTS and not stored(row).is_file():
        return painting  # loading it will say how to fetch it; no need to load anything else first
    start = time.perf_counter()
    painting = with_captions(painting, work, row, device=device)
    screen.note(f"captions embedded in {time.perf_counter() - start:.1f} s", level=1)
    return painting


def encoder_for(
    screen: Screen,
    space: str,
    work: "Work",
    *,
    vae: str | None,
    model: str | None,
    device: str,
    dtype: str,
    memory_limit: str | None = None,
) -> "PictureCodec":
    """What encodes pictures to a space, with a word on what was loaded, and on pictures that it will stretch."""
    from latpix.backbones.encode import load_codec
    from latpix.batching.outputs import Job

    start = time.perf_counter()
    codec = load_codec(space, vae=vae, model=model, device=device, dtype=dtype, memory_limit=memory_limit)
    screen.note(f'encoder of space "{space}" loaded in {time.perf_counter() - start:.1f} s', level=1)
    shapes = {job.measure.shape[-2:] for job in work.jobs if isinstance(job, Job)}
    stretched = any(height != width for height, width in shapes)
    if codec.native_side is not None and stretched:
        side = codec.native_side
        screen.note(
            f'the encoder of space "{space}" sees squares only: pictures are stretched to {side}x{side}, and come out '
            "square."
        )
    return codec


def encoder_of_checkpoint(
    screen: Screen, checkpoint: str, like: str | None, work: "Work", **given: Any
) -> "PictureCodec | None":
    """What encodes pictures for a checkpoint, loaded before it; None where loading the checkpoint itself will fail.

    Raises:
        CheckpointError: no such checkpoint, or no such encoder.
    """
    from latpix.checkpoints.load import peek, stored
    from latpix.checkpoints.registry import CHECKPOINTS

    row = peek(checkpoint, like=like)
    if not row.space or (checkpoint in CHECKPOINTS and not stored(row).is_file()):
        return None
    return encoder_for(screen, row.space, work, **given)

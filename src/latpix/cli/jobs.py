"""What `upscale`, `encode` and `decode` share between reading the command line and starting the work."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latpix.cli.screen import Screen
from latpix.errors import CheckpointError, LatentError, UsageError

if TYPE_CHECKING:
    from latpix.batching.inputs import Failure, Item, Kind
    from latpix.batching.outputs import Work
    from latpix.batching.paint import Painting
    from latpix.decoder import Decoder

SHIPPED = "flux2-tiny"


def found_inputs(given: tuple[str, ...], manifest: Path | None, kind: "Kind") -> "list[Item | Failure]":
    """The inputs of a command: what was named, or the lines of a manifest."""
    from latpix.batching.inputs import find_inputs, read_manifest

    if manifest is None:
        return [*find_inputs(given, kind)]
    if given:
        raise UsageError(f"{given[0]} and --manifest were both given; give one of them.")
    return read_manifest(manifest, kind)


def load_decoder(screen: Screen, checkpoint: str, device: str, dtype: str, like: str | None) -> "Decoder":
    """The decoder, with a word on what was loaded."""
    from latpix.decoder import Decoder

    start = time.perf_counter()
    decoder = Decoder.load(checkpoint, device=device, dtype=dtype, like=like)
    kind = str(decoder.dtype).removeprefix("torch.")
    seconds = time.perf_counter() - start
    screen.note(f"{decoder.checkpoint.name} on {decoder.device} in {kind}, loaded in {seconds:.1f} s", level=1)
    return decoder


def default_checkpoint(work: "Work") -> str:
    """The shipped checkpoint, if any latent is of its space.

    Raises:
        CheckpointError: it reads none of them; the message lists the rows that do.
    """
    from latpix.batching.outputs import Job
    from latpix.checkpoints.registry import find, rows_that_read

    spaces = {job.measure.space for job in work.jobs if isinstance(job, Job)}
    if not spaces or find(SHIPPED).space in spaces:
        return SHIPPED
    listed = [f'space "{space}": {", ".join(row.name for row in rows_that_read(space or ""))}' for space in spaces]
    raise CheckpointError(
        f"name a --checkpoint; {SHIPPED} does not read these latents. Of {'; '.join(sorted(listed))}."
    )


def default_of_space(space: str) -> str:
    """The shipped checkpoint, if it reads the space.

    Raises:
        CheckpointError: it does not; the message lists the rows that do.
    """
    from latpix.checkpoints.registry import find, rows_that_read

    if find(SHIPPED).space == space:
        return SHIPPED
    fitting = ", ".join(row.name for row in rows_that_read(space))
    raise CheckpointError(
        f'name a --checkpoint; {SHIPPED} does not read latents of space "{space}". These do: {fitting}.'
    )


def painting_of(given: dict[str, Any]) -> "Painting":
    """The options of ``options.painting`` as one value."""
    from latpix.batching.paint import Painting

    return Painting(**given)


def embed_captions(
    screen: Screen, painting: "Painting", work: "Work", checkpoint: str, like: str | None, device: str
) -> "Painting":
    """The captions of all work, embedded before the decoder is there; a word where they will not be read.

    Raises:
        CheckpointError: no such checkpoint.
        CaptionError, DownloadError, MissingExtraError: the captions cannot be embedded.
    """
    from latpix.batching.paint import with_captions
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


def check_space(space: str) -> None:
    """Pictures can be encoded to this space.

    Raises:
        LatentError: they cannot.
    """
    from latpix.backbones.codec import Codec
    from latpix.latents.spaces import LATENT_SPACES

    if space not in LATENT_SPACES:
        raise LatentError(f'latent space "{space}" is unknown; spaces are {", ".join(LATENT_SPACES)}.')
    if space != Codec.space:
        raise LatentError(
            f'pictures cannot be encoded to space "{space}": encoders of other backbones than flux2-lite ("flux2") are '
            "not part of this version."
        )

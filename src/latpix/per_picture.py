"""What a batch is decoded with: one noise level, one seed and one caption for each of its pictures.

Letters: b batch, l tokens of a caption, k their width.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.captions.prompt_prefix import NEGATIVE_PROMPT
from latpix.captions.provide import as_states
from latpix.checkpoints.registry import Checkpoint
from latpix.errors import CaptionError, OptionError


def sigmas_of(given: float | Sequence[float], batch: int, row: Checkpoint) -> list[float]:
    """Noise levels of the latents, which the checkpoint was trained for.

    Raises:
        OptionError: none for each, no noise level, or too high a one.
    """
    sigmas = [*map(float, given)] if isinstance(given, Sequence) else [float(given)] * batch
    highest = row.sampling.max_latent_sigma
    if len(sigmas) != batch:
        raise OptionError(f"{len(sigmas)} values of latent_sigma for {batch} latents; give one, or one for each.")
    for sigma in sigmas:
        if not 0 <= sigma <= 1:
            raise OptionError(f"latent_sigma is {sigma}, but a noise level is between 0 (clean) and 1 (noise).")
        if sigma > highest:
            raise OptionError(
                f'latent_sigma is {sigma}, but "{row.name}" was trained up to {highest}. '
                "Stop the latent model a few steps later."
            )
    return sigmas


def seeds_of(given: int | Sequence[int], batch: int) -> list[int]:
    """Seeds: one number is that of the first picture, and counts up.

    Raises:
        OptionError: not one for each.
    """
    if not isinstance(given, Sequence):
        return [int(given) + k for k in range(batch)]
    if len(given) != batch:
        raise OptionError(f"{len(given)} seeds for {batch} latents; give one, or one for each.")
    return [int(one) for one in given]


def captions_of(
    given: str | Sequence[str] | Tensor | None,
    null_caption: str | Tensor | None,
    batch: int,
    row: Checkpoint,
    *,
    model: str | Path | None,
    device: torch.device,
) -> tuple[Float[Tensor, "{batch} l k"] | None, Float[Tensor, "{batch} m k"] | None]:
    """States of the captions and of what guidance pushes away from; None where the checkpoint reads none.

    Raises:
        CaptionError: none was given, not one for each, or states of another shape.
    """
    if not row.network.caption_width:
        return None, None
    if given is None:
        raise no_caption(row)
    if not isinstance(given, str | Tensor) and len(given) not in (1, batch):
        raise CaptionError(f"{len(given)} captions for {batch} latents; give one, or one for each.")
    null = (NEGATIVE_PROMPT if null_caption is None else null_caption) if row.guided else None
    states, null_states = as_states([given, null], model=model, device=device)
    assert states is not None
    fitting = _fitting(states, batch, row).to(device)
    return fitting, None if null_states is None else _fitting(null_states, batch, row).to(device)


def no_caption(row: Checkpoint) -> CaptionError:
    """The error for a picture without a caption, where the checkpoint reads one."""
    return CaptionError(
        f'"{row.name}" reads a caption, and none was given. Say what the picture shows (--caption TEXT, or `caption` '
        'in Python), bring its embedding (--caption-file FILE), or paint without words (--no-caption, or caption="").'
    )


def _fitting(states: Tensor, batch: int, row: Checkpoint) -> Float[Tensor, "{batch} l k"]:
    """Caption states that the network can read."""
    config = row.network
    if states.ndim != 3 or states.shape[-1] != config.caption_width or len(states) not in (1, batch):
        raise CaptionError(
            f'the caption embedding has shape {list(states.shape)}, but "{row.name}" reads '
            f"[1 or {batch}, up to {config.caption_length}, {config.caption_width}]."
        )
    return states.float().expand(batch, -1, -1)

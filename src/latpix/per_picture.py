"""What a batch is decoded with: a schedule, and for each picture its noise level, or a map, colours, seed, caption.

Letters: b batch, l tokens of a caption, k their width, h and w latent cells, y and x pixels of another picture.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.captions.prompt_prefix import NEGATIVE_PROMPT
from latpix.captions.provide import as_states
from latpix.checkpoints.registry import Checkpoint
from latpix.colours import freedom_of
from latpix.errors import CaptionError, OptionError
from latpix.latents.spaces import LATENT_SPACES
from latpix.sampling.schedules import Times, solver_times, student_times


def times_of(steps: int | None, h: int, w: int, row: Checkpoint) -> Times:
    """The schedule of a decode of ``h`` x ``w`` cells; None takes the checkpoint's own number of steps.

    Raises:
        OptionError: a number of steps that the checkpoint was not made for.
    """
    defaults = row.sampling
    if steps is not None and not (steps == int(steps) and 1 <= steps <= defaults.max_steps):
        raise OptionError(
            f'steps is {steps}, but "{row.name}" decodes in 1 to {defaults.max_steps} steps (default {defaults.steps}).'
        )
    if defaults.kind == "student":
        return student_times(defaults.times, steps or defaults.steps, trained_steps=defaults.max_steps)
    cell = LATENT_SPACES[row.space].downsample * row.scale
    shift = defaults.dynamic_shift.at(h * cell, w * cell) if defaults.dynamic_shift else defaults.shift
    return solver_times(steps or defaults.steps, shift)


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


def sigma_map_of(
    detail_map: Float[Tensor, "1 3 y x"],
    latent_sigma: float,
    native: tuple[int, int],
    cells: tuple[int, int],
    row: Checkpoint,
) -> Float[Tensor, "1 rows columns"]:
    """Noise levels that the gates are told: ``latent_sigma`` where the map is black, the highest where it is white.

    Args:
        detail_map: in [-1, 1], stretched over the picture.
        latent_sigma: of the latent.
        native: height and width of the native picture.
        cells: height and width of what is decoded, perhaps larger; what is beyond the picture is told as at its edge.
        row: of the checkpoint.

    Raises:
        OptionError: the map is no picture.
    """
    if detail_map.ndim != 4 or detail_map.shape[:2] != (1, 3):
        raise OptionError(f"detail_map has shape {list(detail_map.shape)}; expected [1, 3, height, width].")
    patch, cell = row.network.patch_size, LATENT_SPACES[row.space].downsample * row.scale
    rows, columns = (side * cell // patch for side in cells)
    free = freedom_of(detail_map, *(math.ceil(side * row.scale / patch) for side in native))
    free = F.pad(free[None], (0, columns - free.shape[2], 0, rows - free.shape[1]), mode="replicate")[0]
    return latent_sigma + free * max(0.0, row.sampling.max_latent_sigma - latent_sigma)


def reference_of(given: bool | Tensor, batch: int, row: Checkpoint) -> Float[Tensor, "{batch} 3 y x"] | None:
    """Pictures that colours are held to; None is none, or those of the base decoder.

    Raises:
        OptionError: not one for each, no pictures, or no base decoder.
    """
    if not isinstance(given, Tensor):
        if given:
            check_colour_lock(row)
        return None
    if given.ndim != 4 or given.shape[1] != 3 or given.shape[0] not in (1, batch):
        raise OptionError(
            f"colour_lock has shape {list(given.shape)}; expected [1 or {batch}, 3, height, width] for {batch} latents."
        )
    return given.expand(batch, -1, -1, -1)


def check_colour_lock(row: Checkpoint) -> None:
    """Whether a checkpoint can hold its pictures to its own colours.

    Raises:
        OptionError: it has no base decoder.
    """
    if not row.network.base_widths:
        raise OptionError(
            f'"{row.name}" has no base decoder to hold its colours to: give the codec\'s decode '
            "(colour_lock=pixels in Python), or enlarge a picture (latpix upscale --colour-lock)."
        )


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
    room: int | None = None,
) -> tuple[Float[Tensor, "{batch} l k"] | None, Float[Tensor, "{batch} m k"] | None]:
    """States of the captions and of what guidance pushes away from; None where the checkpoint reads none.

    Raises:
        CaptionError: none was given, not one for each, or states of another shape.
        MemoryLimitError: the text encoder must be loaded on ``device``, and takes more than ``room`` bytes.
    """
    if not row.network.caption_width:
        return None, None
    if given is None:
        raise no_caption(row)
    if not isinstance(given, str | Tensor) and len(given) not in (1, batch):
        raise CaptionError(f"{len(given)} captions for {batch} latents; give one, or one for each.")
    null = (NEGATIVE_PROMPT if null_caption is None else null_caption) if row.guided else None
    states, null_states = as_states([given, null], model=model, device=device, room=room)
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

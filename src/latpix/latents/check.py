"""Is this tensor a latent of that space? What people get wrong, told apart and said.

Over its encoder's training pictures a latent's standard deviation is about 1; one picture's differs. Measured on flux2:
TAEF2 gives 0.72 to 0.90 on photographs, 0.58 to 1.06 on 8x8 cells of them, 0.49 to 0.98 on flat colours, gradients,
checkers and noise; half trained codecs of ours 0.31 (flat grey) to 2.2 (a checker). Noise has 1, and mixing it into a
latent of variance v hardly leaves what lies between: (1 - s)^2 v + s^2 is at least v / (1 + v), at most v or 1.

So the lowest that passes is half of the least. The highest is the (geometric) middle between 1 and the nearest larger
raw latent of as many channels: 1.5 for flux1, qwen and sd3 (raw: 2.8, 2.3), 2.8 for sdxl (raw: 7.7). The other spaces'
raw latents are known by their channels or not at all, and 3 is far enough. Raw latents of sd3 (0.65) lie inside, and so
may nearly flat raw ones of flux1 and qwen: no spread gives them away.
"""

import math

import torch
from torch import Tensor

from latpix.errors import LatentError
from latpix.latents.spaces import LATENT_SPACES, LatentSpace, find_space

LOWEST_STD, FAR_STD = 0.15, 3.0


def check_latent(tensor: Tensor, space: str, *, given: str | None = None, checkpoint: str | None = None) -> None:
    """Raise unless ``tensor`` is a normalized latent ``[b, c, h, w]`` of ``space``, clean or noised.

    Args:
        tensor: what was given.
        space: the space that is expected.
        given: the space that the tensor's file names, where it does.
        checkpoint: who expects it, for the message.

    Raises:
        LatentError: another space, rank, channel count or size, values that are no numbers, or a spread that says that
            the latent was not normalized.
    """
    row = find_space(space)
    who = f'checkpoint "{checkpoint}" reads space "{space}"' if checkpoint else f'space "{space}" was expected'
    expected = f"{who} ({row.channels} channels)"
    if given is not None and given != space:
        theirs = find_space(given)
        raise LatentError(
            f'the latent is of space "{given}" ({theirs.channels} channels), but {expected}. '
            f'Take a checkpoint that reads "{given}", or a latent of "{space}".'
        )
    if tensor.ndim != 4:
        advice = {3: "Add a batch axis.", 5: "Remove its frame axis."}.get(tensor.ndim, "")
        raise LatentError(
            f"the latent has {tensor.ndim} axes, {list(tensor.shape)}, but {expected}: "
            f"[b, {row.channels}, h, w]. {advice}"
        )
    if tensor.shape[1] != row.channels:
        raise LatentError(f"the latent has {tensor.shape[1]} channels, but {expected}. {_whose(tensor.shape[1], row)}")
    _check_size(tensor, row)
    _check_values(tensor)
    _check_spread(tensor, row)


def _check_size(tensor: Tensor, row: LatentSpace) -> None:
    height, width = tensor.shape[2:]
    if tensor.numel() == 0:
        raise LatentError(f"the latent is empty: its shape is {list(tensor.shape)}.")
    if row.fixed_size is not None and (height, width) != (row.fixed_size, row.fixed_size):
        raise LatentError(
            f'the latent has {height}x{width} cells, but latents of space "{row.name}" always have '
            f"{row.fixed_size}x{row.fixed_size}: its encoder sees pictures of one size only."
        )


def _check_values(tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise LatentError(f"the latent holds {tensor.dtype} values; expected float32, float16 or bfloat16.")
    broken = int((~torch.isfinite(tensor)).sum())
    if broken:
        raise LatentError(
            f"{broken} of the latent's {tensor.numel()} values are NaN or infinite; the model that made it overflowed, "
            "often because it ran in float16. Make it again in bfloat16 or float32."
        )


def _check_spread(tensor: Tensor, row: LatentSpace) -> None:
    high = highest_std(row)
    for k, std in enumerate(tensor.float().flatten(1).std(dim=1, correction=0).tolist()):
        if not LOWEST_STD <= std <= high:
            which = "the latent" if len(tensor) == 1 else f"latent {k} of the batch"
            raise LatentError(
                f'{which} has a standard deviation of {std:.3g}, but normalized latents of space "{row.name}", '
                f"noised or not, have about 1 ({LOWEST_STD} to {high:.2g}). {_why(std, row)}"
            )


def highest_std(row: LatentSpace) -> float:
    """The largest standard deviation that a latent of the space may have."""
    raw = [s.normalization.raw_std for s in _twins(row) if s.normalization.raw_std is not None]
    return math.sqrt(min((std for std in raw if std > 1), default=FAR_STD**2))


def _twins(row: LatentSpace) -> list[LatentSpace]:
    """The spaces that only values tell apart."""
    return [space for space in LATENT_SPACES.values() if space.channels == row.channels]


def _why(std: float, row: LatentSpace) -> str:
    """What a latent of that spread may be, and what to do."""
    if std < LOWEST_STD:
        return "It is nearly constant, or was normalized twice."
    like_it = [s for s in _twins(row) if LOWEST_STD <= std / (s.normalization.raw_std or math.inf) <= highest_std(s)]
    raw = row if row in like_it else next(iter(like_it), None)
    if raw is None:
        return "It is a raw latent, or one of another space, or was scaled by something else."
    euler = ", or a state of Euler's scheduler (latpix.latents.noising.edm_to_vp converts it)"
    return (
        f'It looks like the raw (unnormalized) latent of a "{raw.name}" VAE, which has about '
        f"{raw.normalization.raw_std:.2g}{euler if raw.noising == 'vp' else ''}. "
        f'Normalize it: latpix.latents.normalize.normalize(raw, LATENT_SPACES["{raw.name}"]).'
    )


def _whose(channels: int, row: LatentSpace) -> str:
    """Which latents have that many channels, the expected space's raw ones first."""
    if channels == row.raw_channels:
        return (
            f'{channels} channels is what raw (unnormalized) latents of "{row.name}" have, before '
            f"{row.patchify}x{row.patchify} cells become one. Normalize it: latpix.latents.normalize.normalize, with "
            "statistics from the VAE."
        )
    owners = [f'"{s.name}"' for s in LATENT_SPACES.values() if s.channels == channels]
    raw = [f'raw "{s.name}"' for s in LATENT_SPACES.values() if s.raw_channels == channels != s.channels]
    if not owners and not raw:
        return f"No space has latents of {channels} channels."
    return f"{channels} channels is what {', '.join(owners + raw)} latents have."

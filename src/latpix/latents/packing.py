"""Packing: the order in which FLUX.1, Qwen-Image and FLUX.2 lay out a latent's cells as tokens.

    patchify   channel c, cell (side*i + dy, side*j + dx)   ->   channel c*side^2 + dy*side + dx, cell (i, j)
    pack       patchify, then cell (i, j) -> token i*columns + j

A token of flux1 and qwen holds 2x2 cells; one of flux2 holds one cell, which is itself 2x2 cells of the raw latent. The
other spaces' pipelines do not pack.

Letters: b batch, c channels, h and w cells, n tokens, k values of a token.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.errors import LatentError
from latpix.latents.spaces import LATENT_SPACES, LatentSpace


def patchify(cells: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c2 h2 w2"]:
    """Fold ``side`` x ``side`` cells into the channels of one."""
    return F.pixel_unshuffle(cells, side)


def unpatchify(cells: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c2 h2 w2"]:
    """The inverse of ``patchify``."""
    return F.pixel_shuffle(cells, side)


def pack(latent: Tensor, space: LatentSpace) -> Float[Tensor, "b n k"]:
    """A latent ``[b, c, h, w]`` as the tokens that the space's pipelines work on.

    Raises:
        LatentError: the space's pipelines do not pack, or the latent is not one of the space.
    """
    side = _token_side(space)
    if latent.ndim != 4 or latent.shape[1] != space.channels or latent.shape[2] % side or latent.shape[3] % side:
        even = " with even h and w" if side == 2 else ""
        raise LatentError(
            f'the latent has shape {list(latent.shape)}, but what is packed in space "{space.name}" is '
            f"[b, {space.channels}, h, w]{even}."
        )
    return patchify(latent, side).flatten(2).transpose(1, 2)  # [b, n, k]


def unpack(tokens: Tensor, space: LatentSpace, *, height: int, width: int) -> Float[Tensor, "b c h w"]:
    """The inverse of ``pack``.

    Args:
        tokens: ``[b, n, k]``, as a pipeline holds them.
        space: of which the tokens are.
        height: of the native picture in pixels, as the pipeline was called with; a remainder of 16 is dropped.
        width: the same across.

    Raises:
        LatentError: the space's pipelines do not pack, or the tokens do not make a latent of that size.
    """
    side = _token_side(space)
    size = space.channels * side**2
    rows, columns = (length // (space.downsample * side) for length in (height, width))
    if tokens.ndim != 3 or tokens.shape[2] != size:
        raise LatentError(
            f"the tokens have shape {list(tokens.shape)}, but packed latents of space "
            f'"{space.name}" are [b, n, {size}].'
        )
    if tokens.shape[1] != rows * columns:
        raise LatentError(
            f"there are {tokens.shape[1]} tokens, but a picture of {width}x{height} pixels has "
            f'{columns}x{rows} = {rows * columns} in space "{space.name}". '
            "Give the size that the pipeline was called with."
        )
    patches = tokens.transpose(1, 2).unflatten(2, (rows, columns))  # [b, k, rows, columns]
    return unpatchify(patches, side)


def _token_side(space: LatentSpace) -> int:
    if space.token_side is None:
        packed = ", ".join(row.name for row in LATENT_SPACES.values() if row.token_side is not None)
        raise LatentError(
            f'latents of space "{space.name}" are never packed: its pipelines hold [b, {space.channels}, h, w]. '
            f"Packed are {packed}."
        )
    return space.token_side

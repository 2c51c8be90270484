"""Work in pieces: what is independent per token is done for some tokens at a time, and in place.

Training keeps every intermediate for the backward pass anyway: while gradients are recorded, one piece is everything
and nothing is overwritten. Numbers are the same either way, up to the order in which a product of other shape adds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """How much is worked on at a time; less takes less memory and reads weights more often."""

    tokens: int = 2048  # of the patch path
    patches: int = 1024  # of the pixel path
    pixels: int = 64  # of each of these patches, where pixels are apart
    keep_features: bool = True  # False: each gate makes its latent features from the latent's tokens at every step


def cut(count: int, size: int) -> list[slice]:
    """``count`` tokens in pieces of ``size``; a single one while gradients are recorded."""
    if torch.is_grad_enabled():
        return [slice(0, count)]
    size = max(1, size)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def add(x: Float[Tensor, "*n d"], y: Float[Tensor, "*#n d"]) -> Float[Tensor, "*n d"]:
    """x + y, in x's own memory where no gradient is recorded: only for an x that nobody else reads."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def add_gated(
    x: Float[Tensor, "*n d"], gate: Float[Tensor, "*#n d"], y: Float[Tensor, "*n d"]
) -> Float[Tensor, "*n d"]:
    """x + gate * y, in the memory of both where no gradient is recorded: only for x and y that nobody else reads."""
    return x + gate * y if torch.is_grad_enabled() else x.add_(y.mul_(gate))


def join(parts: Iterable[tuple[Tensor, ...]], *lengths: int, dim: int = 1) -> tuple[Tensor, ...]:
    """Columns of pieces, joined along a dimension.

    Args:
        parts: the pieces, in order; one of each column at a time. Made when they are asked for, so that without
            gradients a piece is written to its place before the next one exists.
        lengths: of each column's result; without them, or with gradients, the pieces are collected first.
    """
    if torch.is_grad_enabled() or not lengths:
        columns = list(zip(*parts, strict=True))
        return tuple(column[0] if len(column) == 1 else torch.cat(column, dim) for column in columns)
    joined: list[Tensor] = []
    filled = [0] * len(lengths)
    for part in parts:
        if not joined:
            shapes = [(*x.shape[:dim], n, *x.shape[dim + 1 :]) for x, n in zip(part, lengths, strict=True)]
            joined = [x.new_empty(shape) for x, shape in zip(part, shapes, strict=True)]
        for k, x in enumerate(part):
            joined[k].narrow(dim, filled[k], x.shape[dim]).copy_(x)
            filled[k] += x.shape[dim]
    return tuple(joined)

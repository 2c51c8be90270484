"""Rotary position tables and the rotation of queries and keys.

Adjacent channel pairs (2j, 2j+1) turn by angle a_j:  (re, im) -> (re cos a - im sin a, re sin a + im cos a).
Source: Su et al. 2021, eq. 34. In two dimensions, columns and rows take turns, column first; positions always span
0..16, whatever the grid, and the base grows with the grid's side over a reference (NTK-aware scaling, per axis). All
tables are float32, no device but the caller's.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 10000.0
SPAN = 16.0  # positions run from 0 to this, end points included


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of the angles of n tokens, [n, d/2] each."""

    cos: Float[Tensor, "n half"]
    sin: Float[Tensor, "n half"]


def grid_rotation(
    rows: int,
    columns: int,
    head_width: int,
    *,
    reference: tuple[int, int] | None = None,
    device: torch.device | None = None,
) -> Rotation:
    """Angles of a grid of patches, row-major.

    Args:
        rows, columns: the grid, in patches.
        head_width: channels of an attention head, divisible by 4.
        reference: rows and columns of the grid at which the base is 10000 on both axes; None keeps it there everywhere.

    Source: NTK-aware base, theta = 10000 (n / reference)^(a / (a - 2)), with a = head_width / 2 channels per axis.
    """
    assert head_width % 4 == 0, f"head width {head_width} does not divide into two axes of pairs"
    axis_width = head_width // 2

    def angles(count: int, reference_count: int) -> Float[Tensor, "count quarter"]:
        grows = reference is not None and axis_width > 2
        base = BASE * (count / reference_count) ** (axis_width / (axis_width - 2)) if grows else BASE
        k = torch.arange(head_width // 4, dtype=torch.float32, device=device)
        frequencies = base ** (-4 * k / head_width)
        return torch.linspace(0, SPAN, count, device=device)[:, None] * frequencies

    row_reference, column_reference = reference or (rows, columns)
    by_column = angles(columns, column_reference).expand(rows, columns, -1)
    by_row = angles(rows, row_reference)[:, None].expand(rows, columns, -1)
    angle = torch.stack([by_column, by_row], dim=-1).reshape(rows * columns, axis_width)  # [n, d/2], column first
    return Rotation(angle.cos(), angle.sin())


def sequence_rotation(
    length: int, head_width: int, *, theta: float = BASE, device: torch.device | None = None
) -> Rotation:
    """Angles of ``length`` caption tokens at positions 0, 1, 2, ...; made once."""
    with torch.inference_mode(False), torch.no_grad():  # whoever asks first, all may use it
        return _sequence(length, head_width, theta, device)


@lru_cache(8)
def _sequence(length: int, head_width: int, theta: float, device: torch.device | None) -> Rotation:
    j = torch.arange(head_width // 2, dtype=torch.float32, device=device)
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angle = positions[:, None] * theta ** (-2 * j / head_width)  # [n, d/2]
    return Rotation(angle.cos(), angle.sin())


def rotate(x: Float[Tensor, "b n heads d"], rotation: Rotation) -> Float[Tensor, "b n heads d"]:
    """Turn queries or keys by their token's angles; float32 inside, ``x``'s type outside."""
    pairs, cos, sin = x.float().unflatten(-1, (-1, 2)), rotation.cos[:, None], rotation.sin[:, None]  # [n, 1, d/2]
    if torch.compiler.is_compiling():  # what it makes is as quick, and it cannot make complex products
        re, im = pairs.unbind(-1)  # [b, n, heads, d/2] each
        return torch.stack([re * cos - im * sin, re * sin + im * cos], dim=-1).flatten(-2).to(x.dtype)
    turned = torch.view_as_complex(pairs) * torch.complex(cos, sin)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)

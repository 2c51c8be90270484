"""Noise as a function of (seed, draw, absolute pixel): no state, the same in every batch and on every rank.

Each pixel has its own counter (column, row, draw, channel group) under the seed's key. Ten rounds of Philox turn it
into four 32-bit words, and the Box-Muller transform turns those into four normals: one per channel of a group.
Source: Philox4x32-10, Salmon et al. 2011 (SC'11), section 3.3; Box & Muller 1958.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

LATENT_DRAW = 2**32 - 1  # the draw that noises latents; decodes count theirs from 0

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF
_BAND = 1 << 15  # counters worked on at a time: their words stay in a CPU's cache

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Four random 32-bit words per counter; words are held in int64, whose products wrap to the right low 64 bits."""
    a, b, c, d = counter
    low_key, high_key = key
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            ((second >> 32) & _WORD) ^ b ^ low_key,
            second & _WORD,
            ((first >> 32) & _WORD) ^ d ^ high_key,
            first & _WORD,
        )
        low_key, high_key = (low_key + _WEYL[0]) & _WORD, (high_key + _WEYL[1]) & _WORD
    return a, b, c, d


def normals(
    seed: int,
    draw: int,
    channels: int,
    height: int,
    width: int,
    *,
    top: int = 0,
    left: int = 0,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "c h w"]:
    """Standard normals of one draw, for the pixels from (top, left) on; any part equals that part of the whole.

    Args:
        seed: any integer; its low 64 bits count.
        draw: number of the draw, 0 to 2^32 - 1.
        channels, height, width: of the part asked for.
        top, left: absolute position of its first pixel.
    """
    key = (seed & _WORD, (seed >> 32) & _WORD)
    rows = torch.arange(top, top + height, device=device)
    columns = torch.arange(left, left + width, device=device)
    groups = torch.arange(-(-channels // 4), device=device)
    band = max(1, _BAND // (width * len(groups)))
    field = torch.empty(channels, height, width, device=device)
    for start, part in zip(range(0, height, band), rows.split(band), strict=True):
        field[:, start : start + band] = _band(key, draw, groups, part, columns)[:channels]
    return field


def _band(
    key: tuple[int, int], draw: int, groups: Int[Tensor, " g"], rows: Int[Tensor, " h"], columns: Int[Tensor, " w"]
) -> Float[Tensor, "c h w"]:
    group, row, column = torch.meshgrid(groups, rows, columns, indexing="ij")
    words = philox((column, row, torch.full_like(column, draw), group), key)
    u = [(word.float() + 0.5) * 2**-32 for word in words]  # in (0, 1]
    radii = [torch.sqrt(-2 * torch.log(u[i])) for i in (0, 2)]
    angles = [2 * torch.pi * u[i] for i in (1, 3)]
    pairs = [f(angle) * radius for radius, angle in zip(radii, angles, strict=True) for f in (torch.cos, torch.sin)]
    return torch.stack(pairs, dim=1).flatten(0, 1)  # [4 g, h, w]


def noise_field(
    seeds: Sequence[int], channels: int, height: int, width: int, *, device: torch.device | str = "cpu"
) -> Callable[[int], Float[Tensor, "b c h w"]]:
    """The noise of a batch, one seed per picture: a function of the draw number."""

    def noise(draw: int) -> Float[Tensor, "b c h w"]:
        fields = [normals(seed, draw, channels, height, width, device=device) for seed in seeds]
        return fields[0][None] if len(fields) == 1 else torch.stack(fields)

    return noise

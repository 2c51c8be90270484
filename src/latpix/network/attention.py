"""Multi-head attention over tokens, whole or in windows of the patch grid.

Scale is head_width^-0.5; no mask but the one that hides the padding of windows at the border; no dropout.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latpix.network.pieces import cut, join
from latpix.network.rope import Rotation, grid_rotation, rotate

GROUP = 16  # windows that attend together where no gradient is recorded
# Tables that are kept: of positions, each of a size; of windows, each of a size and a place in a window, so that tiles
# of a picture, steps and pictures share theirs.
TABLES, PLACES = 8, 32

Heads = Float[Tensor, "b n heads k"]
SeenHeads = Float[Tensor, "b m heads k"]  # keys and values, of which there may be more than queries


def attend(
    q: Heads, k: SeenHeads, v: SeenHeads, mask: Bool[Tensor, "b 1 1 m"] | None = None
) -> Float[Tensor, "b n width"]:
    """Scaled dot-product attention in ``v``'s type; heads merged. ``mask`` is true where a key may be seen."""
    q, k, v = (x.transpose(1, 2) for x in (q.to(v.dtype), k.to(v.dtype), v))  # [b, heads, n, d]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Windows:
    """A patch grid cut into square windows, the cut moved by half a window in every other block.

    Each window is placed like a whole picture of the trained grid, so positions never leave what training saw, cost and
    memory are linear in the picture's area, and a picture's far side changes nothing. Source: Liu et al. 2021 (Swin),
    section 3.2, with padded instead of wrapped borders.
    """

    index: Int[Tensor, "windows area"]  # of the patch at each place of each window; 0 where there is none
    inside: Bool[Tensor, "windows area"]  # false in the padding
    place: Int[Tensor, " n"]  # of each patch among the windows' places, flattened
    padded: bool  # some place holds no patch; known without asking the device
    first: int = 0  # patch that this process has queries of; others it has keys and values of only

    def split(self, x: Float[Tensor, "b n *rest"]) -> Float[Tensor, "b_windows area *rest"]:
        return x[:, self.index].flatten(0, 1)

    def split_queries(self, q: Float[Tensor, "b n *rest"]) -> Float[Tensor, "b_windows area *rest"]:
        """At the places of others' patches stands one of this process's own, to fill the window."""
        return q[:, (self.index - self.first).clamp(0, q.shape[1] - 1)].flatten(0, 1)

    def own(self, count: int) -> Bool[Tensor, "windows area"]:
        """Where the ``count`` patches are whose queries this process has."""
        return self.inside & (self.index >= self.first) & (self.index < self.first + count)

    def merge(self, x: Float[Tensor, "b_windows area width"], batch: int) -> Float[Tensor, "b n width"]:
        return x.unflatten(0, (batch, -1)).flatten(1, 2)[:, self.place]

    def groups(self, size: int) -> Iterator["Windows"]:
        """The same windows, ``size`` at a time; ``place`` is not theirs."""
        for some in cut(len(self.index), size):
            yield replace(self, index=self.index[some], inside=self.inside[some])

    def mask(self, batch: int) -> Bool[Tensor, "b_windows 1 1 area"] | None:
        return self.inside.repeat(batch, 1)[:, None, None] if self.padded else None


def cut_windows(
    rows: int,
    columns: int,
    side: int,
    *,
    shift: int,
    origin: tuple[int, int] = (0, 0),
    device: torch.device | None = None,
) -> Windows:
    """Windows of ``side`` x ``side`` patches; the picture's first one starts ``shift`` patches above and left of it.

    Of a part of the picture, from the patch at ``origin`` (row, column) on, they are the whole picture's windows.
    """
    above, left = ((shift + start) % side for start in origin)  # patches that the first window has outside
    down, across = -(-(rows + above) // side), -(-(columns + left) // side)
    row = torch.arange(down * side, device=device) - above
    column = torch.arange(across * side, device=device) - left
    index = row[:, None] * columns + column
    inside = ((row >= 0) & (row < rows))[:, None] & ((column >= 0) & (column < columns))

    def windowed(grid: Tensor) -> Tensor:
        return grid.reshape(down, side, across, side).transpose(1, 2).reshape(down * across, side * side)

    index, inside = windowed(index), windowed(inside)
    row, column = (torch.arange(n, device=device) + outside for n, outside in ((rows, above), (columns, left)))
    window = (row // side)[:, None] * across + column // side
    place = (window * side + (row % side)[:, None]) * side + column % side
    padded = (down * side, across * side) != (rows, columns)
    return Windows(index.where(inside, 0), inside, place.flatten(), padded)


@dataclass(frozen=True)
class Scope:
    """What image attention may see in one block, and where its tokens are: made once per picture size."""

    rotation: Rotation  # of every patch; of every place in a window, where attention has windows
    windows: Windows | None = None
    # Where processes share a picture's patches: from this one's keys or values to those of all, in their order; so many
    # first ones are everybody's.
    everyone: Callable[[Tensor, int], Tensor] | None = None

    def rotation_of(self, rows: slice) -> Rotation:
        """That of the patches ``rows``."""
        at: slice | Tensor = rows
        if self.windows is not None:
            at = self.windows.place[rows] % self.windows.index.shape[1]
        return Rotation(self.rotation.cos[at], self.rotation.sin[at])

    def turn(self, x: Heads, rows: slice) -> Heads:
        """Rotate queries or keys of the patches ``rows``."""
        return rotate(x, self.rotation_of(rows))

    def attend_joined(
        self, parts: Iterable[tuple[Heads, Heads, Heads]], queries: int, keys: int, *, before: int = 0
    ) -> Float[Tensor, "b n width"]:
        """Self-attention of tokens that come in pieces, keys and values of which other processes may have more.

        Args:
            parts: queries, keys and values of some tokens at a time, the first two rotated.
            queries, keys: how many there are together.
            before: of the keys, those of no patch, which come first.
        """
        q, k, v = join(parts, queries, keys, keys)
        k = self.seen(k, before)  # one after the other: then a process's own keys are gone
        v = self.seen(v, before)
        return self.attend(q, k, v)

    def attend(self, q: Heads, k: SeenHeads, v: SeenHeads) -> Float[Tensor, "b n width"]:
        """Self-attention of image tokens, whose queries and keys are rotated."""
        if self.windows is None:
            return attend(q, k, v)
        windows, (batch, n) = self.windows, q.shape[:2]
        if torch.is_grad_enabled():
            found = attend(windows.split_queries(q), windows.split(k), windows.split(v), windows.mask(batch))
            return windows.merge(found, batch)
        out = torch.empty_like(q, dtype=v.dtype)
        for some in windows.groups(max(1, GROUP // batch)):
            found = attend(some.split_queries(q), some.split(k), some.split(v), some.mask(batch))
            found = found.unflatten(0, (batch, -1)).unflatten(-1, q.shape[2:])  # [b, windows, area, heads, k]
            own = some.own(n)
            out[:, some.index[own] - some.first] = found[:, own]
        return out.flatten(2)

    def seen(self, x: Heads, before: int = 0) -> SeenHeads:
        """The keys or values that queries see: those of the whole picture, after so many that are everybody's."""
        return x if self.everyone is None else self.everyone(x, before)


def make_scopes(
    rows: int,
    columns: int,
    head_width: int,
    *,
    reference: tuple[int, int] | None,
    window: int | None,
    origin: tuple[int, int] = (0, 0),
    device: torch.device | None = None,
) -> tuple[Scope, Scope]:
    """The scopes that even and odd blocks use; the same one twice where attention sees the whole picture.

    ``origin``: of ``cut_windows``; without windows a part of a picture is placed like a whole one.
    """
    with torch.inference_mode(False), torch.no_grad():  # whoever asks first, all may use it
        if window is None:
            scope = _whole(rows, columns, head_width, reference, device)
            return scope, scope
        within = (origin[0] % window, origin[1] % window)  # whole windows further on are none
        return _in_windows(rows, columns, head_width, reference, window, within, device)


@lru_cache(TABLES)
def _whole(
    rows: int, columns: int, head_width: int, reference: tuple[int, int] | None, device: torch.device | None
) -> Scope:
    return Scope(grid_rotation(rows, columns, head_width, reference=reference, device=device))


@lru_cache(PLACES)
def _in_windows(
    rows: int,
    columns: int,
    head_width: int,
    reference: tuple[int, int] | None,
    window: int,
    origin: tuple[int, int],
    device: torch.device | None,
) -> tuple[Scope, Scope]:
    rotation = grid_rotation(window, window, head_width, reference=reference, device=device)
    even, odd = (
        cut_windows(rows, columns, window, shift=shift, origin=origin, device=device) for shift in (0, window // 2)
    )
    return Scope(rotation, even), Scope(rotation, odd)

"""A block of the pixel path: every pixel has its own modulation; attention runs at patch granularity.

    m = modulation(s)                        six vectors per pixel
    z = expand(attention(compress(mod(norm1(q), shift1, scale1))))
    q = q + gate1 * z;   q = q + gate2 * MLP(mod(norm2(q), shift2, scale2))

Source: PixelDiT's pixel-level DiT block. Letters: b batch, n patches, p pixels of a patch,
e pixel width, d patch width, a attention width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.attention import Heads, Scope
from latpix.network.layers import MLP
from latpix.network.pieces import Pieces, add_gated, cut
from latpix.network.precision import Linear, RMSNorm


class PixelBlock(nn.Module):
    """One block, with the module's equations. Everything but the attention is independent per patch."""

    def __init__(self, pixel_width: int, patch_area: int, width: int, attention_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.shape = (patch_area, 6, pixel_width)
        self.modulation = Linear(width, 6 * pixel_width * patch_area)
        self.norm1 = RMSNorm(pixel_width)
        self.compress = Linear(patch_area * pixel_width, attention_width)
        self.qkv = Linear(attention_width, 3 * attention_width, bias=False)
        self.q_norm = RMSNorm(attention_width // heads)
        self.k_norm = RMSNorm(attention_width // heads)
        self.out = Linear(attention_width, attention_width)
        self.expand = Linear(attention_width, patch_area * pixel_width)
        self.norm2 = RMSNorm(pixel_width)
        self.mlp = MLP(pixel_width)

    def forward(
        self, pixels: Float[Tensor, "bn p e"], patches: Float[Tensor, "b n d"], scope: Scope, pieces: Pieces
    ) -> Float[Tensor, "bn p e"]:
        """The tokens after the block; without gradients they stand where they stood before."""
        batch, n = patches.shape[:2]
        tokens = pixels.unflatten(0, (batch, n))  # [b, n, p, e]
        rows = cut(n, pieces.patches // batch)
        attended = scope.attend_joined(self._heads(tokens, patches, scope, rows), n, n)  # [b, n, a]
        if torch.is_grad_enabled():
            attended = self.out(attended)
        else:
            for r in rows:
                attended[:, r] = self.out(attended[:, r])
        for some in cut(tokens.shape[2], pieces.pixels):
            modulators, expand = self._modulators(slice(2, 6), some), self._expansion(some)
            for r in rows:
                done = self._follow(tokens[:, r, some], expand(attended[:, r]), modulators(patches[:, r]))
        return done.flatten(0, 1) if torch.is_grad_enabled() else pixels

    def _heads(
        self, pixels: Float[Tensor, "b n p e"], patches: Float[Tensor, "b n d"], scope: Scope, rows: list[slice]
    ) -> Iterator[tuple[Heads, Heads, Heads]]:
        """Queries, keys and values of some patches at a time, rotated, in the values' type."""
        modulators = self._modulators(slice(0, 2))
        for r in rows:
            tokens = self._compress(pixels[:, r], modulators(patches[:, r]))
            q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [b, m, heads, a/heads] each
            q, k = (scope.turn(norm(x), r).to(v.dtype) for norm, x in ((self.q_norm, q), (self.k_norm, k)))
            yield q, k, v

    def _modulators(self, groups: slice, pixels: slice = slice(None)) -> "Part":
        """The part of the modulation that yields ``groups`` of shift1, scale1, gate1, shift2, scale2, gate2.

        A copy of its weights, as they do not lie together: in an order that lets a group's numbers do.
        """

        def pick(outputs: Tensor) -> Tensor:
            return outputs.unflatten(0, self.shape)[pixels, groups].transpose(0, 1).flatten(0, 2)

        count = len(range(*groups.indices(self.shape[1])))
        return Part(*self.modulation.some(pick), (count, -1, self.shape[2]))

    def _expansion(self, pixels: slice) -> "Part":
        """The part of ``expand`` that yields some of a patch's pixels, whose weights do lie together."""
        e = self.shape[2]
        start, stop, _ = pixels.indices(self.shape[0])
        return Part(*self.expand.some(lambda outputs: outputs[start * e : stop * e]), (-1, e))

    def _compress(
        self, pixels: Float[Tensor, "b m p e"], modulation: Float[Tensor, "b m 2 p e"]
    ) -> Float[Tensor, "b m a"]:
        shift, scale = modulation.unbind(2)
        return self.compress(self.norm1(pixels, shift, scale).flatten(2))

    def _follow(
        self, pixels: Float[Tensor, "b m p e"], z: Float[Tensor, "b m p e"], modulation: Float[Tensor, "b m 4 p e"]
    ) -> Float[Tensor, "b m p e"]:
        """Both residuals, in the pixels' own memory where no gradient is recorded."""
        gate1, shift2, scale2, gate2 = modulation.unbind(2)
        pixels = add_gated(pixels, gate1, z)
        return add_gated(pixels, gate2, self.mlp(self.norm2(pixels, shift2, scale2)))


class Part:
    """Some outputs of a linear layer, in a shape of their own."""

    def __init__(self, weight: Float[Tensor, "k d"], bias: Float[Tensor, " k"] | None, shape: tuple[int, ...]) -> None:
        self.weight, self.bias, self.shape = weight, bias, shape

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "..."]:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).unflatten(-1, self.shape)

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
from latpix.network.layers import MLP, modulate
from latpix.network.pieces import Pieces, add, cut
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
        pixel_parts = cut(tokens.shape[2], pieces.pixels)
        after = [self._modulators(slice(2, 6), some) for some in pixel_parts]
        done = []
        for r in rows:
            z = self.expand(self.out(attended[:, r])).unflatten(-1, tokens.shape[2:])  # [b, m, p, e]
            for some, modulators in zip(pixel_parts, after, strict=True):
                done.append(self._follow(tokens[:, r, some], z[:, :, some], modulators(patches[:, r])))
        return done[0].flatten(0, 1) if torch.is_grad_enabled() else pixels

    def _heads(
        self, pixels: Float[Tensor, "b n p e"], patches: Float[Tensor, "b n d"], scope: Scope, rows: list[slice]
    ) -> Iterator[tuple[Heads, Heads, Heads]]:
        """Queries, keys and values of some patches at a time, rotated, in the values' type."""
        before = self._modulators(slice(0, 2))
        for r in rows:
            tokens = self._compress(pixels[:, r], before(patches[:, r]))
            q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [b, m, heads, a/heads] each
            q, k = (scope.turn(norm(x), r).to(v.dtype) for norm, x in ((self.q_norm, q), (self.k_norm, k)))
            yield q, k, v

    def _compress(
        self, pixels: Float[Tensor, "b m p e"], modulation: Float[Tensor, "b m p 2 e"]
    ) -> Float[Tensor, "b m a"]:
        shift, scale = modulation.unbind(3)
        return self.compress(modulate(self.norm1(pixels), shift, scale).flatten(2))

    def _modulators(self, groups: slice, pixels: slice = slice(None)) -> "Modulators":
        """The part of the modulation that yields ``groups`` of shift1, scale1, gate1, shift2, scale2, gate2."""
        weight = self.modulation.weight.unflatten(0, self.shape)[pixels, groups]  # [p, groups, e, d]
        bias = self.modulation.bias.unflatten(0, self.shape)[pixels, groups]
        return Modulators(weight.flatten(0, 2), bias.flatten(), (len(weight), -1, self.shape[2]))

    def _follow(
        self, pixels: Float[Tensor, "b n p e"], z: Float[Tensor, "b n p e"], modulation: Float[Tensor, "b n p 4 e"]
    ) -> Float[Tensor, "b n p e"]:
        """Both residuals, in the pixels' own memory where no gradient is recorded."""
        gate1, shift2, scale2, gate2 = modulation.unbind(3)
        pixels = add(pixels, gate1 * z)
        return add(pixels, gate2 * self.mlp(modulate(self.norm2(pixels), shift2, scale2)))


class Modulators:
    """Some of a pixel block's six modulation vectors, as a function of the patch's condition."""

    def __init__(self, weight: Float[Tensor, "k d"], bias: Float[Tensor, " k"], shape: tuple[int, int, int]) -> None:
        self.weight, self.bias, self.shape = weight, bias, shape

    def __call__(self, condition: Float[Tensor, "*n d"]) -> Float[Tensor, "*n p groups e"]:
        out = F.linear(condition.to(self.weight.dtype), self.weight, self.bias)
        return out.unflatten(-1, self.shape)

"""A block of the pixel path: every pixel has its own modulation; attention runs at patch granularity.

    m = modulation(s)                        six vectors per pixel
    z = expand(attention(compress(mod(norm1(q), shift1, scale1))))
    q = q + gate1 * z;   q = q + gate2 * MLP(mod(norm2(q), shift2, scale2))

Source: PixelDiT's pixel-level DiT block. Letters: b batch, n patches, p pixels of a patch,
e pixel width, d patch width, a attention width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.attention import Scope
from latpix.network.layers import MLP, modulate
from latpix.network.precision import Linear, RMSNorm

# Everything but the attention is independent per patch, so inference works on this many patches at a time: the
# modulators are 6 e p numbers per patch, more than all else together. Narrow networks like pieces that stay in a
# CPU's cache; wide ones must reread a large weight for every piece.
CHUNK_NARROW, CHUNK_WIDE, WIDE = 128, 1024, 384


class PixelBlock(nn.Module):
    """One block, with the module's equations; inference works through the patches in chunks."""

    def __init__(self, pixel_width: int, patch_area: int, width: int, attention_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.chunk = CHUNK_NARROW if width <= WIDE else CHUNK_WIDE
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
        self, pixels: Float[Tensor, "bn p e"], patches: Float[Tensor, "b n d"], scope: Scope
    ) -> Float[Tensor, "bn p e"]:
        flat = patches.flatten(0, 1)  # [bn, d]
        chunk = len(flat) if torch.is_grad_enabled() else self.chunk
        pieces = list(zip(pixels.split(chunk), flat.split(chunk), strict=True))
        before, after = self._modulators(slice(0, 2)), self._modulators(slice(2, 6))
        compressed = torch.cat([self._compress(q, before(s)) for q, s in pieces])  # [bn, a]
        attended = self._attend(compressed.unflatten(0, patches.shape[:2]), scope)  # [bn, a]
        rest = zip(pieces, attended.split(chunk), strict=True)
        return torch.cat([self._expand(q, z, after(s)) for (q, s), z in rest])

    def _modulators(self, groups: slice) -> "Modulators":
        """The part of the modulation that yields ``groups`` of shift1, scale1, gate1, shift2, scale2, gate2."""
        weight = self.modulation.weight.unflatten(0, self.shape)[:, groups].flatten(0, 2)
        bias = self.modulation.bias.unflatten(0, self.shape)[:, groups].flatten()
        return Modulators(weight, bias, (self.shape[0], -1, self.shape[2]))

    def _compress(self, pixels: Float[Tensor, "m p e"], modulation: Float[Tensor, "m p 2 e"]) -> Float[Tensor, "m a"]:
        shift, scale = modulation.unbind(2)
        return self.compress(modulate(self.norm1(pixels), shift, scale).flatten(1))

    def _attend(self, tokens: Float[Tensor, "b n a"], scope: Scope) -> Float[Tensor, "bn a"]:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [b, n, heads, a/heads] each
        return self.out(scope.attend(self.q_norm(q), self.k_norm(k), v)).flatten(0, 1)

    def _expand(
        self, pixels: Float[Tensor, "m p e"], attended: Float[Tensor, "m a"], modulation: Float[Tensor, "m p 4 e"]
    ) -> Float[Tensor, "m p e"]:
        gate1, shift2, scale2, gate2 = modulation.unbind(2)
        pixels = pixels + gate1 * self.expand(attended).unflatten(-1, pixels.shape[1:])
        return pixels + gate2 * self.mlp(modulate(self.norm2(pixels), shift2, scale2))


class Modulators:
    """Some of a pixel block's six modulation vectors, as a function of the patch's condition."""

    def __init__(self, weight: Float[Tensor, "k d"], bias: Float[Tensor, " k"], shape: tuple[int, int, int]) -> None:
        self.weight, self.bias, self.shape = weight, bias, shape

    def __call__(self, condition: Float[Tensor, "m d"]) -> Float[Tensor, "m p groups e"]:
        out = torch.nn.functional.linear(condition.to(self.weight.dtype), self.weight, self.bias)
        return out.unflatten(-1, self.shape)

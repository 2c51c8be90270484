"""A block of the patch path: patch and caption tokens attend jointly, steered by time.

    X = mod(norm1(h), shift1, scale1);   h = h + gate1 * out(attention);   h = h + gate2 * SwiGLU(mod(norm2(h), ...))

and the same for the caption's tokens with weights of their own. Source: MM-DiT, Esser et al. 2024, figure 2.
Letters: b batch, n patch tokens, l caption tokens, d width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.attention import Heads, Scope
from latpix.network.layers import SwiGLU
from latpix.network.pieces import Pieces, add_gated, cut
from latpix.network.precision import Linear, RMSNorm
from latpix.network.rope import Rotation, rotate
from latpix.network.time_table import Steer


class Stream(nn.Module):
    """The weights of one kind of token in a patch block; the attention between kinds is the block's."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = Linear(width, 6 * width)
        self.norm1 = RMSNorm(width)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(width // heads)
        self.k_norm = RMSNorm(width // heads)
        self.out = Linear(width, width)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width, mlp_width)

    def steer(self, time: Float[Tensor, "b 1 d"]) -> Steer:
        """How time steers this stream."""
        return self.modulation(time).chunk(6, dim=-1)

    def project(self, tokens: Float[Tensor, "b n d"], steer: Steer) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values; queries and keys are normed but not rotated yet."""
        qkv = self.qkv(self.norm1(tokens, steer[0], steer[1]))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)  # [b, n, heads, d/heads] each
        return self.q_norm(q), self.k_norm(k), v

    def answer(self, tokens: Float[Tensor, "b n d"], steer: Steer) -> tuple[Heads, Heads]:
        """The keys and values alone, for tokens that nobody reads afterwards."""
        weight, _ = self.qkv.some(lambda outputs: outputs[len(outputs) // 3 :])
        kv = F.linear(self.norm1(tokens, steer[0], steer[1]).to(weight.dtype), weight)
        k, v = kv.unflatten(-1, (2, self.heads, -1)).unbind(2)  # [b, n, heads, d/heads] each
        return self.k_norm(k), v

    def follow(
        self, tokens: Float[Tensor, "b n d"], attended: Float[Tensor, "b n d"], steer: Steer
    ) -> Float[Tensor, "b n d"]:
        """Both residuals, in the tokens' own memory where no gradient is recorded."""
        _, _, gate1, shift2, scale2, gate2 = steer
        tokens = add_gated(tokens, gate1, self.out(attended))
        return add_gated(tokens, gate2, self.mlp(self.norm2(tokens, shift2, scale2)))


class PatchBlock(nn.Module):
    """Joint attention and two feed-forwards; without a caption stream, plain self-attention and one.

    Args:
        width: d, of the tokens.
        heads: of the attention.
        mlp_width: hidden width of the feed-forwards.
        caption: has a caption stream.
        last: nobody reads its caption tokens; a decode does not make them. Their weights are in the files all the same.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, *, caption: bool = True, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.image = Stream(width, heads, mlp_width)
        self.caption = Stream(width, heads, mlp_width) if caption else None

    @property
    def streams(self) -> list[Stream]:
        """The image's, then the caption's where there is one."""
        return [self.image] if self.caption is None else [self.image, self.caption]

    def forward(
        self,
        image: Float[Tensor, "b n d"],
        caption: Float[Tensor, "b l d"] | None,
        time: Float[Tensor, "b 1 d"] | list[Steer],
        scope: Scope,
        caption_rotation: Rotation | None,
        pieces: Pieces,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b l d"] | None]:
        """The tokens after the block; without gradients the image's stand where they stood before.

        ``time``, or how it steers each of ``streams``.
        """
        n = image.shape[1]
        rows = cut(n, pieces.tokens // len(image))
        steer, *others = time if isinstance(time, list) else [stream.steer(time) for stream in self.streams]
        if self.caption is None or caption is None:
            parts = (self._image_heads(image[:, r], steer, scope.rotation_of(r)) for r in rows)
            attended = scope.attend_joined(parts, n, n)
            return self._follow(image, attended, rows, steer), None

        (caption_steer,) = others
        unread = self.last and not torch.is_grad_enabled()
        asking = 0 if unread else caption.shape[1]  # caption tokens with queries; they come first

        def turned(x: Heads) -> Heads:
            return x if caption_rotation is None else rotate(x, caption_rotation)

        def heads() -> Iterator[tuple[Heads, Heads, Heads]]:
            assert self.caption is not None
            if unread:
                k, v = self.caption.answer(caption, caption_steer)
                yield v[:, :0], turned(k).to(v.dtype), v
            else:
                q, k, v = self.caption.project(caption, caption_steer)
                yield turned(q).to(v.dtype), turned(k).to(v.dtype), v
            for r in rows:
                yield self._image_heads(image[:, r], steer, scope.rotation_of(r))

        told = caption.shape[1]
        attended = scope.attend_joined(heads(), asking + n, told + n, before=told)  # [b, asking + n, d]
        image = self._follow(image, attended[:, asking:], rows, steer)
        if unread:
            return image, caption
        own = caption if torch.is_grad_enabled() else caption.clone()  # the first block's belongs to every step
        return image, self.caption.follow(own, attended[:, :asking], caption_steer)

    def _image_heads(
        self, patches: Float[Tensor, "b m d"], steer: Steer, rotation: Rotation
    ) -> tuple[Float[Tensor, "b m heads k"], Float[Tensor, "b m heads k"], Float[Tensor, "b m heads k"]]:
        """Queries, keys and values of some patches, rotated, in the values' type."""
        q, k, v = self.image.project(patches, steer)
        return rotate(q, rotation).to(v.dtype), rotate(k, rotation).to(v.dtype), v

    def _follow(
        self, image: Float[Tensor, "b n d"], attended: Float[Tensor, "b n d"], rows: list[slice], steer: Steer
    ) -> Float[Tensor, "b n d"]:
        done = [self.image.follow(image[:, r], attended[:, r], steer) for r in rows]
        return done[0] if torch.is_grad_enabled() else image

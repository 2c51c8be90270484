"""A block of the patch path: patch and caption tokens attend jointly, steered by time.

    X = mod(norm1(h), shift1, scale1);   h = h + gate1 * out(attention);   h = h + gate2 * SwiGLU(mod(norm2(h), ...))

and the same for the caption's tokens with weights of their own. Source: MM-DiT, Esser et al. 2024, figure 2.
Letters: b batch, n patch tokens, l caption tokens, d width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.attention import Heads, Scope, attend
from latpix.network.layers import SwiGLU, modulate
from latpix.network.precision import Linear, RMSNorm
from latpix.network.rope import Rotation, rotate


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

    def project(
        self, tokens: Float[Tensor, "b n d"], shift: Float[Tensor, "b 1 d"], scale: Float[Tensor, "b 1 d"]
    ) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values; queries and keys are normed but not rotated yet."""
        qkv = self.qkv(modulate(self.norm1(tokens), shift, scale))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)  # [b, n, heads, d/heads] each
        return self.q_norm(q), self.k_norm(k), v

    def feed_forward(
        self, tokens: Float[Tensor, "b n d"], shift: Float[Tensor, "b 1 d"], scale: Float[Tensor, "b 1 d"]
    ) -> Float[Tensor, "b n d"]:
        return self.mlp(modulate(self.norm2(tokens), shift, scale))


class PatchBlock(nn.Module):
    """Joint attention and two feed-forwards; without a caption stream, plain self-attention and one."""

    def __init__(self, width: int, heads: int, mlp_width: int, *, caption: bool = True) -> None:
        super().__init__()
        self.image = Stream(width, heads, mlp_width)
        self.caption = Stream(width, heads, mlp_width) if caption else None

    def forward(
        self,
        image: Float[Tensor, "b n d"],
        caption: Float[Tensor, "b l d"] | None,
        time: Float[Tensor, "b 1 d"],
        scope: Scope,
        caption_rotation: Rotation | None,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b l d"] | None]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.image.modulation(time).chunk(6, dim=-1)  # [b, 1, d] each
        q, k, v = self.image.project(image, shift1, scale1)
        if self.caption is None or caption is None:
            image = image + gate1 * self.image.out(scope.attend(q, k, v))
            return image + gate2 * self.image.feed_forward(image, shift2, scale2), None

        c_shift1, c_scale1, c_gate1, c_shift2, c_scale2, c_gate2 = self.caption.modulation(time).chunk(6, dim=-1)
        cq, ck, cv = self.caption.project(caption, c_shift1, c_scale1)
        if caption_rotation is not None:
            cq, ck = rotate(cq, caption_rotation), rotate(ck, caption_rotation)
        q, k = rotate(q, scope.rotation), rotate(k, scope.rotation)
        pairs = ((cq, q), (ck, scope.seen(k)), (cv, scope.seen(v)))  # the caption's tokens come first
        joint = attend(*(torch.cat([c.to(i.dtype), i], dim=1) for c, i in pairs))  # [b, l + n, d]
        from_caption, from_image = joint.split([caption.shape[1], image.shape[1]], dim=1)
        image = image + gate1 * self.image.out(from_image)
        caption = caption + c_gate1 * self.caption.out(from_caption)
        image = image + gate2 * self.image.feed_forward(image, shift2, scale2)
        # In the last block nobody reads this any more; its weights are in the files all the same.
        caption = caption + c_gate2 * self.caption.feed_forward(caption, c_shift2, c_scale2)
        return image, caption

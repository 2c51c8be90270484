"""The decoder of a RAE: a plain vision transformer that turns an encoder's states into patches of pixels.

    tokens -> linear -> (bilinear, to the grid it was trained on) -> class token in front, + positions
    layer:  x <- x + attention(norm(x));  x <- x + MLP(norm(x))
    norm -> linear -> each token's patch, row-major, colour fastest

Source: masked autoencoders, He et al. 2021; RAE, Zheng et al. 2025. Sizes come from the file's shapes; the number of
heads, which no shape tells, is given. Letters: b batch, n tokens, c channels of a state, d width, p pixels per patch
side, g tokens per side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latpix.errors import CheckpointError

HEADS, EPS = 16, 1e-12  # of RAE's DINOv2 decoder; Scale-RAE's has a configuration file
_LAYER = {  # the official files' names, which are those of transformers 4, and ours
    "attention.attention.query": "query",
    "attention.attention.key": "key",
    "attention.attention.value": "value",
    "attention.output.dense": "out",
    "intermediate.dense": "up",
    "output.dense": "down",
    "layernorm_before": "norm_before",
    "layernorm_after": "norm_after",
}
_ENDS = {"decoder_embed": "enter", "decoder_norm": "norm", "decoder_pred": "leave"}
_ALONE = {"decoder_pos_embed": "positions", "trainable_cls_token": "class_token"}


class Layer(nn.Module):
    """A transformer layer that norms before each half."""

    def __init__(self, width: int, hidden: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_before = nn.LayerNorm(width, eps=eps)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm_after = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        normed = self.norm_before(x)
        split = (part(normed).unflatten(2, (self.heads, -1)) for part in (self.query, self.key, self.value))
        query, key, value = (part.transpose(1, 2) for part in split)  # [b, heads, n, d/heads]
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # [b, n, d]
        x = x + self.out(attended)
        out: Tensor = x + self.down(F.gelu(self.up(self.norm_after(x))))
        return out


class RaeDecoder(nn.Module):
    """States of a vision encoder to patches, in the encoder's normalised colours."""

    def __init__(
        self, channels: int, width: int, hidden: int, layers: int, grid: int, patch: int, heads: int, eps: float
    ) -> None:
        super().__init__()
        self.grid, self.patch = grid, patch
        self.enter = nn.Linear(channels, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, grid**2 + 1, width))
        self.layers = nn.ModuleList(Layer(width, hidden, heads, eps) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.leave = nn.Linear(width, 3 * patch**2)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], *, heads: int = HEADS, eps: float = EPS, name: str = "the file") -> Self:
        """The network of an official file's tensors, frozen, loaded strictly.

        Args:
            state: tensors under the official names.
            heads: of each attention.
            eps: of the norms.
            name: of the file, for messages.

        Raises:
            CheckpointError: tensors are missing, strange or of shapes that do not go together.
        """
        layers = len({match[1] for key in state if (match := re.match(r"decoder_layers\.(\d+)\.", key))})
        names = _names(layers)
        missing, strange = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
        if missing or strange or not layers:
            raise CheckpointError(
                f'"{name}" is no decoder of a RAE: missing {_listed(missing)}; strange {_listed(strange)}.'
            )
        ours = {names[key]: tensor for key, tensor in state.items()}
        width, channels = ours["enter.weight"].shape
        if width % heads:
            raise CheckpointError(f'"{name}" is {width} wide, which {heads} heads cannot share.')
        with torch.device("meta"):
            decoder = cls(
                channels,
                width,
                hidden=len(ours["layers.0.up.weight"]),
                layers=layers,
                grid=math.isqrt(ours["positions"].shape[1] - 1),
                patch=math.isqrt(len(ours["leave.weight"]) // 3),
                heads=heads,
                eps=eps,
            )
        expected = decoder.state_dict()
        for key, tensor in state.items():
            shape = expected[names[key]].shape
            if tensor.shape != shape:
                raise CheckpointError(f'"{name}": {key} is {list(tensor.shape)}, expected {list(shape)}.')
        decoder.load_state_dict(ours, assign=True)
        return decoder.eval().requires_grad_(False)

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n2 p"]:
        x = self._on_own_grid(self.enter(tokens))  # [b, g*g, d]
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions  # [b, 1 + g*g, d]
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.leave(self.norm(x))[:, 1:]  # [b, g*g, 3*p*p]
        return out

    def picture(self, logits: Float[Tensor, "b n p"]) -> Float[Tensor, "b 3 H W"]:
        """Patches in their places."""
        patches = logits.unflatten(2, (self.patch, self.patch, 3)).unflatten(1, (self.grid, self.grid))
        pixels: Tensor = (
            patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        )  # [b, 3, g, p, g, p] -> [b, 3, H, W]
        return pixels

    def _on_own_grid(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n2 d"]:
        side = math.isqrt(x.shape[1])
        if side == self.grid:
            return x
        cells = x.transpose(1, 2).unflatten(2, (side, side))  # [b, d, side, side]
        resized = F.interpolate(cells.float(), size=(self.grid, self.grid), mode="bilinear").to(x.dtype)
        out: Tensor = resized.flatten(2).transpose(1, 2)
        return out


def _names(layers: int) -> dict[str, str]:
    """Official names and ours, of a decoder of so many layers."""
    pairs = dict(_ENDS)
    for i in range(layers):
        pairs |= {f"decoder_layers.{i}.{theirs}": f"layers.{i}.{ours}" for theirs, ours in _LAYER.items()}
    return _ALONE | {f"{theirs}.{end}": f"{ours}.{end}" for theirs, ours in pairs.items() for end in ("weight", "bias")}


def _listed(names: list[str]) -> str:
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "none"

"""Numeric types: weights decide, activations follow.

Official inference keeps float32 parameters and runs under bfloat16 autocast. Here the same numbers come from rules of
our own, so they hold on every device: Linear and Conv weights may rest in bfloat16 and cast their input to their own
type; everything else (norm weights, caption positions, ``log_alpha``) stays float32, and type promotion does the
rest. A quantized Linear's weight rests in eight bits and is widened, when it is read, to the type its bias rests in:

    Linear, Conv, attention          weight's type in, weight's type out
    RMSNorm                          float32 arithmetic, float32 weight multiplied last: float32 out
    group and layer norm, positions, rotary tables and rotation    float32
    residual streams                 float32 from the first float32 term on (the gate's sigma term, the pixel table)

Source: what the released code computes under autocast, checked quantity by quantity in tests/network/test_precision.py.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

WIDENED = 2048  # rows of a quantized weight at a time
Pick = Callable[[Tensor], Tensor]  # from all outputs of a layer to some, along the first dimension


class Linear(nn.Linear):
    """``torch.nn.Linear`` that computes in its weight's type."""

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def some(self, pick: Pick) -> tuple[Float[Tensor, "k d_in"], Float[Tensor, " k"] | None]:
        """Weight and bias of some outputs."""
        return pick(self.weight), None if self.bias is None else pick(self.bias)


class QuantizedLinear(nn.Module):
    """``Linear`` whose weight rests in eight bits:  weight = codes * scale, with one scale for each output.

    The weight is widened each time that it is read, and gone after; the products are those of ``dtype``.
    """

    def __init__(
        self,
        codes: Shaped[Tensor, "d_out d_in"],
        scale: Float[Tensor, " d_out"],
        bias: Float[Tensor, " d_out"] | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.dtype = dtype

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        return self._widened(self.codes, self.scale)

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        return F.linear(x.to(self.dtype), self.weight, self.bias)

    def some(self, pick: Pick) -> tuple[Float[Tensor, "k d_in"], Float[Tensor, " k"] | None]:
        """Weight and bias of some outputs; only their codes are widened."""
        weight = self._widened(pick(self.codes), pick(self.scale))
        return weight, None if self.bias is None else pick(self.bias)

    def _widened(self, codes: Shaped[Tensor, "k d_in"], scale: Float[Tensor, " k"]) -> Float[Tensor, "k d_in"]:
        wide = torch.empty_like(codes, dtype=self.dtype)
        for start in range(0, len(wide), WIDENED):  # a product of two types makes float32 copies of all that it reads
            rows = slice(start, start + WIDENED)
            wide[rows] = codes[rows].float() * scale[rows, None]
        return wide


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` that computes in its weight's type."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b g h2 w2"]:
        return super().forward(x.to(self.weight.dtype))


class RMSNorm(nn.Module):
    """Scale to unit root mean square, then maybe modulate:  x * rsqrt(mean(x^2) + 1e-6) * weight * (1 + scale) + shift.

    The arithmetic is float32; the result passes through the input's type before the weight multiplies it.
    Source: Zhang & Sennrich 2019, eq. 4; for the modulation Peebles & Xie 2023, section 3.2 (adaptive layer norm).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(
        self,
        x: Float[Tensor, "*n d"],
        shift: Float[Tensor, "*#n d"] | None = None,
        scale: Float[Tensor, "*#n d"] | None = None,
    ) -> Float[Tensor, "*n d"]:
        wide = x.float()
        normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        if shift is None or scale is None:
            return normed * self.weight
        return torch.addcmul(shift, normed, self.weight * (1 + scale))  # of the tokens' passes, one


class GroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm`` in float32, whatever comes in."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return super().forward(x.float())


class LayerNorm(nn.LayerNorm):
    """``torch.nn.LayerNorm`` in float32, whatever comes in."""

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return super().forward(x.float())


RESTING = (Linear, Conv2d, QuantizedLinear)


def rest_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Let the Linear and Conv parameters of ``network`` rest in ``dtype``; everything else stays float32."""
    for module in network.modules():
        if isinstance(module, QuantizedLinear):
            module.dtype = dtype
        for name, parameter in module.named_parameters(recurse=False):
            own = _resting_dtype(module, name, dtype)
            setattr(module, name, nn.Parameter(parameter.data.to(own), requires_grad=parameter.requires_grad))


def resting_dtypes(network: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The type each parameter rests in under ``dtype``, by name: for loading tensors straight to it."""
    return {
        f"{prefix}.{name}" if prefix else name: _resting_dtype(module, name, dtype)
        for prefix, module in network.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def _resting_dtype(module: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    if isinstance(module, QuantizedLinear) and name == "codes":
        return module.codes.dtype
    if isinstance(module, QuantizedLinear) and name == "scale":
        return torch.float32
    return dtype if isinstance(module, RESTING) else torch.float32

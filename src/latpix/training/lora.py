"""Low-rank adapters: frozen linear layers learn a small difference, which is added to their weights in the end.

    y = W x + b + (alpha / rank) B A x        A [rank, in] drawn, B [out, rank] zero: fresh, they change nothing
    merged:  W + (alpha / rank) B A

Source: LoRA, Hu et al. 2021, section 4.1; rank, alpha and layers are those of the releases' training.
"""

import re
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.model import Denoiser
from latpix.network.precision import Linear

RANK, ALPHA = 32, 32
LAYERS = re.compile(  # queries, keys, values, output and feed-forward of the picture's tokens; feed-forward of pixels
    r"patch_blocks\.\d+\.image\.(qkv|out|mlp\.gate|mlp\.up|mlp\.down)|pixel_blocks\.\d+\.mlp\.(up|down)"
)
UP, DOWN = ".lora_up.weight", ".lora_down.weight"


class LowRank(nn.Module):
    """A linear layer, frozen, and its difference."""

    def __init__(self, base: Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        given, out, device = base.in_features, base.out_features, base.weight.device
        self.lora_down = Linear(given, RANK, bias=False, device=device)
        self.lora_up = Linear(RANK, out, bias=False, device=device)
        nn.init.normal_(self.lora_down.weight, std=given**-0.5)
        nn.init.zeros_(self.lora_up.weight)

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        out: Tensor = self.base(x) + ALPHA / RANK * self.lora_up(self.lora_down(x))
        return out


def add_lora(network: Denoiser) -> None:
    """Give a network's layers adapters that learn, in place."""
    for name in [name for name, _ in network.named_modules() if LAYERS.fullmatch(name)]:
        parent, _, own = name.rpartition(".")
        layer = network.get_submodule(name)
        assert isinstance(layer, Linear)
        setattr(network.get_submodule(parent), own, LowRank(layer))


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors by the names that they have without adapters, each difference added to its weight."""
    found = {name.replace(".base.", "."): tensor for name, tensor in tensors.items() if ".lora_" not in name}
    for layer in (name.removesuffix(UP) for name in tensors if name.endswith(UP)):
        difference = ALPHA / RANK * tensors[layer + UP] @ tensors[layer + DOWN]
        found[f"{layer}.weight"] = found[f"{layer}.weight"] + difference
    return found

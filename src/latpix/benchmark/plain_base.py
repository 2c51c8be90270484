"""The base decoder written out: the oracle of its tests, as ``plain.py`` is the denoiser's."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.benchmark.plain import Parameters, linear
from latpix.network.config import NetworkConfig


def conv(p: Parameters, name: str, x: Tensor) -> Tensor:
    """A convolution that keeps the size."""
    weight = p[f"{name}.weight"]
    return F.conv2d(x, weight, p[f"{name}.bias"], padding=weight.shape[-1] // 2)


@torch.no_grad()
def paint_base(
    config: NetworkConfig, parameters: Parameters, latent: Float[Tensor, "b c h w"], latent_sigma: Float[Tensor, " b"]
) -> Float[Tensor, "b 3 H W"]:
    """The whole picture at once; ``parameters`` by the names of ``Denoiser.named_parameters()``."""
    p = {
        name.removeprefix("base_decoder."): value.detach().float()
        for name, value in parameters.items()
        if name.startswith("base_decoder.")
    }
    x = native = F.pixel_shuffle(latent, config.latent_unpatchify)  # [b, u, r, q]
    deviation = (x.var((2, 3), unbiased=False) + 1e-4).sqrt()
    told = torch.cat([x.mean((2, 3)), deviation, latent_sigma[:, None]], dim=1)
    about = linear(p, "about.0", told).relu()  # [b, k]
    scale, shift = linear(p, "modulation", about)[:, :, None, None].chunk(2, dim=1)
    x = conv(p, "enter", x) * (1 + scale) + shift
    for level, blocks in enumerate(config.base_blocks):
        if level:
            x = F.pixel_shuffle(conv(p, f"up.{level - 1}", x), 2)
        for block in range(blocks):
            name = f"levels.{level}.{block}"
            scale, shift = linear(p, f"{name}.modulation", about)[:, :, None, None].chunk(2, dim=1)
            hidden = (conv(p, f"{name}.conv1", x) * (1 + scale) + shift).relu()
            x = x + conv(p, f"{name}.conv2", hidden)
        if level == 1:
            native = F.pixel_shuffle(conv(p, "native", x), 2 ** (len(config.base_widths) - 2))
    return F.interpolate(native, scale_factor=config.scale, mode="bicubic") + F.pixel_shuffle(
        conv(p, "detail", x), config.scale
    )

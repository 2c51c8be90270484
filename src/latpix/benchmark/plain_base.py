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
    about = linear(p, "told.0", latent_sigma[:, None]).relu()  # [b, k]
    scale, shift = linear(p, "modulation", about)[:, :, None, None].chunk(2, dim=1)
    x = conv(p, "enter", F.pixel_shuffle(latent, config.latent_unpatchify)) * (1 + scale) + shift  # [b, d, r, q]
    for level, blocks in enumerate(config.base_blocks):
        if level:
            x = F.pixel_shuffle(conv(p, f"up.{level - 1}", x), 2)
        for block in range(blocks):
            name = f"levels.{level}.{block}"
            if not level:
                x = x + side_branch(p, name, x)
            scale, shift = linear(p, f"{name}.modulation", about)[:, :, None, None].chunk(2, dim=1)
            hidden = (conv(p, f"{name}.conv1", x) * (1 + scale) + shift).relu()
            x = x + conv(p, f"{name}.conv2", hidden)
    native = conv(p, "native", x)
    return F.interpolate(native, scale_factor=config.scale, mode="bicubic") + F.pixel_shuffle(
        conv(p, "detail", x), config.scale
    )


def side_branch(p: Parameters, name: str, x: Tensor) -> Tensor:
    """What the blocks at 1/8 add from the whole picture: four groups of channels, each of mean 0 and deviation 1."""
    wide = F.conv2d(x, p[f"{name}.expand.weight"])
    groups = wide.unflatten(1, (4, -1))
    mean, deviation = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), unbiased=False, keepdim=True)
    normed = ((groups - mean) / (deviation + 1e-5).sqrt()).flatten(1, 2)
    weight, bias = (p[f"{name}.norm.{kind}"][:, None, None] for kind in ("weight", "bias"))
    return F.conv2d((normed * weight + bias).relu(), p[f"{name}.contract.weight"])

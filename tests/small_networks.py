"""Networks of a few thousand parameters, none of them zero, and something to feed them: every path contributes."""

import math
from dataclasses import replace

import torch

from latpix.network.config import NetworkConfig
from latpix.network.model import Denoiser

# v1's form; two patches per latent cell side, as in the released networks.
SMALL = NetworkConfig(
    latent_channels=4,
    caption_width=12,
    caption_length=6,
    patch_size=8,
    latent_downsample=4,
    width=16,
    heads=2,
    depth=3,
    rope_reference=(32, 48),
    pixel_width=4,
    pixel_attention_width=16,
    pixel_heads=2,
    latent_width=8,
    latent_depth=1,
)
SMALL_V1_5 = replace(SMALL, gate="token", pixel_gate=True, padding="replicate", latent_width=12)
# Our own small model's form: no captions, windows, detail added to a base decoder's picture.
SMALL_TINY = replace(
    SMALL_V1_5,
    caption_width=0,
    image_channels=3,
    base_widths=(6, 5, 4),
    base_blocks=(2, 1, 1),
    attention_window=2,
    rope_reference=None,
)
SMALL_TEXT = replace(SMALL, latent_channels=0)
FORMS = {"v1": SMALL, "v1.5": SMALL_V1_5, "tiny": SMALL_TINY, "text": SMALL_TEXT}


def small_network(config, seed=0):
    """A network whose every parameter is drawn, so that its output is about as large as a picture.

    Gates are mostly open and latent features large: a mistake on their way is to be seen in the output.
    """
    network = Denoiser(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if name.endswith("log_alpha"):
            parameter.copy_(0.2 * drawn)
        elif "gate" in name and name.endswith("proj.bias"):
            parameter.copy_(1 + 0.2 * drawn)
        elif name.endswith("positions"):
            parameter.copy_(drawn)
        elif parameter.ndim == 1:
            parameter.copy_(float("norm" in name and name.endswith("weight")) + 0.2 * drawn)
        else:
            gain = 0.7 if name.startswith("latent_projection") else 0.5
            parameter.copy_(gain * drawn / math.sqrt(parameter[0].numel()))
    return network


def small_inputs(config, *, grid=(4, 6), batch=2, caption_length=5, extra=0, seed=1):
    """x_t, timestep, and the condition's tensors, all by name; every picture has a time and a sigma of its own.

    ``extra`` rows are added to the latent and to the image, so that they do not fit the grid of patches.
    """
    generator = torch.Generator().manual_seed(seed)

    def normals(*shape):
        return torch.randn(*shape, generator=generator)

    height, width = (side * config.patch_size for side in grid)
    cell = config.latent_downsample * config.scale
    given = {
        "x_t": normals(batch, 3, height, width),
        "timestep": 1000 * torch.rand(batch, generator=generator),
        "latent_sigma": torch.rand(batch, generator=generator),
    }
    if config.latent_channels:
        given["latent"] = normals(batch, config.latent_channels, extra - (-height // cell), -(-width // cell))
    if config.caption_width:
        given["caption"] = normals(batch, caption_length, config.caption_width)
    if config.image_channels:
        size = (height, width) if config.base_widths else (extra + height // config.scale, width // config.scale)
        given["image"] = normals(batch, config.image_channels, *size).tanh()
    return given


def condition_of(network, given, pieces=None):
    """The network's condition for ``small_inputs``, any of which may be left out."""
    height, width = given["x_t"].shape[-2:]
    names = ("latent", "latent_sigma", "caption", "image", "keep")
    return network.condition(height=height, width=width, pieces=pieces, **{name: given.get(name) for name in names})


def call(network, given, pieces=None):
    return network(given["x_t"], given["timestep"], condition_of(network, given, pieces))


@torch.no_grad()
def paint(network, given, pieces=None):
    """The same as a decode does it: in pieces and in place."""
    return call(network, given, pieces)


def close(actual, expected, tolerance=1e-6):
    """Equal to ``tolerance`` times the size of what is expected."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * max(scale, 1e-12))

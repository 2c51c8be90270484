"""Diffusers VAEs of a few thousand parameters, one per latent space, with the real spaces' channels and numbers.

Their last layers are set so that a picture's latent has about mean 0 and deviation 1 in each channel, as a trained one
has, and so that what they decode is no flat grey: a mistake on the way is to be seen.
"""

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage
from made_pictures import dead_leaves

from latpix.latents.spaces import LATENT_SPACES, PerChannel

WIDTHS = (8, 8, 8, 8)
LEVELS = {
    "block_out_channels": WIDTHS,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,  # the tiles of enable_tiling
}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
BUILD = {
    "flux1": lambda: AutoencoderKL(
        **LEVELS, **NO_QUANT, latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159
    ),
    "sd3": lambda: AutoencoderKL(**LEVELS, **NO_QUANT, latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609),
    "sdxl": lambda: AutoencoderKL(**LEVELS, latent_channels=4, scaling_factor=0.13025),
    "flux2": lambda: AutoencoderKLFlux2(**LEVELS, latent_channels=32),
    "qwen": lambda: AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1),
}


@torch.no_grad()
def tiny_vae(space, seed=0):
    """The space's VAE in float32, in eval mode, with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = BUILD[space]().eval().requires_grad_(False)
        if space == "flux2":
            module.bn.running_mean.normal_().mul_(0.2)
            module.bn.running_var.uniform_(0.5, 2)
    picture = with_frame(module, torch.cat([dead_leaves(128, 128, seed=seed + k, count=200) for k in range(2)]))
    quantize = getattr(module, "quant_conv", None)
    raw = module.encode(picture).latent_dist.mode()
    rule = LATENT_SPACES[space].normalization
    mean, std = (rule.mean, rule.std) if isinstance(rule, PerChannel) else (0.0, rule.raw_std or 1.0)
    spread(module.encoder.conv_out if quantize is None else quantize, raw, mean, std)
    raw = module.encode(picture).latent_dist.mode()
    spread(module.decoder.conv_out, module.decode(raw).sample, 0.0, 0.3)
    return module


def with_frame(module, pictures):
    """A batch as the module reads it: Qwen's has a frame axis."""
    return pictures.unsqueeze(2) if isinstance(module, AutoencoderKLQwenImage) else pictures


def spread(conv, out, mean, std):
    """Change a convolution so that the channels of what it gave (or their first) get this mean and deviation."""
    n = out.shape[1]
    values = out.transpose(0, 1).flatten(1)
    factor = torch.as_tensor(std) / values.std(1)
    conv.weight[:n] *= factor.view(-1, *[1] * (conv.weight.ndim - 1))
    conv.bias[:n] = (conv.bias[:n] - values.mean(1)) * factor + torch.as_tensor(mean)

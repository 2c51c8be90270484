"""A checkpoint of flux2-tiny's form with a few thousand parameters, and small inputs: commands run in no time."""

from dataclasses import replace

import torch
from made_pictures import dead_leaves
from small_networks import SMALL_TINY, SMALL_V1_5, small_network

from latpix import Latent, save_latent, save_picture
from latpix.checkpoints.load import save
from latpix.checkpoints.registry import STUDENT, find, rows_that_read
from latpix.latents.spaces import LATENT_SPACES

NETWORK = replace(
    SMALL_TINY,
    latent_channels=128,
    latent_downsample=16,
    latent_unpatchify=2,
    base_widths=(6, 5, 4, 4),
    base_blocks=(1, 1, 1, 1),
    patch_size=16,
    attention_window=16,
    depth=1,
    pixel_depth=1,
)


def write_space_checkpoint(path, space, *, caption_width=0, scale=None):
    """A checkpoint of v1.5's form that reads latents of a space, by default of its first row's scale and no words."""
    row, latents = rows_that_read(space)[0], LATENT_SPACES[space]
    scale = scale or row.scale
    network = replace(
        SMALL_V1_5,
        caption_width=caption_width,
        latent_channels=latents.channels,
        latent_downsample=latents.downsample,
        patch_size=latents.downsample * scale // 2,
        scale=scale,
        rope_reference=None,
        depth=1,
        pixel_depth=1,
    )
    row = replace(
        row,
        name=f"small-{space}",
        network=network,
        sampling=replace(STUDENT, max_latent_sigma=1.0),
        native_sizes=(128, 1024),
    )
    save(small_network(network), row, path)
    return path


def write_checkpoint(path):
    """The checkpoint's file."""
    save(small_network(NETWORK), replace(find("flux2-tiny"), name="small", network=NETWORK), path)
    return path


def write_picture(path, *, height=32, width=48, seed=0):
    """A picture file."""
    save_picture(dead_leaves(height, width, seed=seed, count=40), path)
    return path


def write_latent(path, *, batch=1, height=2, width=3, seed=0, **story):
    """A latent file of space flux2."""
    tensor = torch.randn(batch, 128, height, width, generator=torch.Generator().manual_seed(seed))
    save_latent(Latent(tensor=tensor, space="flux2", **story), path)
    return path

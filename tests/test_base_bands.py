from dataclasses import replace

import pytest
import torch
from small_networks import SMALL_TINY, close, small_network

from latpix import bands
from latpix.base_bands import coarse_in_bands
from latpix.network.precision import rest_in


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("band", [1, 40, 10**6])
@pytest.mark.parametrize("unpatchify", [1, 2])
def test_in_bands_the_coarse_level_is_that_of_the_whole_latent(dtype, band, unpatchify, tmp_path, monkeypatch):
    """Bands of one row, of a few, and of all; norms see the whole picture either way."""
    monkeypatch.setattr(bands, "BAND", band)
    config = replace(
        SMALL_TINY, latent_unpatchify=unpatchify, latent_downsample=4 * unpatchify, patch_size=4 * unpatchify
    )
    base = small_network(config).base_decoder
    rest_in(base, dtype)
    latent = torch.randn(1, config.latent_channels, 5, 7, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((1,), 0.3)
    coarse = coarse_in_bands(base, latent, sigma, tmp_path).whole()
    whole = base.features(latent, sigma, 1)
    assert coarse.shape == whole.shape
    close(coarse.float(), whole.float(), 1e-5 if dtype == torch.float32 else 0.03)
    close(base.finish(coarse, base.tell(sigma)), base.paint(latent, sigma), 1e-4 if dtype == torch.float32 else 0.1)

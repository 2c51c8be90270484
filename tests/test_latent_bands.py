from dataclasses import replace

import pytest
import torch
from small_networks import SMALL, SMALL_TINY, SMALL_V1_5, close, small_network

from latpix import bands
from latpix.canvas import Canvas
from latpix.latent_bands import project_in_bands
from latpix.network.precision import rest_in

UNPACKED = replace(SMALL_TINY, latent_unpatchify=2, latent_downsample=8, patch_size=8)


@pytest.mark.parametrize("config", [SMALL, SMALL_V1_5, SMALL_TINY, UNPACKED], ids=["v1", "v1.5", "tiny", "unpacked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("band", [1, 40, 10**6])
def test_in_bands_the_projection_is_that_of_the_whole_latent(config, dtype, band, tmp_path, monkeypatch):
    """Bands of one row, of a few, and of all."""
    monkeypatch.setattr(bands, "BAND", band)
    projection = small_network(replace(config, latent_depth=2)).latent_projection
    rest_in(projection, dtype)
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, config.latent_channels, 5, 7, generator=generator)
    rows, columns = (side * config.latent_downsample * config.scale // config.patch_size for side in (5, 7))
    native, given = None, None
    if config.image_channels:
        native = torch.randn(1, 3, 5 * config.latent_downsample, 7 * config.latent_downsample, generator=generator)

        def given(top, end):
            return native[:, :, top:end]

    whole, _ = projection.project(latent, native, rows, columns)
    painted = project_in_bands(projection, latent, given, rows, columns, tmp_path)
    assert isinstance(painted, Canvas)
    close(painted.whole().float(), whole.float(), 1e-5 if dtype == torch.float32 else 0.03)

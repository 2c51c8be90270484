"""Layers over a map in bands of rows, against the same layers on the whole map."""

import pytest
import torch

from latpix import bands
from latpix.bands import Bands
from latpix.network.precision import GroupNorm

ROWS, COLUMNS, CHANNELS = 24, 16, 8


@pytest.mark.parametrize("band", [1, 100, 10**6])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (20.0, 0.05), (60.0, 0.01), (20.3, 0.0), (-300.0, 50.0)])
def test_a_group_norm_in_bands_keeps_the_digits_of_a_small_spread_about_a_large_mean(
    mean, deviation, band, tmp_path, monkeypatch
):
    monkeypatch.setattr(bands, "BAND", band)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, CHANNELS, ROWS, COLUMNS, generator=generator) * deviation + mean
    x[:, :, ROWS // 2 :] += deviation  # bands differ
    norm = GroupNorm(4, CHANNELS)
    norm.weight.data.normal_(generator=generator)
    norm.bias.data.normal_(generator=generator)
    whole = torch.nn.functional.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    layers = Bands(ROWS, COLUMNS, CHANNELS, torch.float32, tmp_path, torch.device("cpu"))
    normed = layers.normed(norm, lambda top, end: x[:, :, top:end])
    torch.testing.assert_close(normed(3, 20).double(), whole[:, :, 3:20], rtol=0, atol=2e-3)

"""The base decoder: its numbers, and that bands change nothing."""

from dataclasses import replace

import pytest
import torch
from small_networks import SMALL_TINY, close, small_network

from latpix.benchmark.plain_base import paint_base
from latpix.checkpoints.registry import find
from latpix.network import base_decoder
from latpix.network.base_decoder import BaseDecoder, reach_of

CONFIGS = [SMALL_TINY, replace(SMALL_TINY, latent_unpatchify=2, latent_downsample=8, base_blocks=(1, 2, 0))]


def given(config, height=5, width=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, config.latent_channels, height, width, generator=generator), torch.tensor([0.0, 0.6])


@pytest.mark.parametrize("config", CONFIGS)
def test_it_computes_what_the_plain_implementation_does(config):
    network = small_network(config)
    latent, sigma = given(config)
    painted = network.base_decoder(latent, sigma)
    cell = config.latent_downsample * config.scale
    assert painted.shape == (2, 3, 5 * cell, 7 * cell)
    close(painted, paint_base(config, dict(network.named_parameters()), latent, sigma))


def test_bands_change_nothing(monkeypatch):
    base = small_network(SMALL_TINY).base_decoder
    latent, sigma = given(SMALL_TINY, height=40)
    whole = base(latent, sigma)
    monkeypatch.setattr(base_decoder, "BAND", 6)
    torch.testing.assert_close(base.paint(latent, sigma), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("blocks", "unpatchify", "cell", "reach"),
    [
        ((8, 5, 4, 3), 2, 16, 5),
        ((1, 5, 4, 9), 2, 16, 5),
        ((1, 0, 0, 0), 2, 16, 1),
        ((9, 1, 1), 1, 4, 3),
        ((1, 7), 1, 2, 9),
    ],
)
def test_bands_reach_as_far_as_blocks_and_native_picture_see(blocks, unpatchify, cell, reach, monkeypatch):
    widths = (3,) * len(blocks)
    config = replace(
        SMALL_TINY, latent_unpatchify=unpatchify, latent_downsample=cell, base_blocks=blocks, base_widths=widths
    )
    assert reach_of(config) == reach
    base = small_network(config).base_decoder
    latent, sigma = given(config, height=26, width=1)
    whole = base(latent, sigma)
    monkeypatch.setattr(base_decoder, "BAND", 9)
    torch.testing.assert_close(base.paint(latent, sigma), whole, rtol=0, atol=2e-5 * float(whole.abs().max()))
    base.reach = 0
    assert not torch.allclose(base.paint(latent, sigma), whole, atol=1e-3 * float(whole.abs().max()))


def test_bands_of_the_shipped_shape_reach_as_far_as_it_sees(monkeypatch):
    torch.manual_seed(0)
    base = BaseDecoder(find("flux2-tiny").network).requires_grad_(False)
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.7 * parameter[0].numel() ** -0.5)
    latent, sigma = torch.randn(1, 128, 12, 1), torch.zeros(1)
    whole = base(latent, sigma)
    monkeypatch.setattr(base_decoder, "BAND", 5)
    torch.testing.assert_close(base.paint(latent, sigma), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
    assert base.reach == 5
    base.reach = 1
    assert not torch.allclose(base.paint(latent, sigma), whole, atol=1e-4 * float(whole.abs().max()))


def test_far_away_changes_a_place_by_the_coarse_level_s_norms_alone():
    config = replace(SMALL_TINY, base_blocks=(1, 1, 1))
    base = small_network(config).base_decoder
    latent, sigma = given(config, width=24)
    cell = config.latent_downsample * config.scale
    other = latent.clone()
    other[..., 16:] *= 3
    inside = slice(0, 4 * cell)
    changed = (base(other, sigma) - base(latent, sigma))[..., inside].abs().max()
    assert changed > 1e-3
    for block in base.levels[0]:
        torch.nn.init.zeros_(block.contract.weight)
    assert torch.equal(base(other, sigma)[..., inside], base(latent, sigma)[..., inside])


def test_levels_are_features_on_the_way_to_the_picture():
    base = small_network(SMALL_TINY).base_decoder
    latent, sigma = given(SMALL_TINY)
    sides = [base.features(latent, sigma, levels).shape for levels in (1, 2, 3)]
    fold = SMALL_TINY.latent_unpatchify
    expected = zip(SMALL_TINY.base_widths, (1, 2, 4), strict=True)
    assert sides == [(2, width, 5 * fold * times, 7 * fold * times) for width, times in expected]
    features = base.features(latent, sigma, 3)
    assert torch.equal(base.picture(features), base(latent, sigma))
    native = base.native_picture(features)
    assert native.shape == (2, 3, 5 * SMALL_TINY.latent_downsample, 7 * SMALL_TINY.latent_downsample)


def test_every_parameter_reaches_the_picture():
    base = small_network(SMALL_TINY).base_decoder.requires_grad_(True)
    base(*given(SMALL_TINY)).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in base.parameters())

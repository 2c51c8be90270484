"""Noising: its limits, and SDXL's two frames that tell of the same state."""

import math

import pytest
import torch

from latpix.latents.noising import edm_to_vp, noise_latent

GENERATOR = torch.Generator().manual_seed(0)
LATENT, NOISE = (torch.randn(2, 4, 32, 32, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
RULES = ["flow", "vp"]


@pytest.mark.parametrize("rule", RULES)
def test_no_noise_leaves_every_bit(rule):
    assert torch.equal(noise_latent(LATENT, torch.full_like(NOISE, torch.nan), 0.0, rule), LATENT)


@pytest.mark.parametrize("rule", RULES)
def test_full_noise_is_the_noise(rule):
    assert torch.equal(noise_latent(LATENT, NOISE, 1.0, rule), NOISE)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sigma", [0.2, 0.5, 0.9])
def test_the_share_of_noise_is_latent_sigma(rule, sigma):
    nothing = torch.zeros_like(LATENT)
    torch.testing.assert_close(noise_latent(nothing, NOISE, sigma, rule), sigma * NOISE)


def test_flow_is_the_straight_line():
    torch.testing.assert_close(noise_latent(LATENT, NOISE, 0.25, "flow"), torch.lerp(LATENT, NOISE, 0.25))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.8])
def test_vp_keeps_the_variance_and_flow_does_not(sigma):
    orthogonal = NOISE - (NOISE * LATENT).sum() / LATENT.square().sum() * LATENT
    noise = orthogonal * (LATENT.square().mean() / orthogonal.square().mean()).sqrt()
    power = LATENT.square().mean()
    torch.testing.assert_close(noise_latent(LATENT, noise, sigma, "vp").square().mean(), power)
    assert noise_latent(LATENT, noise, sigma, "flow").square().mean() < 0.9 * power


@pytest.mark.parametrize("sigma", [0.02, 0.49, 1.43, 11.5])
def test_a_state_of_eulers_scheduler_is_a_vp_latent(sigma):
    latent, latent_sigma = edm_to_vp(LATENT + sigma * NOISE, sigma)
    torch.testing.assert_close(latent, noise_latent(LATENT, NOISE, latent_sigma, "vp"))


def test_sigma_0_leaves_the_state_as_it_is():
    latent, latent_sigma = edm_to_vp(LATENT, 0.0)
    assert latent_sigma == 0
    assert torch.equal(latent, LATENT)


def test_latent_sigma_grows_from_sigma_towards_1():
    sigmas = [0.001, 0.1, 1.0, 10.0, 1000.0]
    levels = [edm_to_vp(LATENT, sigma)[1] for sigma in sigmas]
    assert levels == sorted(levels)
    assert levels[0] == pytest.approx(0.001, rel=1e-5)
    assert levels[2] == pytest.approx(math.sqrt(0.5))
    assert 0.999999 < levels[-1] < 1

import math

import pytest
import torch

from latpix.training.draws import Recorded, Seeded
from latpix.training.latent_noising import LatentNoising, noise_by, noise_latents

LATENT = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
DRAWS = {
    "apply": torch.tensor([0.1, 0.9, 0.5, 0.74]),
    "clean": torch.tensor([0.5, 0.5, 0.05, 0.5]),
    "sigma": torch.tensor([0.5, 0.5, 0.25, 1.0]),
    "latent_noise": torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1)),
}


def test_three_quarters_are_noised_evenly_up_to_the_most():
    draws = Seeded(torch.Generator().manual_seed(0))
    _, latent_sigma = noise_latents(torch.zeros(20_000, 1, 1, 1), draws, LatentNoising())
    noised = latent_sigma[latent_sigma > 0]
    assert len(noised) / 20_000 == pytest.approx(0.75, abs=0.01)
    assert noised.max() <= 0.8
    assert noised.mean().item() == pytest.approx(0.4, abs=0.01)


def test_a_latent_that_is_not_selected_stays_to_the_bit():
    noised, latent_sigma = noise_latents(LATENT, Recorded(DRAWS), LatentNoising())
    torch.testing.assert_close(latent_sigma, torch.tensor([0.4, 0.0, 0.2, 0.8]))
    assert torch.equal(noised[1], LATENT[1])
    torch.testing.assert_close(noised[2], 0.8 * LATENT[2] + 0.2 * DRAWS["latent_noise"][2])


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        (LatentNoising(), ["apply", "sigma", "latent_noise"]),
        (LatentNoising(clean_ratio=0.1), ["apply", "clean", "sigma", "latent_noise"]),
        (LatentNoising(chance=0.0), ["apply"]),
        (LatentNoising(chance=0.0, clean_ratio=0.1), ["apply", "clean"]),
    ],
)
def test_draws_are_made_in_order_and_only_where_they_are_used(settings, made):
    draws = Recorded(DRAWS)
    _, latent_sigma = noise_latents(LATENT, draws, settings)
    assert draws.made == made
    assert settings.chance > 0 or not latent_sigma.any()


def test_a_forced_clean_sample_is_clean():
    _, latent_sigma = noise_latents(LATENT, Recorded(DRAWS), LatentNoising(chance=1.0, clean_ratio=0.1))
    assert (latent_sigma > 0).tolist() == [True, True, False, True]


def test_the_first_row_that_a_source_contains_gives_the_range():
    settings = LatentNoising(chance=1.0, by_source=(("scan", 0.1, 0.2), ("a", 0.6, 0.6)))
    sources = ["x/scan/a", "x/a", "x/y", "x/y"]
    _, latent_sigma = noise_latents(LATENT, Recorded(DRAWS), settings, sources)
    torch.testing.assert_close(latent_sigma, torch.tensor([0.15, 0.6, 0.2, 0.8]))


def test_the_vp_rule_keeps_the_size_of_unit_latents_and_the_flow_rule_shrinks_them():
    unit, noise = torch.randn(2, 1, 200, 200), torch.randn(2, 1, 200, 200)
    half = torch.full((2,), 0.5)
    assert noise_by("vp", unit, noise, half).std().item() == pytest.approx(1, abs=0.02)
    assert noise_by("flow", unit, noise, half).std().item() == pytest.approx(math.sqrt(0.5), abs=0.02)

import pytest
import torch

from latpix.training.draws import Recorded, Seeded
from latpix.training.dropout import drop_captions, drop_latents

CAPTION, EMPTY = torch.randn(3, 4, 5), torch.randn(1, 4, 5)
LATENT = torch.randn(3, 2, 2, 2)
U = torch.tensor([0.05, 0.5, 0.0999])


def test_dropped_captions_become_the_empty_one_and_others_stay():
    dropped = drop_captions(CAPTION, EMPTY, Recorded({"drop_caption": U}), 0.1)
    assert torch.equal(dropped, torch.stack([EMPTY[0], CAPTION[1], EMPTY[0]]))


def test_dropped_latents_become_zeros_and_are_told():
    latent, kept = drop_latents(LATENT, Recorded({"drop_latent": U}), 0.1)
    assert kept.tolist() == [0, 1, 0]
    assert torch.equal(latent[1], LATENT[1])
    assert not latent[[0, 2]].any()


def test_a_chance_of_zero_draws_nothing_and_changes_nothing():
    draws = Recorded({})
    assert drop_captions(CAPTION, EMPTY, draws, 0.0) is CAPTION
    latent, kept = drop_latents(LATENT, draws, 0.0)
    assert latent is LATENT
    assert kept.tolist() == [1, 1, 1]


def test_one_in_ten_is_dropped():
    draws = Seeded(torch.Generator().manual_seed(0))
    _, kept = drop_latents(torch.ones(20_000, 1, 1, 1), draws, 0.1)
    assert kept.mean().item() == pytest.approx(0.9, abs=0.01)

"""The second recipe of the codec: its samples, its losses, and that the other half stays as it was."""

import numpy as np
import pytest
import torch
from made_pictures import dead_leaves

from latpix.backbones.lite import Lite
from latpix.backbones.taef2 import Taef2
from latpix.training.photographs import to_levels
from latpix.training.recipes.flux2_lite import Config as FirstConfig
from latpix.training.recipes.flux2_lite import build_optimizers
from latpix.training.recipes.flux2_lite_half import SIDE, decoder_loss, encoder_loss, sample


def test_samples_are_squares_of_photographs_large_enough():
    pictures = [to_levels(dead_leaves(200, 300)[0]), to_levels(dead_leaves(60, 60)[0])]
    generator = np.random.default_rng(0)
    for _ in range(5):
        square = sample(pictures, generator)
        assert square.shape == (3, SIDE, SIDE)
        assert square.dtype == torch.uint8


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_a_step_lowers_the_loss_of_its_half_and_leaves_the_other(half):
    torch.manual_seed(0)
    model, taef2 = Lite(), Taef2().requires_grad_(False)
    pixels, latent = dead_leaves(32, 32).repeat(2, 1, 1, 1), torch.randn(2, 128, 2, 2)
    trained, other = (getattr(model, name) for name in (half, "decoder" if half == "encoder" else "encoder"))
    before = [weight.clone() for weight in other.parameters()]

    def loss():
        if half == "decoder":
            return decoder_loss(model, latent, pixels)
        return encoder_loss(model, latent, pixels, taef2=taef2, variance=torch.ones(1, 128, 1, 1))

    first = loss()
    optimizers = build_optimizers(trained, FirstConfig(learning_rate=1e-3))
    for _ in range(3):
        model.zero_grad()
        loss().backward()
        for optimizer in optimizers:
            optimizer.step()
    assert loss() < first
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))

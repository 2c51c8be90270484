"""The second recipe of the codec: its samples and its losses."""

import numpy as np
import torch
from made_pictures import dead_leaves

from latpix.backbones.lite import Lite
from latpix.backbones.taef2 import Taef2
from latpix.training.photographs import to_levels
from latpix.training.recipes.flux2_lite import Config as FirstConfig
from latpix.training.recipes.flux2_lite import build_optimizers
from latpix.training.recipes.flux2_lite_whole import BATCHES, far, losses, sample, total


def test_samples_are_squares_of_photographs_large_enough():
    pictures = [to_levels(dead_leaves(200, 300)[0]), to_levels(dead_leaves(60, 60)[0])]
    generator = np.random.default_rng(0)
    for side in (min(BATCHES), 96):
        square = sample(pictures, generator, side)
        assert square.shape == (3, side, side)
        assert square.dtype == torch.uint8


def test_a_few_steps_lower_the_loss_of_both_halves_at_once():
    torch.manual_seed(0)
    model, taef2 = Lite(), Taef2().requires_grad_(False)
    pixels, latent = dead_leaves(32, 32).repeat(2, 1, 1, 1), torch.randn(2, 128, 2, 2)

    def parts():
        return losses(model, latent, pixels, taef2=taef2, variance=torch.ones(1, 128, 1, 1))

    first = {name: value.item() for name, value in parts().items()}
    optimizers = build_optimizers(model, FirstConfig(learning_rate=1e-3))
    for _ in range(4):
        model.zero_grad()
        total(parts()).backward()
        for optimizer in optimizers:
            optimizer.step()
    last = {name: value.item() for name, value in parts().items()}
    assert last["latent"] < first["latent"]
    assert last["pixels"] < first["pixels"]
    assert last["own"] < first["own"]


def test_mean_colours_off_count_more_than_as_much_noise():
    pixels = torch.zeros(1, 3, 32, 32)
    noise = 0.1 * torch.where(torch.rand(1, 3, 32, 32) < 0.5, -1.0, 1.0)
    assert far(pixels + 0.1, pixels) > 1.4 * far(pixels + noise, pixels)

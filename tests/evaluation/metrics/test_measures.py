import math

import pytest
import torch
from made_pictures import coarse, dead_leaves

from latpix.errors import PictureError
from latpix.evaluation.metrics.grain import grain
from latpix.evaluation.metrics.grid import grid_ratio
from latpix.evaluation.metrics.mean_colour import mean_colour_difference
from latpix.evaluation.metrics.niqe import niqe
from latpix.evaluation.metrics.psnr import psnr
from latpix.evaluation.metrics.seed_spread import seed_spread

LEVEL = 1 / 127.5


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_level_off_everywhere_is_48_dB():
    pixels = dead_leaves(32, 48)
    assert psnr(pixels + LEVEL, pixels).item() == pytest.approx(20 * math.log10(255), abs=1e-3)
    assert psnr(pixels, pixels).item() == math.inf


def test_mean_colour_is_that_of_the_worst_channel_at_any_size():
    pixels = torch.zeros(2, 3, 16, 16)
    shifted = torch.zeros(2, 3, 64, 48)
    shifted[0, 1] -= 3 * LEVEL
    shifted[1, 2] += LEVEL
    torch.testing.assert_close(mean_colour_difference(shifted, pixels), torch.tensor([3.0, 1.0]), atol=1e-4, rtol=0)


def test_a_grid_is_seen_on_its_axis_only():
    pixels = 0.1 * noise(1, 3, 128, 128)
    plain = grid_ratio(pixels)
    torch.testing.assert_close(plain, torch.ones(1, 2), atol=0.06, rtol=0)
    rows = torch.arange(128) // 16 % 2
    gridded = grid_ratio(pixels + 0.1 * rows.view(1, 1, -1, 1))
    assert gridded[0, 0] > 1.15
    torch.testing.assert_close(gridded[0, 1], plain[0, 1])


def test_a_plain_upscales_own_period_is_no_grid():
    torch.testing.assert_close(grid_ratio(coarse(noise(1, 3, 512, 512) / 3)), torch.ones(1, 2), atol=0.05, rtol=0)


def test_grain_is_the_deviation_inside_the_border():
    pixels = 0.02 * noise(1, 3, 96, 96)
    pixels[..., :16, :] = 1
    assert grain(pixels, border=16).item() == pytest.approx(0.02 * 127.5, rel=0.03)
    assert grain(torch.full((1, 3, 32, 32), 0.3)).item() == pytest.approx(0, abs=1e-3)


def test_seeds_that_differ_in_texture_only_are_told_from_those_that_differ_everywhere():
    reference = torch.zeros(1, 3, 64, 128)
    reference[..., 64:] = noise(1, 3, 64, 64)
    texture = torch.zeros(4, 3, 64, 128)
    texture[..., 64:] = 5 * LEVEL * noise(4, 3, 64, 64, seed=1)
    spread = seed_spread(reference + texture, reference)
    assert spread.textured == pytest.approx(5, rel=0.1)
    assert spread.flat == pytest.approx(0, abs=1e-4)
    everywhere = seed_spread(reference + 5 * LEVEL * noise(4, 3, 64, 128, seed=1), reference)
    assert everywhere.flat == pytest.approx(everywhere.textured, rel=0.1)


def test_niqe_prefers_a_picture_to_its_coarse_version_and_to_noise_on_it():
    pytest.importorskip("scipy")
    from pathlib import Path

    from latpix import read_picture

    astronaut = read_picture(Path(__file__).parents[2] / "assets" / "astronaut.jpg")[..., :288, :384]
    natural = niqe(astronaut)
    assert natural < niqe(coarse(astronaut))
    assert natural < niqe((astronaut + 0.2 * noise(1, 3, 288, 384)).clamp(-1, 1))


def test_niqe_refuses_a_picture_of_one_block():
    with pytest.raises(PictureError, match="150x100; NIQE needs at least two blocks"):
        niqe(torch.zeros(1, 3, 100, 150))

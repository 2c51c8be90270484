import pytest
import torch
from made_pictures import dead_leaves

from latpix.training.losses import (
    charbonnier,
    feature_difference,
    pattern_difference,
    texture_difference,
)

PICTURE = dead_leaves(64, 64)


def features(seed, places=6):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 5, places, places, generator=generator) for _ in range(2)]


def test_equal_pictures_and_equal_features_are_at_no_distance():
    assert charbonnier(PICTURE, PICTURE).item() == pytest.approx(0.01)  # the root of its smoothing
    assert feature_difference(features(0), features(0)).item() == 0
    assert texture_difference(features(0), features(0)).item() == pytest.approx(0, abs=1e-6)


def test_features_that_only_grew_are_no_difference_and_shuffled_ones_keep_their_texture():
    here = features(1)
    assert feature_difference(here, [3 * f for f in here]).item() == pytest.approx(0, abs=1e-6)
    shuffled = [f.flatten(2)[..., torch.randperm(36)].unflatten(2, (6, 6)) for f in here]
    assert texture_difference(here, shuffled) < texture_difference(here, [f + 1 for f in features(2)])


def test_a_speck_in_every_cell_is_a_pattern_and_brightness_or_grain_is_none():
    speck = torch.zeros(16, 16)
    speck[3, 5] = 0.1
    everywhere, once = speck.repeat(4, 4), torch.zeros(64, 64)
    once[3, 5] = 0.1
    grain = 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = [pattern_difference(PICTURE + d, PICTURE, side=16).item() for d in (everywhere, once, 0.2, 0)]
    assert found[0] > 10 * found[1] > 0
    assert found[2:] == pytest.approx([0, 0], abs=1e-6)
    many = grain.expand(64, -1, -1, -1) * torch.where(torch.arange(64) % 2 == 0, 1, -1).view(-1, 1, 1, 1)
    assert pattern_difference(many, torch.zeros_like(many), side=16).item() == pytest.approx(0, abs=1e-6)
    assert pattern_difference(grain, torch.zeros_like(grain), side=16).item() > 1e-3  # of one picture it is one

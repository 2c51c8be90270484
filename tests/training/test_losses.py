import pytest
import torch
from made_pictures import dead_leaves

from latpix.training.losses import (
    charbonnier,
    feature_difference,
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

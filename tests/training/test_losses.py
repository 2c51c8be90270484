import pytest
import torch
from made_pictures import dead_leaves

from latpix.training.losses import (
    charbonnier,
    detail_distance,
    energy_score,
    feature_difference,
    texture_difference,
)

PICTURE = dead_leaves(64, 64)


def features(seed, places=6):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 5, places, places, generator=generator) for _ in range(2)]


def test_equal_pictures_and_equal_features_are_at_no_distance():
    assert charbonnier(PICTURE, PICTURE).item() == pytest.approx(0.01)  # the root of its smoothing
    assert detail_distance(PICTURE, PICTURE).item() == pytest.approx(1e-3, rel=1e-3)
    assert feature_difference(features(0), features(0)).item() == 0
    assert texture_difference(features(0), features(0)).item() == pytest.approx(0, abs=1e-6)


def test_detail_does_not_see_a_change_of_brightness_but_sees_grain():
    grain = 0.1 * torch.randn(PICTURE.shape, generator=torch.Generator().manual_seed(0))
    assert detail_distance(PICTURE, PICTURE + 0.3).item() == pytest.approx(1e-3, rel=1e-2)
    assert detail_distance(PICTURE, PICTURE + grain).item() == pytest.approx(0.1, rel=0.1)


def test_features_that_only_grew_are_no_difference_and_shuffled_ones_keep_their_texture():
    here = features(1)
    assert feature_difference(here, [3 * f for f in here]).item() == pytest.approx(0, abs=1e-6)
    shuffled = [f.flatten(2)[..., torch.randperm(36)].unflatten(2, (6, 6)) for f in here]
    assert texture_difference(here, shuffled) < texture_difference(here, [f + 1 for f in features(2)])


def test_the_energy_score_is_least_for_the_true_distribution():
    """Among pictures flat + s * noise, for targets flat + 0.2 * noise, s = 0.2 scores best and s = 0 does not."""
    generator = torch.Generator().manual_seed(3)

    def sample(size):
        return size * torch.randn(16, 3, 32, 32, generator=generator)

    scores = {size: energy_score(sample(size), sample(size), sample(0.2), 1.0).item() for size in (0.0, 0.1, 0.2, 0.4)}
    assert min(scores, key=scores.__getitem__) == 0.2
    blunt = {size: energy_score(sample(size), sample(size), sample(0.2), 0.0).item() for size in (0.0, 0.1, 0.2, 0.4)}
    assert min(blunt, key=blunt.__getitem__) == 0.0

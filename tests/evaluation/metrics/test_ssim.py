"""Structural similarity is the published one."""

import pytest
import torch
from made_pictures import dead_leaves
from skimage.metrics import structural_similarity

from latpix.evaluation.metrics.ssim import ssim


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_it_agrees_with_scikit_image(noise):
    original = dead_leaves(48, 64)
    pixels = original + noise * torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    arrays = [x[0].double().numpy() for x in (pixels, original)]
    expected = structural_similarity(
        *arrays, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=2
    )
    assert float(ssim(pixels, original)) == pytest.approx(expected, abs=1e-4)


def test_equal_pictures_have_one_and_each_of_a_batch_its_own():
    original = dead_leaves(32, 32)
    both = ssim(torch.cat([original, -original]), torch.cat([original, original]))
    assert both[0] == pytest.approx(1, abs=1e-5)
    assert both[1] == pytest.approx(float(ssim(-original, original)))
    assert both[1] < 0.9

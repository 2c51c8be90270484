import pytest
import torch
import torch.nn.functional as F
from made_pictures import dead_leaves

from latpix.training.fidelity import CELLS, fidelity_loss, signal_share

PICTURE = dead_leaves(128, 128)
NATIVE = F.interpolate(PICTURE, scale_factor=0.25, mode="bicubic", antialias=True)
CLEAN = torch.zeros(1)


def cost(pixels, latent_sigma=CLEAN):
    return fidelity_loss(pixels, NATIVE, latent_sigma, downsample=4).item()


def test_a_picture_that_reduces_to_the_native_one_costs_nothing():
    assert cost(PICTURE) == pytest.approx(0, abs=1e-6)


def test_detail_that_reduction_removes_is_free_and_a_change_of_colour_is_not():
    checkers = torch.ones(128, 128)
    checkers[::2, ::2] = checkers[1::2, 1::2] = -1
    assert cost(PICTURE + 0.1 * checkers) < 1e-3
    tinted = PICTURE + torch.tensor([0.1, 0.0, 0.0]).view(1, 3, 1, 1)
    assert cost(tinted) == pytest.approx((0.1 - 1e-3) / 3, rel=0.02)


def test_a_wrong_colour_over_a_large_area_costs_more_than_the_same_as_native_grain():
    grain = 0.1 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).sign()
    assert cost(PICTURE + F.interpolate(grain, scale_factor=4)) < 0.7 * cost(PICTURE + 0.1)


def test_a_noisier_latent_binds_less_and_most_of_all_in_small_blocks():
    costs = [cost(PICTURE + 0.1, torch.tensor([sigma])) for sigma in (0.0, 0.2, 0.5, 0.8, 1.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0
    sigma = torch.tensor([0.0, 0.8])
    assert signal_share(sigma, 1).tolist() == pytest.approx([1, 0.0588], abs=1e-3)
    assert signal_share(sigma, 4).tolist() == pytest.approx([1, 0.5])


def test_the_share_is_the_signals_part_in_the_power_of_a_mean_of_noised_cells():
    s, cells = 0.6, 4
    generator = torch.Generator().manual_seed(0)
    signal = F.interpolate(torch.randn(1, 1, 100, 100, generator=generator), scale_factor=cells)  # alike in a block
    noised = (1 - s) * signal + s * torch.randn(signal.shape, generator=generator)
    power = F.avg_pool2d(noised, cells).square().mean()
    share = F.avg_pool2d((1 - s) * signal, cells).square().mean() / power
    assert signal_share(torch.tensor([s]), cells).item() == pytest.approx(share.item(), rel=0.05)


def test_blocks_larger_than_the_picture_are_the_picture():
    small = torch.zeros(1, 3, 32, 32)
    loss = fidelity_loss(small, small[..., :8, :8] + 0.1, CLEAN, downsample=16)
    assert loss.item() == pytest.approx(0.099, rel=1e-2)
    assert len(CELLS) == 3


def test_the_gradient_pulls_every_pixel_back():
    pixels = (PICTURE + 0.1).requires_grad_()
    fidelity_loss(pixels, NATIVE, CLEAN, downsample=4).backward()
    assert (pixels.grad > 0).float().mean() > 0.9

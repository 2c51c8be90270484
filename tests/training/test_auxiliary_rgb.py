import pytest
import torch

from latpix.data.pictures import reduced
from latpix.training.auxiliary_rgb import auxiliary_rgb_loss, to_ycc

GENERATOR = torch.Generator().manual_seed(0)
PREDICTED, TARGET = (torch.rand(3, 3, 8, 8, generator=GENERATOR) * 1.6 - 0.8 for _ in range(2))
CLEAN = torch.zeros(3)


def test_grey_has_no_colour_and_white_is_bright():
    grey = torch.linspace(0, 1, 5).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    made = to_ycc(grey)
    torch.testing.assert_close(made[:, :1], grey[:, :1], atol=1e-6, rtol=0)
    assert made[:, 1:].abs().max() < 1e-6


def test_native_pictures_have_floored_sides_and_stay_in_range():
    native = reduced(torch.randn(1, 3, 30, 45).sign(), 4)
    assert native.shape == (1, 3, 7, 11)
    assert native.abs().max() <= 1
    torch.testing.assert_close(reduced(torch.full((1, 3, 16, 8), 0.3), 4), torch.full((1, 3, 4, 2), 0.3))


def test_the_true_picture_costs_nothing_and_brightness_costs_a_quarter():
    assert auxiliary_rgb_loss(TARGET, TARGET).item() == 0
    brighter = auxiliary_rgb_loss(TARGET + 0.2, TARGET).item()
    assert brighter == pytest.approx((0.25 * 0.1 - 1e-3) / 3, rel=0.02)  # half the range, and two of three channels 0


@pytest.mark.parametrize("why", ["dropped", "empty", "pure noise"])
def test_a_sample_without_a_say_counts_as_if_it_were_not_there(why):
    target, kept, latent_sigma = TARGET.clone(), torch.ones(3), CLEAN.clone()
    if why == "dropped":
        kept[1] = 0
    elif why == "empty":
        target[1] = 0
    else:
        latent_sigma[1] = 1.0
    others = auxiliary_rgb_loss(PREDICTED[[0, 2]], TARGET[[0, 2]])
    torch.testing.assert_close(auxiliary_rgb_loss(PREDICTED, target, latent_sigma, kept), others)


def test_a_batch_without_any_say_costs_nothing_and_its_gradient_is_zero():
    predicted = PREDICTED.clone().requires_grad_()
    loss = auxiliary_rgb_loss(predicted, TARGET, CLEAN + 1)
    loss.backward()
    assert loss.item() == 0
    assert not predicted.grad.any()


def test_a_target_is_reduced_first_and_clamped_then():
    """Stripes of 3 and -1 average to 1, which needs no clamp; clamped first they would average to 0."""
    stripes = torch.tensor([3.0, -1.0]).repeat(8).expand(1, 3, 16, 16)
    assert auxiliary_rgb_loss(torch.ones(1, 3, 8, 8), stripes).item() == pytest.approx(0, abs=1e-6)

import math

import pytest
import torch

from latpix.training.dmd_losses import (
    fake_score_loss,
    gan_discriminator_loss,
    gan_student_loss,
    r1_loss,
    vsd_loss,
)

GENERATOR = torch.Generator().manual_seed(0)
X0, TEACHER, FAKE = (torch.randn(2, 3, 4, 4, generator=GENERATOR) for _ in range(3))


def test_the_students_gradient_is_the_normalised_difference_of_fake_score_and_teacher():
    x0 = X0.clone().requires_grad_()
    loss = vsd_loss(x0, TEACHER, FAKE)
    loss.backward()
    weight = 1 / (X0 - TEACHER).abs().mean((1, 2, 3), keepdim=True)
    direction = weight * (FAKE - TEACHER)
    torch.testing.assert_close(x0.grad, direction / x0.numel(), rtol=1e-4, atol=1e-7)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(direction.square().mean().item() / 2, rel=1e-4)


def test_where_fake_score_and_teacher_agree_the_student_stays():
    assert vsd_loss(X0, TEACHER, TEACHER).item() == 0


def test_a_student_that_meets_its_teacher_is_divided_by_a_millionth_not_by_zero():
    loss = vsd_loss(X0, X0, X0 + 1e-6)
    assert loss.item() == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_guess_that_is_no_number_moves_nothing_there(broken):
    x0, fake = X0.clone().requires_grad_(), FAKE.clone()
    fake[1, 2, 3, 0] = broken
    vsd_loss(x0, TEACHER, fake).backward()
    assert x0.grad[1, 2, 3, 0] == 0
    assert x0.grad.isfinite().all()
    assert x0.grad[1, 2, 3, 1] != 0


def test_an_undecided_discriminator_costs_log_two_for_each_side():
    zeros = torch.zeros(3, 1)
    assert gan_student_loss(zeros).item() == pytest.approx(math.log(2))
    assert gan_discriminator_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2))


def test_extreme_logits_do_not_overflow():
    high, low = torch.full((2, 1), 1e4), torch.full((2, 1), -1e4)
    assert gan_student_loss(low).item() == 1e4
    assert gan_student_loss(high).item() == 0
    assert gan_discriminator_loss(low, high).item() == 0


def test_r1_is_the_squared_change_and_both_terms_have_gradients():
    real, near = torch.tensor([[1.0], [2.0]], requires_grad=True), torch.tensor([[1.5], [2.0]], requires_grad=True)
    loss = r1_loss(real, near)
    loss.backward()
    assert loss.item() == pytest.approx(0.125)
    assert real.grad.flatten().tolist() == [-0.5, 0]
    assert torch.equal(near.grad, -real.grad)


def test_the_fake_score_learns_the_students_velocity_or_its_picture():
    noise = torch.randn_like(X0)
    assert fake_score_loss(noise - X0, X0, noise).item() == 0
    assert fake_score_loss(X0, X0, noise, "x0").item() == 0

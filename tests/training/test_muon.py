"""Muon: its update is orthogonal, of the promised size, and goes down."""

import pytest
import torch

from latpix.training.muon import SIZE, Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_singular_values_of_the_update_are_near_1(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(1, *shape)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_matrices_of_a_shape_do_not_meet():
    torch.manual_seed(0)
    matrices = torch.randn(3, 12, 20)
    alone = torch.cat([orthogonal(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonal(matrices), alone, rtol=0, atol=0.02)


def test_it_keeps_the_singular_vectors():
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(8, 20), full_matrices=False)
    skewed = left @ torch.diag(torch.linspace(1, 3, 8)) @ right
    turned = left.T @ orthogonal(skewed[None])[0] @ right.T
    assert (turned - turned.diag().diag()).abs().max() < 0.05


def test_a_step_has_the_rms_that_its_rate_says():
    weight = torch.nn.Parameter(torch.zeros(32, 32, 3, 3))
    weight.grad = torch.randn(32, 32, 3, 3)
    Muon([weight], lr=0.5).step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.5 * SIZE, rel=0.2)


def test_it_fits_a_linear_map():
    torch.manual_seed(0)
    goal, weight = torch.randn(8, 8), torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        weight.grad = (weight - goal).detach()
        optimizer.step()
    assert (weight - goal).abs().max() < 0.2

"""How far a result is from a golden, in units of its tolerance."""

import math

import pytest
import torch

from latpix.doctor.rows import GoldenRow, error_in_tolerances


def test_the_error_is_the_worst_value_against_its_own_tolerance():
    expected = torch.tensor([1.0, 100.0], dtype=torch.float64)
    actual = expected + torch.tensor([0.3, 0.6])  # 0.3 of 0.2 allowed; 0.6 of 10.1
    assert error_in_tolerances(actual, expected, atol=0.1, rtol=0.1) == pytest.approx(1.5)


@pytest.mark.parametrize("tolerance", [0, 1e-6])
def test_the_same_bits_have_no_error(tolerance):
    assert error_in_tolerances(torch.tensor([0.0, 5.0]), torch.tensor([0.0, 5.0]), atol=tolerance) == 0


def test_without_a_tolerance_any_difference_is_infinite():
    assert error_in_tolerances(torch.tensor([0.0, 5.0]), torch.tensor([0.0, 5.000001]), atol=0) == math.inf


@pytest.mark.parametrize("actual", [[1.0, math.nan], [1.0, math.inf], [1.0], [[1.0, 2.0]]])
def test_no_number_and_another_shape_are_infinitely_wrong(actual):
    assert error_in_tolerances(torch.tensor(actual), torch.tensor([1.0, 2.0]), atol=1.0, rtol=1.0) == math.inf


@pytest.mark.parametrize(
    ("error", "ok"), [(0.0, True), (1.0, True), (1.0001, False), (math.inf, False), (math.nan, False)]
)
def test_a_row_is_ok_up_to_its_tolerance(error, ok):
    row = GoldenRow.of("network/net_a", "network", error)
    assert row.tolerance == 1
    assert row.ok is ok

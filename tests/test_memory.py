"""What the plan foretells, and what a process then takes: each decode in a process of its own, with random weights."""

import sys

import pytest

from latpix.benchmark.memory import Case, measure

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")

SIZES = [(8, 8), (12, 8), (12, 12), (8, 20), (16, 16), (20, 16), (20, 20), (24, 16), (24, 24), (32, 16)]  # cells


@pytest.mark.parametrize("network", ["stock", "tiny"])
def test_a_plan_foretells_the_peak_of_a_small_decode(network):
    measured = measure(Case(network=network, height=8, width=8, steps=1))
    assert measured.foretold == pytest.approx(measured.peak, rel=0.1)


def test_a_plan_counts_quantized_weights_that_are_widened():
    """Their copies are most of the work here."""
    measured = measure(Case(network="int8", height=8, width=8, steps=1))
    assert measured.foretold - measured.held == pytest.approx(measured.peak - measured.held, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("network", ["stock", "tiny"])
def test_a_plan_foretells_the_peak_at_ten_sizes(network, height, width):
    measured = measure(Case(network=network, height=height, width=width, steps=2))
    assert measured.foretold == pytest.approx(measured.peak, rel=0.1)


def test_a_limit_is_kept_with_a_batch_and_resampled_pictures():
    """Four pictures of 512x512 enlarged to 1024x1024: more than half of the work is their own bytes."""
    measured = measure(Case(network="tiny", height=8, width=8, batch=4, scale=8, steps=1, over_held=120 * MIB))
    assert measured.levers
    assert measured.peak <= measured.held + 120 * MIB


@pytest.mark.parametrize("cells", [24, pytest.param(32, marks=pytest.mark.slow)])
def test_a_plan_foretells_the_peak_of_a_picture_in_files(cells):
    how = {"network": "tiny", "dtype": "float32", "steps": 1, "in_files": True, "over_held": 1024 * MIB}
    measured = measure(Case(height=cells, width=cells, **how))
    assert not measured.levers
    assert measured.foretold == pytest.approx(measured.peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("cells", "limit", "over"), [(16, None, 420), (32, None, 1200), (32, 760, 760)])
def test_the_peak_over_weights_at_stock_width_is_below_its_target(cells, limit, over):
    measured = measure(Case(height=cells, width=cells, steps=2, over_held=limit and limit * MIB))
    assert measured.peak - measured.held <= over * MIB

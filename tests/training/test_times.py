import math

import pytest
import torch

from latpix.sampling.schedules import DynamicShift
from latpix.training.draws import Seeded
from latpix.training.times import draw_times, logit_normal, power_law, shift_at, shift_times

T = torch.linspace(0, 1, 21)


def test_a_shift_keeps_the_ends_and_is_undone_by_its_inverse():
    shifted = shift_times(T, 6.0)
    assert (shifted[0], shifted[-1]) == (0, 1)
    assert (shifted[1:-1] > T[1:-1]).all()
    torch.testing.assert_close(shift_times(shifted, 1 / 6.0), T)
    assert torch.equal(shift_times(T, 1.0), T)


def test_with_a_shift_of_six_half_of_all_times_lie_above_six_sevenths_and_four_percent_below_a_half():
    t = draw_times(Seeded(torch.Generator().manual_seed(0)), 100_000, 6.0)
    assert t.median().item() == pytest.approx(6 / 7, abs=2e-3)
    assert (t < 0.5).float().mean().item() == pytest.approx(0.037, abs=2e-3)
    assert t.dtype == torch.float32


def test_a_larger_mean_or_power_asks_about_noisier_states():
    z, u = torch.randn(1000, generator=torch.Generator().manual_seed(0)), torch.rand(1000)
    assert (logit_normal(z, mean=1.0) > logit_normal(z)).all()
    assert torch.equal(logit_normal(torch.zeros(1)), torch.full((1,), 0.5))
    assert (power_law(u, 2.0) >= u).all()


def test_the_shift_follows_the_picture_only_where_it_is_dynamic():
    dynamic = DynamicShift(base=6.0, reference=2048)
    assert shift_at(dynamic, 2048, 2048) == 6.0
    assert shift_at(dynamic, 4096, 4096) == pytest.approx(6 * math.sqrt(2))
    assert shift_at(3.0, 4096, 4096) == 3.0

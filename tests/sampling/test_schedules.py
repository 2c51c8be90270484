"""Times of a decode, against the tables of the released networks."""

import pytest
import torch

from latpix.errors import ScheduleError
from latpix.sampling.schedules import DynamicShift, check_times, solver_times, student_times

TRAINED = (0.999, 0.866, 0.634, 0.342, 0.0)


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (None, TRAINED),
        (1, (1.0, 0.0)),  # one step is a case of its own
        (2, (0.999, 0.634, 0.0)),
        (3, (0.999, 0.866, 0.342, 0.0)),
        (4, TRAINED),
        (5, (0.999, 0.866, 0.634, 0.634, 0.342, 0.0)),  # places 0, 0.8, 1.6, 2.4, 3.2, 4
        (6, (0.999, 0.866, 0.866, 0.634, 0.342, 0.342, 0.0)),  # 0, 0.67, 1.33, 2, 2.67, 3.33, 4
        (7, (0.999, 0.866, 0.866, 0.634, 0.634, 0.342, 0.342, 0.0)),
        (8, (0.999, 0.999, 0.866, 0.634, 0.634, 0.634, 0.342, 0.0, 0.0)),  # halves go to the even place
    ],
)
def test_another_number_of_steps_picks_from_the_schedule(steps, times):
    assert torch.equal(student_times(TRAINED, steps), torch.tensor(times))


@pytest.mark.parametrize(("steps", "expected"), [(None, (1, 0.75, 0.5, 0.25, 0)), (2, (1, 0.5, 0)), (1, (1, 0))])
def test_without_a_schedule_times_are_evenly_spaced_from_one(steps, expected):
    assert torch.equal(student_times(None, steps), torch.tensor(expected, dtype=torch.float32))


def test_a_student_of_another_number_of_steps_keeps_its_own_schedule():
    assert torch.equal(student_times((0.9, 0.4, 0.0), None, trained_steps=2), torch.tensor([0.9, 0.4, 0.0]))


@pytest.mark.parametrize("steps", [0, -3])
def test_no_step_at_all_is_refused(steps):
    for call in (lambda: student_times(TRAINED, steps), lambda: solver_times(steps, 6.0)):
        with pytest.raises(ScheduleError, match=f"steps is {steps}.* at least 1"):
            call()


@pytest.mark.parametrize("times", [(), (0.0,), (1.0, 0.1), (0.5, 0.6, 0.0), (1.2, 0.0), (1.0, float("nan"), 0.0)])
def test_times_that_do_not_fall_to_zero_are_refused(times):
    with pytest.raises(ScheduleError, match="must fall from at most 1 to exactly 0"):
        check_times(times)


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.485])
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_the_solvers_times_fall_from_the_shifted_start_to_exactly_zero(steps, shift):
    times = solver_times(steps, shift)
    assert (len(times), times.dtype, float(times[-1])) == (steps + 1, torch.float32, 0.0)
    assert bool((times.diff() < 0).all())
    assert float(times[0]) == pytest.approx(shift * 0.999 / (1 + (shift - 1) * 0.999), rel=1e-6)


def test_a_shift_of_one_leaves_times_evenly_spaced():
    torch.testing.assert_close(solver_times(4, 1.0), torch.tensor([0.999, 0.74925, 0.4995, 0.24975, 0.0]))


@pytest.mark.parametrize(
    ("base", "reference", "size", "shift"),
    [
        (6, 2048, (2048, 2048), 6.0),
        (6, 2048, (4096, 4096), 8.485281),
        (4, 1024, (4096, 4096), 8.0),
        (4, 1024, (1024, 4096), 5.656854),  # the geometric mean of the sides counts
    ],
)
def test_a_dynamic_shift_grows_with_the_root_of_the_mean_side(base, reference, size, shift):
    assert DynamicShift(base=base, reference=reference).at(*size) == pytest.approx(shift, rel=1e-6)

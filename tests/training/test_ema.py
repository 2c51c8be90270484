import pytest
import torch

from latpix.errors import OptionError
from latpix.training.ema import average_decay, power_exponent, update_average
from latpix.training.learning_rate import cool_down, warm_up


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_the_average_remembers_the_share_of_the_run_that_its_width_says(width):
    """The weights that updates have in the average, as a distribution over the run: its deviation is the width."""
    exponent, length = power_exponent(width), 4000
    shares = torch.zeros(length, dtype=torch.float64)
    for update in range(length):
        decay = average_decay(update, exponent)
        shares *= decay
        shares[update] = 1 - decay
    when = torch.arange(length) / length
    mean = (shares * when).sum()
    assert shares.sum().item() == pytest.approx(1)
    assert (shares * (when - mean).square()).sum().sqrt().item() == pytest.approx(width, rel=1e-2)


def test_the_first_update_forgets_what_was_there():
    average = [torch.full((2,), 1e9), torch.zeros(1)]
    update_average(average, [torch.tensor([1.0, 2.0]), torch.tensor([3.0])], average_decay(0, power_exponent()))
    assert [tensor.tolist() for tensor in average] == [[1, 2], [3]]


def test_weights_of_low_precision_are_averaged_in_float32():
    average = [torch.zeros(1)]
    for update in range(200):
        update_average(average, [torch.ones(1, dtype=torch.bfloat16) * update], average_decay(update, 6.0))
    assert average[0].dtype == torch.float32
    assert average[0].item() == pytest.approx(199 * 7 / 8, rel=0.01)  # the mean of a power profile


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3])
def test_a_width_that_no_profile_has_is_refused(width):
    with pytest.raises(OptionError, match=r"0\.289"):
        power_exponent(width)


def test_the_learning_rate_rises_in_a_straight_line_and_stays():
    assert warm_up(0, 100) == 1e-6
    assert warm_up(50, 100) == pytest.approx(0.5, abs=1e-6)
    assert [warm_up(update, 100) for update in (100, 5000)] == [1, 1]
    assert [cool_down(step, 100, 20) for step in (0, 80, 90, 99)] == [1, 1, 0.5, 0.05]
    assert cool_down(99, 100, 0) == cool_down(0, 100, 100) == 1
    assert warm_up(0, 0) == 1

"""Samplers on denoisers whose right answer is known."""

import math

import pytest
import torch

from latpix.errors import ScheduleError
from latpix.sampling.guidance import guide
from latpix.sampling.paths import velocity_of, x0_of
from latpix.sampling.samplers import sample_multistep, sample_ode, sample_renoise
from latpix.sampling.schedules import solver_times, student_times

SAMPLERS = [sample_renoise, sample_ode, sample_multistep]
TRAINED = (0.999, 0.866, 0.634, 0.342, 0.0)
X0 = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def noise(draw):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(100 + draw))


def perfect(prediction):
    """A denoiser that knows the picture."""
    return lambda x_t, t: X0 if prediction == "x0" else (x_t - X0) / t.view(-1, 1, 1, 1)


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("prediction", ["velocity", "x0"])
@pytest.mark.parametrize("sample", SAMPLERS)
def test_a_perfect_denoiser_gives_back_its_pixels(sample, prediction, steps):
    times = solver_times(steps, 6.0) if sample is sample_multistep else student_times(TRAINED, steps)
    torch.testing.assert_close(sample(perfect(prediction), noise, times, prediction=prediction), X0)


@pytest.mark.parametrize(
    ("sample", "drawn"), [(sample_renoise, [0, 1, 2, 3]), (sample_ode, [0]), (sample_multistep, [0])]
)
def test_each_sampler_makes_the_draws_that_it_should(sample, drawn):
    draws = []
    sample(perfect("x0"), lambda draw: draws.append(draw) or noise(draw), torch.tensor(TRAINED), prediction="x0")
    assert draws == drawn


@pytest.mark.parametrize("sample", SAMPLERS)
def test_the_denoiser_is_asked_once_per_interval_at_its_start_from_noise_on(sample):
    asked, states = [], []

    def denoise(x_t, t):
        asked.append(t)
        states.append(x_t)
        return perfect("velocity")(x_t, t)

    sample(denoise, noise, torch.tensor(TRAINED))
    assert torch.equal(torch.stack(asked), torch.tensor(TRAINED[:-1])[:, None].expand(4, 2))
    assert torch.equal(states[0], noise(0))


def test_renoising_puts_the_state_on_the_straight_path_of_the_next_draw():
    states = []
    sample_renoise(lambda x_t, _: states.append(x_t) or X0, noise, torch.tensor(TRAINED), prediction="x0")
    for draw, (state, t) in enumerate(zip(states[1:], TRAINED[1:], strict=False), start=1):
        torch.testing.assert_close(state, (1 - t) * X0 + t * noise(draw))


def test_following_the_velocity_keeps_the_first_noise():
    states = []
    sample_ode(lambda x_t, _: states.append(x_t) or noise(0) - X0, noise, torch.tensor((1.0, 0.6, 0.2, 0.0)))
    for state, t in zip(states, (1.0, 0.6, 0.2), strict=True):
        torch.testing.assert_close(state, (1 - t) * X0 + t * noise(0))


@pytest.mark.parametrize("sample", SAMPLERS)
def test_every_step_reports_its_guess(sample):
    reports = []
    sample(perfect("velocity"), noise, torch.tensor(TRAINED), on_step=lambda *report: reports.append(report))
    assert [report[:2] for report in reports] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for _, _, x0 in reports:
        torch.testing.assert_close(x0, X0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize("times", [(1.0, 0.5), (0.3, 0.6, 0.0)])
def test_every_sampler_refuses_times_that_do_not_fall_to_zero(sample, times):
    with pytest.raises(ScheduleError):
        sample(perfect("velocity"), noise, torch.tensor(times))


@pytest.mark.parametrize("sample", SAMPLERS)
def test_no_gradients_are_recorded(sample):
    weight = torch.ones((), requires_grad=True)
    assert not sample(lambda x_t, _: weight * x_t, noise, torch.tensor(TRAINED)).requires_grad


@pytest.mark.parametrize("sample", SAMPLERS)
def test_pixels_are_float32_though_the_network_puts_out_bfloat16(sample):
    assert sample(lambda x_t, _: x_t.bfloat16(), noise, torch.tensor(TRAINED)).dtype == torch.float32


def test_a_second_evaluation_at_time_zero_changes_a_velocity_decode_by_nothing():
    times = torch.tensor(TRAINED)
    twice = torch.cat([times, times[-1:]])

    def denoise(x_t, t):
        return 0.3 * x_t + t.view(-1, 1, 1, 1)

    for sample in (sample_renoise, sample_ode):
        assert torch.equal(sample(denoise, noise, times), sample(denoise, noise, twice))


def test_the_step_to_x0_is_taken_in_float64():
    """In float32 t times the velocity would be rounded before the difference."""
    x_t, velocity, t = torch.full((1, 3, 1, 1), 1e3), torch.full((1, 3, 1, 1), 1e3 / 0.999), torch.tensor(0.999)
    exact = x_t.double() - t.double() * velocity.double()
    assert torch.equal(x0_of("velocity", x_t, t, velocity), exact.float())
    assert not torch.equal(x_t - t * velocity, exact.float())


def test_an_x0_predictions_velocity_is_damped_below_a_twentieth():
    x_t, x0 = torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    assert float(velocity_of("x0", x_t, torch.tensor(0.5), x0)[0, 0]) == pytest.approx(2)
    assert float(velocity_of("x0", x_t, torch.tensor(0.01), x0)[0, 0]) == pytest.approx(20)


SPREAD = 0.5  # standard deviation of the Gaussian pictures below


def gaussian(x_t, t):
    """The perfect velocity of independent Gaussian pixels, by the mean of x0 given x_t."""
    t = t.view(-1, 1, 1, 1)
    return (x_t - (1 - t) * SPREAD**2 / ((1 - t) ** 2 * SPREAD**2 + t**2) * x_t) / t


def error_at(sample, times):
    """Against the exact flow, which only rescales."""
    start = float(times[0])
    exact = SPREAD / math.hypot((1 - start) * SPREAD, start) * noise(0)
    return float((sample(gaussian, noise, times) - exact).abs().max())


def test_the_solver_is_of_second_order_and_eulers_method_of_first():
    coarse, fine = solver_times(128, 1.0), solver_times(256, 1.0)
    assert 1.9 < error_at(sample_ode, coarse) / error_at(sample_ode, fine) < 2.1
    assert 3.2 < error_at(sample_multistep, coarse) / error_at(sample_multistep, fine) < 4.2
    assert error_at(sample_multistep, coarse) < 0.1 * error_at(sample_ode, coarse)


def test_a_guidance_scale_of_one_costs_one_call():
    def never(_x_t, _t):
        raise AssertionError("the null caption was asked for")

    denoise = perfect("velocity")
    assert guide(denoise, never, 1.0) is denoise


def test_guidance_moves_away_from_the_null_prediction():
    guided = guide(lambda x_t, _: x_t + 1, lambda x_t, _: x_t - 1, 5.0)
    assert torch.equal(guided(X0, torch.ones(2)), X0 - 1 + 5 * (X0 + 1 - (X0 - 1)))


def test_guidance_on_velocities_and_on_pictures_is_the_same_decode():
    times = solver_times(6, 3.0)
    pictures = guide(lambda x_t, _: 0.5 * x_t, lambda x_t, _: 0.2 * x_t, 2.0)
    velocities = guide(
        lambda x_t, t: 0.5 * x_t / t.view(-1, 1, 1, 1), lambda x_t, t: 0.8 * x_t / t.view(-1, 1, 1, 1), 2.0
    )
    a = sample_multistep(pictures, noise, times, prediction="x0")
    torch.testing.assert_close(a, sample_multistep(velocities, noise, times), rtol=0, atol=1e-4)

import pytest
import torch

from latpix.training.flow_matching import flow_matching, flow_matching_loss, mix
from latpix.training.given import Given, per_pixel

GENERATOR = torch.Generator().manual_seed(0)
X0 = torch.rand(3, 3, 8, 8, generator=GENERATOR) * 2 - 1
NOISE = torch.randn(3, 3, 8, 8, generator=GENERATOR)
T = torch.tensor([0.2, 0.6, 0.9])
GIVEN = Given(torch.randn(3, 4, 2, 2), torch.tensor([0.0, 0.3, 0.8]), torch.randn(3, 5, 6))


def test_the_path_begins_at_the_picture_and_ends_at_the_noise():
    assert torch.equal(mix(X0, NOISE, torch.zeros(3)), X0)
    assert torch.equal(mix(X0, NOISE, torch.ones(3)), NOISE)


@pytest.mark.parametrize("prediction", ["velocity", "x0"])
def test_a_network_that_knows_the_answer_loses_nothing(prediction):
    def network(x_t, *_):
        return NOISE - X0 if prediction == "velocity" else X0

    loss, x_t = flow_matching(network, X0, NOISE, T, GIVEN, prediction)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(x_t, mix(X0, NOISE, T))


def test_the_same_guess_costs_the_same_as_velocity_or_as_x0_except_near_time_zero():
    x_t, output = mix(X0, NOISE, T), torch.randn(3, 3, 8, 8)
    as_x0 = x_t - per_pixel(T) * output
    by_velocity = flow_matching_loss(output, x_t, X0, NOISE, T)
    torch.testing.assert_close(flow_matching_loss(as_x0, x_t, X0, NOISE, T, "x0"), by_velocity)
    early = torch.full((3,), 0.01)
    x_t = mix(X0, NOISE, early)
    as_x0 = x_t - 0.01 * output
    floored = (x_t - as_x0) / 0.05
    expected = (floored - (NOISE - X0)).square().mean()
    torch.testing.assert_close(flow_matching_loss(as_x0, x_t, X0, NOISE, early, "x0"), expected)


def test_before_time_zero_point_zero_five_the_true_x0_costs_and_one_with_some_noise_does_not():
    t = torch.full((3,), 0.02)
    x_t, velocity = mix(X0, NOISE, t), NOISE - X0
    cost = (1 - 0.02 / 0.05) ** 2 * velocity.square().mean()
    torch.testing.assert_close(flow_matching_loss(X0, x_t, X0, NOISE, t, "x0"), cost)
    assert flow_matching_loss(x_t - 0.05 * velocity, x_t, X0, NOISE, t, "x0").item() == pytest.approx(0, abs=1e-10)


def test_the_network_is_told_a_thousand_t_and_the_condition_in_float32_and_may_answer_in_bfloat16():
    asked = []

    def network(*arguments):
        asked.append(arguments)
        return (NOISE - X0).bfloat16()

    loss, x_t = flow_matching(network, X0, NOISE, T.bfloat16(), GIVEN)
    ((state, timestep, latent, latent_sigma, caption),) = asked
    assert state is x_t
    assert torch.equal(timestep, 1000 * T.bfloat16().float())
    assert timestep.dtype == torch.float32
    assert (latent, latent_sigma, caption) == (GIVEN.latent, GIVEN.latent_sigma, GIVEN.caption)
    assert loss.dtype == torch.float32


def test_a_caption_for_the_whole_batch_is_repeated():
    one = torch.randn(1, 5, 6)
    assert torch.equal(GIVEN.captioned(one).caption, one.repeat(3, 1, 1))
    assert GIVEN.captioned(None).caption is None
    assert GIVEN.captioned(one).latent is GIVEN.latent

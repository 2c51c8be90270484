import pytest
import torch
from training_toys import Listed, small_batch, toy

from latpix.sampling.samplers import sample_ode, sample_renoise
from latpix.training.flow_matching import mix
from latpix.training.given import Given, per_pixel
from latpix.training.student_samples import guess, noised_input, rollout_input, student_sample

TIMES = torch.tensor([0.999, 0.866, 0.634, 0.342, 0.0])
PIXELS, GIVEN = small_batch()
SHAPE = (3, 3, 16, 16)


def perfect(pixels):
    return lambda x_t, timestep, *_: (x_t - pixels) / per_pixel(timestep / 1000)


def test_noised_pictures_stand_at_times_of_the_schedule_and_a_perfect_student_gives_them_back():
    draws = Listed()
    x_t, t = noised_input(PIXELS, TIMES, draws)
    assert draws.made == ["student_noise", "student_step"]
    assert all(float(time) in TIMES[:-1].tolist() for time in t)
    made = student_sample(perfect(PIXELS), PIXELS, GIVEN, TIMES, Listed())
    torch.testing.assert_close(made, PIXELS)
    torch.testing.assert_close(guess(perfect(PIXELS), GIVEN, x_t, t), PIXELS)


@pytest.mark.parametrize(("way", "sample"), [("renoise", sample_renoise), ("ode", sample_ode)])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_rollout_is_where_the_students_own_decode_stands_after_as_many_steps(way, sample, steps):
    student, states = toy(0), []

    def denoise(x_t, t):
        states.append(x_t)
        return GIVEN.ask(student, x_t, t)

    noises = {f"renoise{i}": torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(3)}
    noises["student_noise"] = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    sample(denoise, lambda draw: noises[f"renoise{draw - 1}" if draw else "student_noise"], TIMES)
    draws = Listed(rollout_step=torch.tensor(steps), **noises)
    x_t, t = rollout_input(student, GIVEN, SHAPE, TIMES, draws, way=way)
    torch.testing.assert_close(x_t, states[steps])
    assert t.tolist() == pytest.approx([float(TIMES[steps])] * 3)
    renoised = [f"renoise{i}" for i in range(steps)] if way == "renoise" else []
    assert draws.made == ["student_noise", "rollout_step", *renoised]


@pytest.mark.parametrize("way", ["renoise", "ode"])
def test_a_batch_rolls_out_as_its_samples_would_one_by_one(way):
    noise = {name: torch.randn(SHAPE) for name in ("student_noise", "renoise0", "renoise1")}
    together = student_sample(
        toy(0), PIXELS, GIVEN, TIMES, Listed(rollout_step=torch.tensor(2), **noise), rollout=1.0, way=way
    )
    for i in range(3):
        own = Given(GIVEN.latent[[i]], GIVEN.latent_sigma[[i]], GIVEN.caption[[i]])
        draws = Listed(rollout_step=torch.tensor(2), **{name: drawn[[i]] for name, drawn in noise.items()})
        alone = student_sample(toy(0), PIXELS[[i]], own, TIMES, draws, rollout=1.0, way=way)
        torch.testing.assert_close(together[[i]], alone)


def test_only_the_last_step_of_a_rollout_has_a_gradient():
    student = toy(0)
    draws = Listed(rollout_step=torch.tensor(3))
    x_t, t = rollout_input(student, GIVEN, SHAPE, TIMES, draws)
    assert not x_t.requires_grad
    rolled = student_sample(student, PIXELS, GIVEN, TIMES, Listed(rollout_step=torch.tensor(3)), rollout=1.0)
    rolled.sum().backward()
    expected = toy(0)
    guess(expected, GIVEN, x_t, t).sum().backward()
    for letter, weight in student.weights.items():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, expected.weights[letter].grad)


def test_a_student_of_one_step_starts_at_pure_noise():
    asked = []

    def student(x_t, timestep, *_):
        asked.append((x_t, timestep))
        return x_t

    draws = Listed()
    student_sample(student, PIXELS, GIVEN, torch.tensor([1.0, 0.0]), draws)
    ((x_t, timestep),) = asked
    assert torch.equal(x_t, Listed().normal("student_noise", SHAPE))
    assert timestep.tolist() == [1000, 1000, 1000]


def test_rollouts_are_mixed_in_by_chance_and_only_a_real_chance_is_drawn():
    for chance, drawn in {0.0: False, 1.0: False, 0.5: True}.items():
        draws = Listed()
        student_sample(toy(0), PIXELS, GIVEN, TIMES, draws, rollout=chance)
        assert ("rollout" in draws.made) == drawn
    for number, way in {0.4: "rollout_step", 0.6: "student_step"}.items():
        draws = Listed(rollout=torch.tensor(number))
        student_sample(toy(0), PIXELS, GIVEN, TIMES, draws, rollout=0.5)
        assert draws.made[:3] == ["rollout", "student_noise", way]


def test_a_student_that_puts_out_pictures_is_understood():
    def by_x0(*_):
        return PIXELS

    for rollout in (0.0, 1.0):
        made = student_sample(by_x0, PIXELS, GIVEN, TIMES, Listed(), rollout=rollout, prediction="x0")
        assert torch.equal(made, PIXELS)
    draws = Listed(rollout_step=torch.tensor(2))
    x_t, t = rollout_input(by_x0, GIVEN, SHAPE, TIMES, draws, prediction="x0")
    repeated = Listed()
    repeated.normal("student_noise", SHAPE)
    repeated.choice("rollout_step", (), 4)
    repeated.normal("renoise0", SHAPE)
    torch.testing.assert_close(x_t, mix(PIXELS, repeated.normal("renoise1", SHAPE), t))

from dataclasses import replace

import pytest
import torch
from training_toys import Listed, has_gradient, small_batch, toy

from latpix.errors import OptionError
from latpix.training.discriminator import Discriminator
from latpix.training.dmd import DistillSettings, critic_step, frozen, perturbation, student_step
from latpix.training.fidelity import fidelity_loss

PIXELS, GIVEN = small_batch()
NULL = torch.zeros(1, 5, 6)
SETTINGS = DistillSettings()
UNGUIDED = replace(SETTINGS, guidance_scale=1.0)
NATIVE = torch.zeros(3, 3, 4, 4)


def judge(seed=0):
    torch.manual_seed(seed)
    return Discriminator([8])


def students(student=None, teacher=None, fake=None, settings=SETTINGS, draws=None, iteration=50, **extra):
    student, teacher, fake = student or toy(0), teacher or toy(1), fake or toy(2)
    extra = {"null_caption": NULL} | extra
    return student_step(
        student, teacher, fake, PIXELS, GIVEN, draws or Listed(), settings, iteration=iteration, **extra
    )


def with_gan(teacher, discriminator):
    return {"features": teacher.features, "discriminator": discriminator}


def critics(fake=None, settings=SETTINGS, draws=None, student=None, **extra):
    return critic_step(student or toy(0), fake or toy(2), PIXELS, GIVEN, draws or Listed(), settings, **extra)


def test_the_students_step_leaves_gradients_in_the_student_only():
    student, teacher, fake, discriminator = toy(0), toy(1), toy(2), judge()
    step = students(student, teacher, fake, **with_gan(teacher, discriminator))
    step.total.backward()
    assert has_gradient(student)
    assert not has_gradient(fake)
    assert all(weight.grad is None for weight in discriminator.parameters())


def test_the_critics_step_leaves_gradients_in_fake_score_and_discriminator_only():
    student, teacher, fake, discriminator = toy(0), toy(1), toy(2), judge()
    step = critics(fake, student=student, **with_gan(teacher, discriminator))
    step.total.backward()
    assert has_gradient(fake)
    assert all(weight.grad is not None for weight in discriminator.parameters())
    assert not has_gradient(student)
    assert not has_gradient(teacher)


def test_the_gan_reaches_the_student_through_the_teachers_features():
    """Without it a student whose teacher and fake score agree has no gradient at all."""
    student, teacher, same = toy(0), toy(1), toy(1)
    without = students(student, teacher, same, UNGUIDED)
    without.total.backward()
    assert without.total.item() == 0
    assert not has_gradient(student)
    students(student, teacher, same, UNGUIDED, **with_gan(teacher, judge())).total.backward()
    assert has_gradient(student)


def test_totals_are_their_weighted_terms():
    teacher, discriminator = toy(1), judge()
    step = students(teacher=teacher, iteration=50, **with_gan(teacher, discriminator))
    torch.testing.assert_close(step.total, step.losses["vsd"] + 0.025 * step.losses["gan"])
    first = students(teacher=teacher, iteration=0, **with_gan(teacher, discriminator))
    assert first.total.item() == first.losses["vsd"].item()
    step = critics(**with_gan(teacher, discriminator))
    assert step.losses.keys() == {"fake_score", "discriminator", "r1"}
    losses = step.losses
    torch.testing.assert_close(step.total, losses["fake_score"] + losses["discriminator"] + 200 * losses["r1"])


def test_guidance_acts_on_the_teacher_alone():
    plain, guided = (students(settings=settings).seen for settings in (UNGUIDED, SETTINGS))
    assert torch.equal(plain["x0"], guided["x0"])
    assert torch.equal(plain["x0_fake"], guided["x0_fake"])
    assert not torch.equal(plain["x0_teacher"], guided["x0_teacher"])


def test_guidance_without_a_null_caption_is_refused_and_none_needs_none():
    with pytest.raises(OptionError, match=r"guidance_scale is 3\.0, but there is no null caption"):
        students(null_caption=None)
    students(settings=UNGUIDED, null_caption=None)


def test_draws_come_in_the_documented_order():
    teacher, discriminator = toy(1), judge()
    first = ["student_noise", "student_step", "time", "perturb_noise"]
    for step, made in ((students, first), (critics, [*first, "r1_noise"])):
        draws = Listed()
        step(draws=draws, **with_gan(teacher, discriminator))
        assert draws.made == made
    draws = Listed()
    critics(draws=draws, settings=replace(SETTINGS, r1_weight=0.0), **with_gan(teacher, discriminator))
    assert draws.made == first


def test_critics_see_times_between_their_bounds_without_the_teachers_shift():
    z = torch.tensor([-9.0, 0.0, 9.0])
    t, _ = perturbation(PIXELS, Listed(time=z), SETTINGS)
    assert t.tolist() == pytest.approx([0.02, 0.5, 0.99])
    shifted, _ = perturbation(PIXELS, Listed(time=z), replace(SETTINGS, shift=3.0))
    assert shifted.tolist() == pytest.approx([0.02, 0.75, 0.99])


def test_true_pictures_and_the_students_are_judged_at_the_same_time_with_the_same_noise():
    """A student that gives the true pictures back cannot be told from them, whatever the discriminator."""
    teacher, asked = toy(1), []

    def features(x_t, timestep, *given):
        asked.append((x_t, timestep))
        return teacher.features(x_t, timestep, *given)

    def perfect(x_t, timestep, *_):
        return (x_t - PIXELS) / (timestep / 1000).view(-1, 1, 1, 1)

    step = critics(student=perfect, features=features, discriminator=judge())
    (fake, real, near), times = zip(*asked, strict=True)
    torch.testing.assert_close(fake, real, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((near - real).std(), torch.tensor(0.1), rtol=0.05, atol=0)
    assert all(torch.equal(t, times[0]) for t in times)
    assert step.losses["r1"] > 0


def test_with_rollouts_the_true_pictures_values_do_not_matter_to_the_student():
    settings = replace(SETTINGS, rollout=1.0, way="ode")
    one = student_step(toy(0), toy(1), toy(2), PIXELS, GIVEN, Listed(), settings, iteration=0, null_caption=NULL)
    other = student_step(toy(0), toy(1), toy(2), -PIXELS, GIVEN, Listed(), settings, iteration=0, null_caption=NULL)
    assert torch.equal(one.total, other.total)
    assert not torch.equal(one.seen["x0"], students().seen["x0"])


def test_the_fidelity_term_counts_where_it_has_a_weight_and_a_picture():
    native = {"native": NATIVE, "downsample": 2}
    assert "fidelity" not in students(**native).losses
    bound = replace(SETTINGS, fidelity_weight=0.5)
    assert "fidelity" not in students(settings=bound).losses
    step = students(settings=bound, **native)
    torch.testing.assert_close(step.total, step.losses["vsd"] + 0.5 * step.losses["fidelity"])
    expected = fidelity_loss(step.seen["x0"], NATIVE, GIVEN.latent_sigma, downsample=2)
    torch.testing.assert_close(step.losses["fidelity"], expected)


def test_frozen_modules_are_as_before_even_after_an_error():
    discriminator = judge()
    discriminator.cls_pred_heads[0][0].bias.requires_grad_(False)
    before = [weight.requires_grad for weight in discriminator.parameters()]

    def fail():
        with frozen(discriminator):
            assert not any(weight.requires_grad for weight in discriminator.parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [weight.requires_grad for weight in discriminator.parameters()] == before


def gaussian(mean, spread):
    """The network that is right for pictures whose pixels are all drawn around ``mean``."""

    def velocity(x_t, timestep, *_):
        t = (timestep / 1000).view(-1, 1, 1, 1)
        variance = (1 - t) ** 2 * spread**2 + t**2
        x0 = mean + (1 - t) * spread**2 / variance * (x_t - (1 - t) * mean)
        return (x_t - x0) / t

    return velocity


def test_beside_a_right_fake_score_the_student_ends_with_the_teachers_mean_and_spread():
    mean, spread = torch.tensor(-0.5, requires_grad=True), torch.tensor(0.6, requires_grad=True)

    def student(x_t, *_):
        return x_t - (mean + spread * x_t)

    settings = replace(UNGUIDED, times=(1.0, 0.0))
    optimizer, draws = torch.optim.Adam([mean, spread], 0.01), Listed()
    for iteration in range(400):
        fake = gaussian(mean.item(), spread.item())
        students(student, gaussian(0.3, 0.2), fake, settings, draws, iteration).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert mean.item() == pytest.approx(0.3, abs=0.03)
    assert abs(spread.item()) == pytest.approx(0.2, abs=0.03)

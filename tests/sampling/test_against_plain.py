"""A whole decode, sampler and network, is the plain implementation's."""

import pytest
import torch
from small_networks import FORMS, SMALL_TEXT, close, condition_of, small_inputs, small_network

from latpix.benchmark import plain, plain_sampling
from latpix.sampling.guidance import guide
from latpix.sampling.noise import noise_field
from latpix.sampling.samplers import sample_multistep, sample_ode, sample_renoise
from latpix.sampling.schedules import DynamicShift, solver_times, student_times

TRAINED = (0.999, 0.866, 0.634, 0.342, 0.0)
STUDENTS = {"sde": sample_renoise, "ode": sample_ode}


def bound(network, given):
    condition = condition_of(network, given)
    return lambda x_t, t: network(x_t, 1000 * t, condition)


def plainly(network, given):
    rest = {name: tensor for name, tensor in given.items() if name not in ("x_t", "timestep")}
    parameters = dict(network.named_parameters())
    return lambda x_t, timestep: plain.predict(network.config, parameters, x_t, timestep, **rest)


def case(form):
    network, given = small_network(FORMS[form]), small_inputs(FORMS[form], grid=(4, 4))
    return network, given, noise_field([5, 6], 3, *given["x_t"].shape[-2:])


@pytest.mark.parametrize("steps", [1, 2, None, 8])
@pytest.mark.parametrize("kind", STUDENTS)
@pytest.mark.parametrize(
    ("form", "prediction"), [("v1", "velocity"), ("v1.5", "velocity"), ("tiny", "x0"), ("v1", "x0")]
)
def test_a_students_decode_is_the_plain_one(form, prediction, kind, steps):
    network, given, noise = case(form)
    pixels = STUDENTS[kind](bound(network, given), noise, student_times(TRAINED, steps), prediction=prediction)
    times = plain_sampling.student_times(TRAINED, steps)
    expected = plain_sampling.sample_student(
        plainly(network, given), noise, times, kind=kind, prediction=prediction
    )  # fmt: skip
    close(pixels.clamp(-1, 1), expected)


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.75])
@pytest.mark.parametrize(("form", "prediction"), [("v1", "velocity"), ("v1.5", "x0"), ("text", "velocity")])
def test_a_teachers_decode_is_the_plain_one(form, prediction, guidance_scale, steps):
    network, given, noise = case(form)
    null = {**given, "caption": small_inputs(FORMS[form], caption_length=6, seed=9)["caption"]}
    height, width = given["x_t"].shape[-2:]
    times = solver_times(steps, DynamicShift(base=6, reference=16).at(height, width))
    denoise = guide(bound(network, given), bound(network, null), guidance_scale)
    pixels = sample_multistep(denoise, noise, times, prediction=prediction)
    expected = plain_sampling.sample_teacher(
        plainly(network, given),
        noise,
        plain_sampling.teacher_times(steps, plain_sampling.dynamic_shift(6, 16, height, width)),
        without_caption=plainly(network, null),
        guidance_scale=guidance_scale,
        prediction=prediction,
    )
    close(pixels.clamp(-1, 1), expected, 3e-6)  # the float32 solver starts at 1 - t of a few ten-thousandths


def test_guidance_changes_the_decode():
    network, given, noise = case("text")
    null = {**given, "caption": small_inputs(SMALL_TEXT, seed=9)["caption"]}
    once, thrice = (
        sample_multistep(guide(bound(network, given), bound(network, null), s), noise, solver_times(4, 6.0))
        for s in (1.0, 3.0)
    )
    assert (once - thrice).abs().max() > 1e-2


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_of_a_batch_is_decoded_as_alone_with_its_seed(form):
    """To rounding: see the network's own test. The noise is the same to the bit."""
    network, given, noise = case(form)
    times = student_times(TRAINED, None)
    whole = sample_renoise(bound(network, given), noise, times)
    for k, seed in enumerate((5, 6)):
        one = {name: tensor[k : k + 1] for name, tensor in given.items()}
        alone = noise_field([seed], 3, *given["x_t"].shape[-2:])
        assert torch.equal(alone(0)[0], noise(0)[k])
        close(sample_renoise(bound(network, one), alone, times), whole[k : k + 1])


def test_a_decode_repeats_to_the_bit():
    network, given, noise = case("v1.5")
    times = student_times(TRAINED, None)
    first, second = (sample_renoise(bound(network, given), noise, times) for _ in range(2))
    assert torch.equal(first, second)

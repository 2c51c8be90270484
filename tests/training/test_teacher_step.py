from dataclasses import replace

import pytest
import torch
from small_networks import SMALL_V1_5
from training_toys import Listed, toy

from latpix.network.model import Denoiser
from latpix.training.auxiliary_rgb import auxiliary_rgb_loss
from latpix.training.draws import Recorded
from latpix.training.flow_matching import flow_matching
from latpix.training.given import Given
from latpix.training.latent_noising import LatentNoising
from latpix.training.teacher_step import TeacherSettings, teacher_step

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.rand(3, 3, 32, 32, generator=GENERATOR) * 2 - 1
NATIVE = torch.rand(3, 3, 8, 8, generator=GENERATOR) * 2 - 1
LATENT = torch.randn(3, 4, 4, 4, generator=GENERATOR)
CAPTION, EMPTY = torch.randn(3, 5, 6, generator=GENERATOR), torch.zeros(1, 5, 6)


def draws():
    return Listed()


def step(network, settings=None, made=None, **extra):
    settings = settings or TeacherSettings()
    return teacher_step(
        network, PIXELS, LATENT, made or draws(), settings, caption=CAPTION, empty_caption=EMPTY, **extra
    )


def test_the_total_is_the_flow_loss_and_the_weighted_rgb_loss():
    network = toy(1)
    whole = step(network, native=NATIVE, predict_rgb=network.rgb)
    assert whole.losses.keys() == {"flow", "rgb"}
    torch.testing.assert_close(whole.total, whole.losses["flow"] + 0.8 * whole.losses["rgb"])
    seen = whole.seen
    expected = auxiliary_rgb_loss(network.rgb(seen["latent"]), NATIVE, seen["latent_sigma"])
    torch.testing.assert_close(whole.losses["rgb"], expected)


@pytest.mark.parametrize("missing", ["native", "predict_rgb"])
def test_without_a_head_or_a_native_picture_there_is_no_rgb_loss(missing):
    network = toy(1)
    parts = {"native": NATIVE, "predict_rgb": network.rgb}
    del parts[missing]
    bare = step(network, **parts)
    assert bare.losses.keys() == {"flow"}
    assert bare.total is bare.losses["flow"]


def test_draws_come_in_the_documented_order():
    made = draws()
    step(toy(1), made=made)
    assert made.made == ["apply", "sigma", "latent_noise", "drop_latent", "drop_caption", "time", "noise"]


def test_a_dropped_latent_keeps_its_sigma_and_owes_no_rgb():
    network = toy(1)
    recorded = {
        "apply": torch.zeros(3),
        "sigma": torch.tensor([0.5, 0.25, 0.5]),
        "latent_noise": torch.randn(3, 4, 4, 4),
        "drop_latent": torch.tensor([0.5, 0.01, 0.5]),
        "drop_caption": torch.ones(3),
        "time": torch.zeros(3),
        "noise": torch.randn(3, 3, 32, 32),
    }
    whole = step(network, made=Recorded(recorded), native=NATIVE, predict_rgb=network.rgb)
    latent, latent_sigma = whole.seen["latent"], whole.seen["latent_sigma"]
    assert not latent[1].any()
    torch.testing.assert_close(latent_sigma, torch.tensor([0.4, 0.2, 0.4]))
    others = [0, 2]
    expected = auxiliary_rgb_loss(network.rgb(latent)[others], NATIVE[others], latent_sigma[others])
    torch.testing.assert_close(whole.losses["rgb"], expected)


def test_without_noising_and_dropout_the_step_is_plain_flow_matching():
    plain = TeacherSettings(noising=LatentNoising(chance=0.0), drop_caption=0.0, drop_latent=0.0, shift=2.0)
    whole = step(toy(1), plain)
    repeated = draws()
    repeated.uniform("apply", (3,))
    repeated.normal("time", (3,))
    noise = repeated.normal("noise", (3, 3, 32, 32))
    given = Given(LATENT, torch.zeros(3), CAPTION)
    expected, _ = flow_matching(toy(1), PIXELS, noise, whole.seen["t"], given)
    torch.testing.assert_close(whole.total, expected)


def test_a_network_without_captions_is_asked_without():
    asked = []

    def network(x_t, timestep, latent, latent_sigma, caption):
        asked.append(caption)
        return x_t

    teacher_step(network, PIXELS, LATENT, draws(), TeacherSettings())
    assert asked == [None]


@pytest.mark.parametrize("with_rgb", [True, False])
def test_in_the_first_step_of_a_real_network_only_the_rgb_loss_reaches_the_latents_convolutions(with_rgb):
    torch.manual_seed(0)
    real = Denoiser(replace(SMALL_V1_5, rgb_head=-1, patch_size=8, latent_downsample=2))
    found = []

    def network(x_t, timestep, latent, latent_sigma, caption):
        condition = real.condition(height=32, width=32, latent=latent, latent_sigma=latent_sigma, caption=caption)
        found.append(real.latent_projection.rgb_head(condition.features.rgb_source))
        return real(x_t, timestep, condition)

    caption = torch.randn(3, 5, 12)
    head = {"native": NATIVE, "predict_rgb": lambda latent: found[-1]} if with_rgb else {}
    settings = TeacherSettings(drop_latent=0.0)
    teacher_step(network, PIXELS, LATENT, draws(), settings, caption=caption, **head).total.backward()
    gradient = real.latent_projection.latent_stack.conv_in.weight.grad
    assert (gradient is not None and bool(gradient.any())) == with_rgb

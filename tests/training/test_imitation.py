"""Imitation: nothing to learn where the student is told the same, a clean look for it alone, and a loss that falls."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_networks import SMALL_V1_5, small_network
from training_toys import Listed

from latpix.data.made_up import made_up
from latpix.data.pictures import reduced, to_pixels
from latpix.network.model import Denoiser
from latpix.sampling.noise import noise_field
from latpix.sampling.paths import x0_of
from latpix.sampling.samplers import sample_renoise
from latpix.training.draws import Seeded
from latpix.training.imitation import imitation_step
from latpix.training.job import SampleDraws
from latpix.training.latent_noising import LatentNoising
from latpix.training.learning import adapter
from latpix.training.painter import Painter
from latpix.training.teacher_step import TeacherSettings, teacher_step

TIMES = torch.tensor([0.999, 0.866, 0.634, 0.342, 0.0])
CLEAN, NOISED = LatentNoising(chance=0.0), LatentNoising(chance=1.0, least=0.3)


def painter(seed=0):
    return Painter(small_network(SMALL_V1_5, seed), "velocity", "float32")


@pytest.fixture
def told():
    generator = torch.Generator().manual_seed(3)
    shapes = {"pixels": (2, 3, 32, 32), "latent": (2, 4, 2, 2), "caption": (2, 5, 12)}
    return {name: torch.randn(shape, generator=generator).tanh() for name, shape in shapes.items()}


def step(network, student, told, students, *, noising=CLEAN, draws=None):
    draws = draws or Seeded(torch.Generator().manual_seed(1))
    given = {"times": TIMES, "noising": noising, "caption": told["caption"]}
    return imitation_step(network, student, told["pixels"], told["latent"], students, draws, **given)


def test_a_network_that_is_the_student_and_told_the_same_has_nothing_to_learn(told):
    assert (
        step(painter(), painter(), told, told["latent"]).total < 1e-12
    )  # with gradients and without agree to rounding
    assert step(painter(), painter(), told, -told["latent"]).total > 1e-5


def test_the_loss_is_that_of_pictures_not_of_velocities(told):
    asked = []

    def remember(network):
        def ask(x_t, timestep, *rest):
            asked.append((x_t, timestep / 1000, network(x_t, timestep, *rest)))
            return asked[-1][2]

        return ask

    total = step(remember(painter(1)), remember(painter()), told, told["latent"]).total
    guesses = [x0_of("velocity", x_t, t.view(-1, 1, 1, 1), velocity) for x_t, t, velocity in asked]
    torch.testing.assert_close(total, (guesses[0] - guesses[1]).square().mean())
    assert torch.equal(asked[0][0], asked[1][0])
    assert all(any(torch.isclose(t, time) for time in TIMES[:-1]) for t in asked[0][1])


def test_the_student_sees_its_latent_clean_and_the_network_its_own_noised(told):
    seen = {}

    def watched(name, network):
        def ask(x_t, timestep, latent, sigma, caption):
            seen[name] = (latent, sigma)
            return network(x_t, timestep, latent, sigma, caption)

        return ask

    draws = Listed()
    step(watched("new", painter()), watched("old", painter()), told, told["latent"], noising=NOISED, draws=draws)
    assert torch.equal(seen["old"][0], told["latent"])
    assert not seen["old"][1].any()
    assert not torch.isclose(seen["new"][0], told["latent"]).any()
    assert (seen["new"][1] >= 0.3).all()
    assert draws.made == ["apply", "sigma", "latent_noise", "student_noise", "student_step"]


def test_gradients_reach_the_network_and_not_the_student(told):
    network, student = painter(1), painter()
    network.requires_grad_(True)
    student.requires_grad_(True)
    step(network, student, told, told["latent"]).total.backward()
    assert network.network.latent_projection.latent_stack.conv_in.weight.grad.any()
    assert all(weight.grad is None for weight in student.parameters())


# What it does to pictures, at tiny scale: a network learns to paint from one linear code of made-up pictures, in four
# steps, and is then told of them by another one.
NETWORK = replace(
    SMALL_V1_5, caption_width=0, latent_channels=12, latent_downsample=8, width=64, heads=4, depth=2, pixel_depth=1,
    pixel_attention_width=32, rope_reference=None, latent_width=32,
)  # fmt: skip
RECODED = replace(NETWORK, latent_channels=48, latent_downsample=16, latent_unpatchify=2)
SIDE, ROTATION = 64, torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]


def coded(pixels):
    """Mean colours of blocks of 4 x 4 native pixels."""
    return 2 * F.pixel_unshuffle(F.avg_pool2d(reduced(pixels, 4), 4), 2)


def recoded(pixels):
    """The same mixed, at half the cells and four times the channels."""
    return F.pixel_unshuffle(torch.einsum("ij, bjhw -> bihw", ROTATION, coded(pixels)), 2)


def learn(painter, made, steps, rate):
    """Train what learns of a painter on crops of made-up pictures; ``made(crops, draws)`` gives the loss."""
    large = torch.stack([to_pixels(made_up(0, number, height=96, width=96)) for number in range(64)])
    weights = [weight for weight in painter.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (k + 1) / 20, 2 - 2 * k / steps)
        generator = torch.Generator().manual_seed(k)
        top, left = torch.randint(96 - SIDE + 1, (2,), generator=generator).tolist()
        crops = large[torch.randint(len(large), (8,), generator=generator), :, top : top + SIDE, left : left + SIDE]
        optimizer.zero_grad()
        made(crops, SampleDraws(0, k, range(8))).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()


@torch.no_grad()
def painted(painter, latent):
    sigma = torch.zeros(len(latent))
    noise = noise_field(range(len(latent)), 3, SIDE, SIDE)
    return sample_renoise(lambda x_t, t: painter(x_t, 1000 * t, latent, sigma), noise, TIMES)


@pytest.mark.slow
def test_it_brings_a_network_that_reads_another_code_back_to_its_own_pictures():
    torch.manual_seed(0)
    flow = TeacherSettings(shift=2.0, drop_caption=0.0, drop_latent=0.0)
    student = Painter(Denoiser(NETWORK), "x0", "float32")
    learn(student, lambda crops, draws: teacher_step(student, crops, coded(crops), draws, flow).total, 200, 2e-3)
    student.requires_grad_(False)
    test = torch.stack([to_pixels(made_up(1, number, height=SIDE, width=SIDE)) for number in range(8)])
    own = painted(student, coded(test))

    torch.manual_seed(1)
    network = Denoiser(RECODED)
    kept = {name: w for name, w in student.network.state_dict().items() if not name.startswith("latent_projection")}
    network.load_state_dict(kept, strict=False)
    adapter(network)
    told = Painter(network, "x0", "float32")

    def alike():
        return float(-10 * torch.log10((painted(told, recoded(test)) - own).square().mean() / 4))

    def made(crops, draws):
        given = {"times": TIMES, "noising": LatentNoising()}
        return imitation_step(told, student, crops, recoded(crops), coded(crops), draws, **given).total

    fresh = alike()
    learn(told, made, 80, 2e-3)
    assert alike() > fresh + 6  # dB; 14.3 becomes 24.1

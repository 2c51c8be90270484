"""What is a latent of a space and what is not; and that the message says which space it is of."""

import pytest
import torch

from latpix.backbones.codec import Codec
from latpix.errors import LatentError
from latpix.latents.check import LOWEST_STD, check_latent, highest_std
from latpix.latents.noising import noise_latent
from latpix.latents.normalize import Statistics, denormalize
from latpix.latents.spaces import LATENT_SPACES

SPREADS = (0.31, 0.72, 1.0, 1.4)  # the least that was measured, what photographs have, and more than the most of a VAE
CHECKER = 2.2  # what half trained codecs of flux2 made of a checkerboard


def latent(name, *, std=1.0, batch=1, seed=0):
    """A tensor of the space's shape with exactly that standard deviation."""
    space = LATENT_SPACES[name]
    sides = (space.fixed_size,) * 2 if space.fixed_size else (8, 12)
    values = torch.randn(batch, space.channels, *sides, generator=torch.Generator().manual_seed(seed))
    flat = values.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / flat.std(1, correction=0, keepdim=True)
    return std * flat.view_as(values)


def refusal(tensor, space, **options):
    with pytest.raises(LatentError) as error:
        check_latent(tensor, space, **options)
    return str(error.value)


@pytest.mark.parametrize("name", LATENT_SPACES)
@pytest.mark.parametrize("std", SPREADS)
def test_latents_pass_in_every_precision(name, std):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check_latent(latent(name, std=std).to(dtype), name)


def test_flux2_has_room_for_pictures_that_its_codec_never_saw():
    check_latent(latent("flux2", std=CHECKER), "flux2")


@pytest.mark.parametrize(("name", "high"), [("flux1", 1.53), ("sd3", 1.53), ("sdxl", 2.77), ("flux2", 3.0)])
def test_the_highest_spread_lies_midway_to_the_nearest_raw_latent(name, high):
    assert highest_std(LATENT_SPACES[name]) == pytest.approx(high, abs=0.01)


@pytest.mark.parametrize("name", ["flux1", "sdxl"])
@pytest.mark.parametrize("std", SPREADS)
@pytest.mark.parametrize("sigma", [0.02, 0.088, 0.2, 0.5, 0.8, 1.0])
def test_noised_latents_pass(name, std, sigma):
    noised = noise_latent(latent(name, std=std), latent(name, seed=1), sigma, LATENT_SPACES[name].noising)
    check_latent(noised, name)


@pytest.mark.parametrize("colour", [(0, 0, 0), (-1, -1, -1), (1, 1, 1), (-1, 1, -1), (0.2, -0.1, 0.6)])
def test_latents_of_flat_pictures_pass(colour):
    codec = Codec.load(device="cpu", dtype="float32")
    flat = torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 128, 128)
    check_latent(codec.encode(flat), codec.space)


@pytest.mark.parametrize("name", ["flux1", "sdxl", "qwen"])
@pytest.mark.parametrize("std", [0.75, 1.0, 1.3])
def test_the_raw_latent_of_the_right_space_is_called_raw(name, std):
    space = LATENT_SPACES[name]
    message = refusal(denormalize(latent(name, std=std), space), name)
    assert f'looks like the raw (unnormalized) latent of a "{name}" VAE' in message
    assert f'normalize.normalize(raw, LATENT_SPACES["{name}"])' in message


@pytest.mark.parametrize("name", ["flux1", "sd3", "sdxl", "qwen"])
def test_the_spread_of_raw_latents_is_what_the_table_derives(name):
    space = LATENT_SPACES[name]
    standard = torch.randn(1, space.channels, 96, 96, generator=torch.Generator().manual_seed(0))
    assert denormalize(standard, space).std().item() == pytest.approx(space.normalization.raw_std, rel=0.01)


def test_the_raw_latent_of_another_space_with_as_many_channels_is_named():
    assert 'raw (unnormalized) latent of a "flux1" VAE' in refusal(
        denormalize(latent("flux1"), LATENT_SPACES["flux1"]), "sd3"
    )


def test_raw_latents_of_sd3_cannot_be_told_from_normalized_ones():
    check_latent(denormalize(latent("sd3"), LATENT_SPACES["sd3"]), "sd3")


def test_flux2s_raw_latent_is_known_by_its_channels():
    statistics = Statistics(torch.zeros(128), torch.ones(128))
    raw = denormalize(latent("flux2"), LATENT_SPACES["flux2"], statistics)
    message = refusal(raw, "flux2", checkpoint="flux2-tiny")
    assert "has 32 channels" in message
    assert 'checkpoint "flux2-tiny" reads space "flux2" (128 channels)' in message
    assert '32 channels is what raw (unnormalized) latents of "flux2" have' in message


def test_a_state_of_eulers_scheduler_is_told_how_to_convert():
    assert "edm_to_vp" in refusal(latent("sdxl") + 11.5 * latent("sdxl", seed=1), "sdxl")
    assert "edm_to_vp" not in refusal(2.8 * latent("flux1"), "flux1")


@pytest.mark.parametrize("factor", [1 / 7.7, 0.0])
def test_nearly_constant_latents_are_refused(factor):
    assert "nearly constant, or was normalized twice" in refusal(factor * latent("sdxl"), "sdxl")


@pytest.mark.parametrize("name", ["flux2", "sd3", "dinov2", "siglip"])
def test_a_spread_beyond_the_bounds_is_refused_with_its_number(name):
    message = refusal(latent(name, std=123), name)
    assert "standard deviation of 123," in message
    assert f"({LOWEST_STD} to {highest_std(LATENT_SPACES[name]):.2g})" in message


def test_a_constant_offset_is_no_spread():
    check_latent(latent("flux1") + 5, "flux1")


def test_each_latent_of_a_batch_is_checked_and_named():
    batch = latent("flux1", batch=3)
    batch[1] *= 2.8
    assert refusal(batch, "flux1").startswith("latent 1 of the batch has a standard deviation of 2.8")


@pytest.mark.parametrize(
    ("channels", "space", "owners"),
    [
        (4, "flux1", ['"sdxl"']),
        (16, "flux2", ['"flux1"', '"sd3"', '"qwen"']),
        (128, "flux1", ['"flux2"']),
        (32, "flux1", ['raw "flux2"']),
        (768, "siglip", ['"dinov2"']),
    ],
)
def test_a_wrong_channel_count_names_the_spaces_that_have_it(channels, space, owners):
    message = refusal(torch.randn(1, channels, 8, 8), space)
    count = LATENT_SPACES[space].channels
    assert f'the latent has {channels} channels, but space "{space}" was expected ({count} channels)' in message
    assert message.endswith(f"{channels} channels is what {', '.join(owners)} latents have.")


def test_a_channel_count_that_no_space_has_is_said():
    assert "No space has latents of 5 channels." in refusal(torch.randn(1, 5, 8, 8), "flux2")


@pytest.mark.parametrize(
    ("shape", "advice"),
    [((16, 8, 8), "Add a batch axis"), ((1, 16, 1, 8, 8), "Remove its frame axis"), ((64,), "1 axes")],
)
def test_a_wrong_rank_is_refused_with_the_right_one(shape, advice):
    message = refusal(torch.randn(shape), "flux1")
    assert advice in message
    assert "[b, 16, h, w]" in message


def test_a_file_of_another_space_is_refused_even_where_shapes_agree():
    message = refusal(latent("sd3"), "flux1", given="sd3", checkpoint="flux1-2k")
    assert 'the latent is of space "sd3" (16 channels)' in message
    assert 'checkpoint "flux1-2k" reads space "flux1"' in message


@pytest.mark.parametrize(("space", "given"), [("flux9", None), ("flux1", "flux9")])
def test_an_unknown_space_is_refused_with_the_list(space, given):
    assert "no latent space is called" in refusal(latent("flux1"), space, given=given)


@pytest.mark.parametrize(("name", "size"), [("dinov2", 32), ("siglip", 16)])
def test_spaces_of_one_size_take_no_other(name, size):
    message = refusal(torch.randn(1, LATENT_SPACES[name].channels, size, size // 2), name)
    assert f"has {size}x{size // 2} cells" in message
    assert f"always have {size}x{size}" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_no_number_is_found(value):
    broken = latent("flux2")
    broken[0, 77, 3, 5] = value
    assert f"1 of the latent's {broken.numel()} values are NaN or infinite" in refusal(broken, "flux2")


def test_whole_numbers_are_no_latent():
    assert "torch.int64" in refusal(torch.ones(1, 16, 8, 8, dtype=torch.int64), "flux1")


@pytest.mark.parametrize("shape", [(0, 16, 8, 8), (1, 16, 0, 8)])
def test_an_empty_latent_is_refused(shape):
    assert "empty" in refusal(torch.zeros(shape), "flux1")

"""The codec as a user meets it: sizes, bands, the shipped weights, refusals."""

import pytest
import torch

from latpix import resources
from latpix.backbones import codec as module
from latpix.backbones.codec import Codec
from latpix.backbones.lite import overview
from latpix.errors import CheckpointError, LatentError, OptionError, PictureError
from latpix.files.latent_files import read_latent
from latpix.files.picture_files import read_picture

ROUND_TRIP = 28.7  # dB on the shipped photograph: measured, less a margin of half a decibel
COLOUR_OFF = 4.5  # levels of 255, the worst channel; measured 3.5
FROM_TAEF2 = 31.1  # the same from its shipped latent, which is TAEF2's


@pytest.fixture(scope="module")
def codec():
    return Codec.load("flux2-lite", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def photograph():
    return read_picture(resources.asset("demo/dandelion.png"))


def psnr(a, b):
    return float(10 * torch.log10(4 / (a - b).square().mean()))


def colour_off(a, b):
    return float((a - b).mean(dim=(0, 2, 3)).abs().max() * 127.5)


def test_the_shipped_file_has_at_most_8_megabytes():
    assert resources.weight("flux2-lite").stat().st_size <= 8_000_000


def test_a_photograph_survives_the_round_trip_in_detail_and_mean_colour(codec, photograph):
    decoded = codec.decode(codec.encode(photograph))
    assert psnr(decoded, photograph) > ROUND_TRIP
    assert colour_off(decoded, photograph) < COLOUR_OFF


def test_the_latent_of_another_encoder_of_the_space_decodes_to_its_photograph(codec, photograph):
    decoded = codec.decode(read_latent(resources.asset("demo/dandelion.safetensors")).tensor)
    assert psnr(decoded, photograph) > FROM_TAEF2
    assert colour_off(decoded, photograph) < COLOUR_OFF


def test_bfloat16_decodes_the_same_picture_within_a_level_on_average(codec, photograph):
    half = Codec.load("flux2-lite", device="cpu", dtype="bfloat16")
    latent = codec.encode(photograph[:, :, :128, :128])
    assert (half.decode(latent) - codec.decode(latent)).abs().mean() * 127.5 < 1.0
    assert half.decode(latent).dtype == torch.float32


def test_bands_give_what_the_whole_gives(codec, monkeypatch):
    pixels = torch.rand(1, 3, 24 * 16, 16) * 2 - 1
    latent = codec.encode(pixels)
    decoded = codec.decode(latent)
    monkeypatch.setattr(module, "BAND", 5)
    torch.testing.assert_close(codec.encode(pixels), latent, rtol=0, atol=2e-5)
    torch.testing.assert_close(codec.decode(latent), decoded, rtol=0, atol=2e-5)


def test_a_crop_decodes_as_in_its_whole_when_it_comes_with_the_overview(codec):
    latent = torch.randn(1, 128, 24, 4) * torch.linspace(0.2, 1.5, 24).view(1, 1, -1, 1)
    whole = codec.decode(latent)
    crop = codec.decode(latent[:, :, :14], seen=overview(latent))
    torch.testing.assert_close(crop[:, :, : 6 * 16], whole[:, :, : 6 * 16], rtol=0, atol=2e-5)
    alone = codec.decode(latent[:, :, :14])
    assert (alone[:, :, : 6 * 16] - whole[:, :, : 6 * 16]).abs().max() > 1e-3


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (100, 48)])
def test_odd_sides_are_padded_with_their_edge(codec, height, width):
    pixels = torch.rand(1, 3, height, width) * 2 - 1
    latent = codec.encode(pixels)
    assert latent.shape == (1, 128, -(-height // 16), -(-width // 16))
    rows = torch.arange(latent.shape[2] * 16).clamp(max=height - 1)
    columns = torch.arange(latent.shape[3] * 16).clamp(max=width - 1)
    assert torch.equal(codec.encode(pixels[:, :, rows][:, :, :, columns]), latent)


def test_a_batch_equals_its_pictures_one_by_one(codec):
    pixels = torch.rand(3, 3, 32, 48) * 2 - 1
    together = codec.encode(pixels)
    torch.testing.assert_close(together, torch.cat([codec.encode(one[None]) for one in pixels]), rtol=0, atol=2e-5)


def test_decoded_pixels_stay_between_minus_1_and_1(codec):
    decoded = codec.decode(torch.randn(1, 128, 3, 3) * 4)
    assert decoded.abs().max() <= 1


def test_no_gradients_are_recorded(codec):
    pixels = torch.rand(1, 3, 16, 16, requires_grad=True)
    assert not codec.encode(pixels).requires_grad


@pytest.mark.parametrize("shape", [(1, 3, 15, 40), (1, 3, 40, 15)])
def test_a_side_below_16_pixels_is_refused(codec, shape):
    with pytest.raises(PictureError, match="at least 16"):
        codec.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 4, 32, 32)])
def test_a_tensor_that_is_no_batch_of_rgb_pictures_is_refused(codec, shape):
    with pytest.raises(PictureError, match=r"\[b, 3, H, W\]"):
        codec.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(128, 2, 2), (1, 16, 2, 2)])
def test_a_latent_of_another_space_is_refused(codec, shape):
    with pytest.raises(LatentError, match="128"):
        codec.decode(torch.zeros(shape))


def test_unknown_names_and_dtypes_are_refused_with_what_there_is(tmp_path):
    with pytest.raises(CheckpointError, match="flux2-lite"):
        Codec.load("flux3-lite")
    with pytest.raises(CheckpointError, match="no codec file"):
        Codec.load(tmp_path / "absent.safetensors")
    with pytest.raises(OptionError, match="bfloat16"):
        Codec.load(dtype="int8")

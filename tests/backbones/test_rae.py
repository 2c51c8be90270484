"""Vision encoders as codecs: which states, which grid, which sizes; states of foreign generators as latents."""

from dataclasses import replace

import pytest
import torch
from made_pictures import dead_leaves
from tiny_raes import TINY, decoder_state, statistics_of, tiny_dinov2, tiny_siglip
from torch.nn import functional as F

from latpix.backbones.rae import VISIONS, Rae, encoder_input, latent_of_rae_state, on_grid, rae_times
from latpix.backbones.rae_decoder import RaeDecoder
from latpix.errors import LatentError, PictureError, ScheduleError
from latpix.latents.normalize import Statistics, denormalize
from latpix.latents.spaces import find_space

CLOSE = {"rtol": 0, "atol": 1e-5}
PATCHES = {"dinov2": 16, "siglip": 14}


def make(space, **changes):
    row = TINY[space]
    encoder = tiny_dinov2() if space == "dinov2" else tiny_siglip().vision_model
    numbers = Statistics(**statistics_of(row)) if space == "dinov2" else None
    opened = []

    def open_decoder():
        opened.append(space)
        return RaeDecoder.of(decoder_state(row, patch=PATCHES[space]), heads=4)

    codec = Rae(encoder, row, **{"statistics": numbers, "open_decoder": open_decoder} | changes)
    codec.opened = opened
    return codec


@pytest.fixture(params=TINY)
def codec(request):
    return make(request.param)


def picture(height=50, width=70, seed=3):
    return dead_leaves(height, width, seed=seed, count=60)


def test_dinov2s_states_are_normed_without_the_models_weights_and_without_its_first_five_tokens():
    model, codec = tiny_dinov2(), make("dinov2")
    seen = encoder_input(picture(), 56, VISIONS["dinov2"])
    states = model(pixel_values=seen, output_hidden_states=True).hidden_states[-1]
    normed = F.layer_norm(states, (32,), eps=1e-6)[:, 5:]
    expected = torch.empty(1, 32, 4, 4)
    numbers = statistics_of(TINY["dinov2"])
    for n in range(16):
        mean, var = (numbers[key][:, n // 4, n % 4] for key in ("mean", "var"))
        expected[0, :, n // 4, n % 4] = (normed[0, n] - mean) / torch.sqrt(var + 1e-5)
    torch.testing.assert_close(codec.encode(picture()), expected, **CLOSE)


def test_siglips_states_are_those_before_its_last_norm_each_normed():
    model, codec = tiny_siglip().vision_model, make("siglip")
    seen = encoder_input(picture(), 56, VISIONS["siglip"])
    states = model(pixel_values=seen, output_hidden_states=True).hidden_states[-1]
    assert not torch.allclose(states, model(pixel_values=seen).last_hidden_state)
    torch.testing.assert_close(codec.encode(picture()), on_grid(F.layer_norm(states, (32,), eps=1e-6)), **CLOSE)


@pytest.mark.parametrize("size", [(16, 16), (50, 70), (64, 64), (300, 90)])
def test_every_picture_becomes_one_grid_and_comes_back_as_one_square(codec, size):
    latent = codec.encode(picture(*size))
    assert latent.shape == (1, 32, 4, 4)
    assert codec.decode(latent).shape == (1, 3, codec.native_side, codec.native_side)
    assert codec.native_side == 64


def test_a_picture_of_the_encoders_own_size_is_not_resampled():
    vision = VISIONS["siglip"]
    torch.testing.assert_close(encoder_input(picture(56, 56), 56, vision), picture(56, 56), **CLOSE)  # mean, std 0.5


def test_only_siglip_smooths_before_it_shrinks():
    fine = torch.ones(1, 3, 128, 128)
    fine[..., ::2] = -1  # stripes that no smaller picture can show
    spread = {name: float(encoder_input(fine, 48, vision).std()) for name, vision in VISIONS.items()}
    assert spread["siglip"] < 0.2 < spread["dinov2"]


def test_decoding_is_the_decoder_of_the_states_in_the_encoders_colours(codec):
    latent = torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    row, vision = TINY[codec.space], VISIONS[codec.space]
    numbers = Statistics(**statistics_of(row)) if codec.space == "dinov2" else None
    decoder = RaeDecoder.of(decoder_state(row, patch=PATCHES[codec.space]), heads=4)
    values = decoder.picture(decoder(denormalize(latent, row, numbers).flatten(2).transpose(1, 2)))
    mean, std = (torch.tensor(three)[:, None, None] for three in (vision.mean, vision.std))
    values = (values * std + mean).clamp(0, 1)
    if codec.space == "siglip":
        values = F.interpolate(values, size=(64, 64), mode="bicubic").clamp(0, 1)
    torch.testing.assert_close(codec.decode(latent), 2 * values - 1, **CLOSE)


def test_the_decoder_is_opened_once_and_only_to_decode(codec):
    latent = codec.encode(picture())
    assert codec.opened == []
    codec.decode(latent)
    codec.decode(latent)
    assert codec.opened == [codec.space]


def test_a_picture_has_the_same_bits_in_every_batch(codec):
    pixels = torch.cat([picture(seed=k) for k in range(3)])
    together = codec.encode(pixels)
    assert torch.equal(together[1:2], codec.encode(pixels[1:2]))
    assert torch.equal(codec.decode(together)[2:], codec.decode(together[2:]))


def test_no_gradients_are_recorded_and_the_latent_is_float32(codec):
    pixels = picture().requires_grad_()
    latent = codec.encode(pixels)
    assert not latent.requires_grad
    half = make(codec.space)
    half._encoder.bfloat16()
    assert (half.dtype, half.encode(pixels).dtype, half.decode(latent).dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )


def test_the_digest_is_one_of_the_encoder_and_the_statistics():
    same, other = make("dinov2").sha256, make("dinov2", statistics=Statistics(**statistics_of(TINY["dinov2"], seed=1)))
    assert same == make("dinov2").sha256
    assert same != other.sha256


def test_what_is_no_picture_and_no_latent_is_refused(codec):
    with pytest.raises(PictureError, match="at least 16"):
        codec.encode(torch.zeros(1, 3, 15, 40))
    with pytest.raises(LatentError, match="this tensor is"):
        codec.decode(torch.zeros(1, 32, 5, 4))


def test_the_published_sizes_are_448_and_224_pixels_in_512_and_256_out():
    for space, seen, native in (("dinov2", 448, 512), ("siglip", 224, 256)):
        row = find_space(space)
        assert row.fixed_size * 14 == seen
        codec = make(space, statistics=None) if space == "siglip" else make(space)
        whole = Rae(codec._encoder, replace(row, channels=32), open_decoder=lambda: None)
        assert (whole.input_side, whole.native_side) == (seen, native)


def test_a_state_of_a_generator_becomes_a_latent_with_its_sigma():
    state = torch.randn(1, 768, 32, 32, generator=torch.Generator().manual_seed(0))
    latent = latent_of_rae_state(state, 0.25, seed=7, caption="a cat")
    assert torch.equal(latent.tensor, state)
    assert (latent.space, latent.latent_sigma, latent.seed, latent.caption) == ("dinov2", 0.25, 7, "a cat")
    tokens = torch.randn(1, 256, 1152, generator=torch.Generator().manual_seed(0))
    latent = latent_of_rae_state(tokens, 0.0, space="siglip")
    assert torch.equal(latent.tensor[0, :, 3, 5], tokens[0, 3 * 16 + 5])


def test_a_state_of_another_shape_or_space_is_refused():
    with pytest.raises(LatentError, match="32x32"):
        latent_of_rae_state(torch.randn(1, 768, 16, 16), 0.1)
    with pytest.raises(LatentError, match="from no RAE"):
        latent_of_rae_state(torch.randn(1, 16, 8, 8), 0.1, space="flux1")


def test_raes_generator_ends_before_the_picture():
    times = rae_times(50)
    assert (len(times), times[0]) == (51, 1.0)
    assert times[-1] == pytest.approx(0.0137, abs=1e-4)
    assert sorted(times, reverse=True) == list(times)
    with pytest.raises(ScheduleError, match="at least one"):
        rae_times(0)

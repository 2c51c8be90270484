"""Diffusers VAEs as codecs: numbers of the module itself, posterior mean, padding, tiles, refusals."""

import pytest
import torch
from made_pictures import dead_leaves
from tiny_vaes import BUILD, tiny_vae, with_frame

from latpix.backbones.vae import Vae, denormalize_with, normalize_with
from latpix.errors import CheckpointError, LatentError, OptionError, PictureError
from latpix.latents.check import check_latent
from latpix.latents.normalize import Statistics, normalize
from latpix.latents.packing import patchify
from latpix.latents.spaces import find_space

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def modules():
    return {space: tiny_vae(space) for space in BUILD}


@pytest.fixture(params=BUILD)
def codec(request, modules):
    return Vae.of(modules[request.param], request.param)


def picture(height=64, width=96, seed=3):
    return dead_leaves(height, width, seed=seed, count=100)


def cells(height, width, codec):
    return (-(-height // codec.downsample), -(-width // codec.downsample))


def test_the_latent_is_the_normalised_mean_of_the_posterior(codec):
    pixels = picture()
    posterior = codec.module.encode(with_frame(codec.module, pixels)).latent_dist
    assert posterior.std.min() > 1e-3  # a sample would be another latent
    raw = posterior.mean.reshape(1, -1, 8, 12)  # without Qwen's frame axis
    space = find_space(codec.space)
    module = codec.module
    statistics = Statistics(module.bn.running_mean, module.bn.running_var) if codec.space == "flux2" else None
    torch.testing.assert_close(codec.encode(pixels), normalize(raw, space, statistics), **CLOSE)


def test_a_latent_passes_as_one_of_its_space(codec):
    check_latent(codec.encode(picture()), codec.space)


def test_decoding_gives_what_the_module_makes_of_the_raw_latent(codec):
    latent = codec.encode(picture())
    raw = denormalize_with(latent, codec.module, find_space(codec.space))
    torch.testing.assert_close(normalize_with(raw, codec.module, find_space(codec.space)), latent, **CLOSE)
    expected = codec.module.decode(with_frame(codec.module, raw)).sample.reshape(1, 3, 64, 96)
    torch.testing.assert_close(codec.decode(latent), expected.clamp(-1, 1), **CLOSE)


def test_flux2_folds_two_by_two_cells_and_uses_the_statistics_in_the_module(modules):
    module = modules["flux2"]
    raw = torch.randn(1, 32, 4, 6, generator=torch.Generator().manual_seed(0))
    mean, var = (values[:, None, None] for values in (module.bn.running_mean, module.bn.running_var))
    expected = (patchify(raw, 2) - mean) / torch.sqrt(var + 1e-4)
    torch.testing.assert_close(normalize_with(raw, module, find_space("flux2")), expected, **CLOSE)


def test_the_numbers_come_from_the_module_and_not_from_the_table():
    module = tiny_vae("flux1")
    module.register_to_config(scaling_factor=0.5, shift_factor=None)
    raw = torch.ones(1, 16, 2, 2)
    torch.testing.assert_close(normalize_with(raw, module, find_space("flux1")), 0.5 * raw)


def test_a_number_type_is_rounded_to_once_and_kept(modules):
    raw = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = normalize_with(raw, modules["qwen"], find_space("qwen"))
    assert torch.equal(found, normalize_with(raw.float(), modules["qwen"], find_space("qwen")).bfloat16())


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 40), (41, 30)])
def test_odd_sides_are_padded_with_their_edge(codec, height, width):
    pixels = picture(height, width)
    latent = codec.encode(pixels)
    assert tuple(latent.shape[2:]) == cells(height, width, codec)
    rows = torch.arange(latent.shape[2] * codec.downsample).clamp(max=height - 1)
    columns = torch.arange(latent.shape[3] * codec.downsample).clamp(max=width - 1)
    assert torch.equal(codec.encode(pixels[:, :, rows][:, :, :, columns]), latent)


def test_a_picture_has_the_same_bits_in_every_batch(codec):
    pixels = torch.cat([picture(32, 32, seed=k) for k in range(3)])
    together = codec.encode(pixels)
    assert torch.equal(together[1:2], codec.encode(pixels[1:2]))
    assert torch.equal(codec.decode(together)[2:], codec.decode(together[2:]))


def test_bfloat16_stays_inside_and_is_near(modules):
    half = Vae.of(tiny_vae("sd3").bfloat16(), "sd3")
    full = Vae.of(modules["sd3"], "sd3")
    latent = half.encode(picture())
    assert (half.dtype, latent.dtype, half.decode(latent).dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert 0 < (latent - full.encode(picture())).abs().mean() < 0.05


def test_pixels_stay_in_range_and_no_gradients_are_recorded(codec):
    module = codec.module
    pixels = picture(32, 32).requires_grad_()
    latent = codec.encode(pixels)
    assert not latent.requires_grad
    assert codec.decode(20 * latent.requires_grad_()).abs().max() <= 1
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_memory_limit_that_is_too_small_for_the_whole_cuts_it_into_tiles_as_diffusers_does(codec):
    side = 272 if codec.space == "qwen" else 128  # larger than the tiles: 256, 64
    pixels, module = picture(side, side), codec.module
    whole = Vae.of(module, codec.space, memory_limit="64GiB")
    tiled = Vae.of(module, codec.space, memory_limit=1)
    assert (whole.tiles(side, side), tiled.tiles(side, side)) == (False, True)
    latent = codec.encode(pixels)
    cut, decoded = tiled.encode(pixels), tiled.decode(latent)
    assert torch.equal(whole.encode(pixels), latent)
    assert not torch.equal(cut, latent)
    assert not torch.equal(decoded, codec.decode(latent))
    assert not module.use_tiling  # a pipeline's VAE is left as it was
    module.enable_tiling()
    assert torch.equal(codec.encode(pixels), cut)  # who asked the library for tiles gets them
    assert torch.equal(codec.decode(latent), decoded)
    module.disable_tiling()


def test_the_estimate_grows_with_the_picture_and_the_type(modules):
    codec = Vae.of(modules["flux1"], "flux1")
    small, large = codec.peak_bytes(256, 256), codec.peak_bytes(512, 512)
    assert large - small == 3 * 256 * 256 * 8 * 5 * 4  # width 8, 5 maps, 4 bytes
    assert codec.peak_bytes(256, 256, decodes=True) > small


def test_the_digest_is_one_of_the_weights(modules):
    assert Vae.of(modules["flux1"], "flux1").sha256 == Vae.of(tiny_vae("flux1"), "flux1").sha256
    assert Vae.of(modules["flux1"], "flux1").sha256 != Vae.of(tiny_vae("flux1", seed=1), "flux1").sha256


@pytest.mark.parametrize(
    ("module", "space", "message"),
    [
        ("flux1", "qwen", "AutoencoderKLQwenImage, but this is AutoencoderKL"),
        ("sdxl", "flux1", r'4 latent channels.*16.*"sdxl"'),
        ("sd3", "flux1", r'scales its latents by 1.5305, as space "sd3"'),
        ("flux1", "dinov2", "Dinov2WithRegistersModel"),
    ],
)
def test_another_spaces_module_is_refused(modules, module, space, message):
    with pytest.raises(CheckpointError, match=message):
        Vae.of(modules[module], space)


def test_what_is_no_picture_and_no_latent_is_refused(codec):
    with pytest.raises(PictureError, match="at least 16"):
        codec.encode(torch.zeros(1, 3, 15, 40))
    with pytest.raises(PictureError, match=r"\[b, 3, H, W\]"):
        codec.encode(torch.zeros(1, 1, 32, 32))
    with pytest.raises(LatentError, match="this tensor is"):
        codec.decode(torch.zeros(1, 3, 4, 4))
    with pytest.raises(OptionError, match="memory size"):
        Vae.of(codec.module, codec.space, memory_limit="much")

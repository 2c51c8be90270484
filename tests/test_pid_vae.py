"""A pipeline's VAE that paints, and raw pipeline output decoded: with real tiny VAEs of every diffusers space."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from made_pictures import dead_leaves
from small_decoder import write_checkpoint, write_space_checkpoint
from tiny_models import tiny_pipeline
from tiny_vaes import tiny_vae

from latpix import Codec, Decoder, PidVAE, decode_latents, read_picture
from latpix.backbones.registry import find_backbone
from latpix.backbones.vae import Vae, denormalize_with
from latpix.errors import CheckpointError, DownloadError, LatentError, UsageError
from latpix.evaluation.metrics.psnr import psnr
from latpix.latents.packing import pack
from latpix.latents.spaces import LATENT_SPACES

ASSETS = Path(__file__).parent / "assets"
SPACES = ("flux1", "sd3", "sdxl", "qwen", "flux2")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {space: write_space_checkpoint(folder / f"{space}.safetensors", space) for space in SPACES}


@pytest.fixture(scope="module")
def decoders(checkpoints):
    return {space: Decoder.load(path, device="cpu", dtype="float32") for space, path in checkpoints.items()}


def raw_latent(vae, space, *, batch=1):
    """What the pipeline would hand to ``vae.decode`` for a picture, and the latent that it stands for."""
    pixels = torch.cat([dead_leaves(128, 128, seed=k) for k in range(batch)])
    wrapped = Vae.of(vae, space)
    latent = wrapped.encode(pixels)
    with torch.no_grad():
        raw = vae.encode(pixels.unsqueeze(2) if space == "qwen" else pixels).latent_dist.mode()
    return raw, latent


@pytest.mark.parametrize("space", SPACES)
def test_a_raw_latent_is_painted_as_the_latent_it_stands_for(space, checkpoints, decoders):
    vae = tiny_vae(space)
    painter = PidVAE.load(checkpoints[space], vae=vae, seed=3, latent_sigma=0.1, dtype="float32")
    raw, latent = raw_latent(vae, space)
    (pixels,) = painter.decode(raw, return_dict=False)
    expected = decoders[space].decode(latent, seed=3, latent_sigma=0.1)
    assert pixels.ndim == raw.ndim
    torch.testing.assert_close(pixels.flatten(2), expected.flatten(2), atol=1e-3, rtol=0)


def test_what_is_not_the_painters_is_the_vaes_own(checkpoints):
    vae = tiny_vae("flux2")
    painter = PidVAE.load(checkpoints["flux2"], vae=vae)
    assert painter.config is vae.config
    assert painter.bn is vae.bn
    assert painter.dtype == torch.float32
    pixels = dead_leaves(64, 64)
    assert torch.equal(painter.encode(pixels).latent_dist.mode(), vae.encode(pixels).latent_dist.mode())
    with pytest.raises(AttributeError):
        _ = painter.no_such_thing


def test_a_cast_reaches_the_vae_and_leaves_the_decoder_its_types(checkpoints):
    painter = PidVAE.load(checkpoints["flux1"], vae=tiny_vae("flux1"), dtype="float32")
    raw, _ = raw_latent(tiny_vae("flux1"), "flux1")
    before = painter.decode(raw).sample
    painter.to(torch.bfloat16)
    assert painter.dtype == torch.bfloat16
    assert {weight.dtype for weight in painter.decoder.network.parameters()} == {torch.float32}
    assert torch.equal(painter.decode(raw).sample, before)


def test_a_picture_of_a_batch_has_the_next_seed(checkpoints):
    painter = PidVAE.load(checkpoints["sdxl"], vae=tiny_vae("sdxl"), seed=5, dtype="float32")
    raw, _ = raw_latent(painter.wrapped, "sdxl", batch=2)
    both = painter.decode(raw).sample
    painter.seed = 6
    torch.testing.assert_close(painter.decode(raw[1:]).sample, both[1:], atol=1e-5, rtol=0)
    painter.seed = 5
    assert (painter.decode(raw[1:]).sample - both[1:]).abs().max() > 0.01


def test_the_random_state_of_the_pipeline_is_left_alone(checkpoints):
    painter = PidVAE.load(checkpoints["sd3"], vae=tiny_vae("sd3"))
    raw, _ = raw_latent(painter.wrapped, "sd3")
    before = torch.get_rng_state()
    painter.decode(raw, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_hook_that_offloads_is_called_before_the_work(checkpoints):
    calls = []
    painter = PidVAE.load(checkpoints["sdxl"], vae=tiny_vae("sdxl"))

    class Hook:
        def pre_forward(self, module):
            calls.append(module)

    painter._hf_hook = Hook()
    painter.decode(raw_latent(painter.wrapped, "sdxl")[0])
    assert calls == [painter]
    painter.encode(dead_leaves(64, 64))
    assert calls == [painter, painter]


def test_a_vae_of_another_space_is_refused_with_what_would_fit(checkpoints):
    with pytest.raises(CheckpointError, match=r"\"small-flux1\" does not fit.*1\.5305.*that fit it: sd3-2k"):
        PidVAE.load(checkpoints["flux1"], vae=tiny_vae("sd3"))
    with pytest.raises(CheckpointError, match=r"that fit it: qwen-2kto4k-v1\.5"):
        PidVAE.load(checkpoints["flux1"], vae=tiny_vae("qwen"))


def test_a_vae_is_not_wrapped_twice(checkpoints):
    once = PidVAE.load(checkpoints["sdxl"], vae=tiny_vae("sdxl"))
    assert PidVAE.load(checkpoints["sdxl"], vae=once).wrapped is once.wrapped


def test_frames_of_a_film_are_refused(checkpoints):
    painter = PidVAE.load(checkpoints["qwen"], vae=tiny_vae("qwen"))
    with pytest.raises(LatentError, match="3 frames"):
        painter.decode(torch.randn(1, 16, 3, 8, 8))


def test_tokens_are_unpacked_and_decoded(decoders):
    latent = torch.randn(1, 16, 8, 12)
    tokens = pack(latent, LATENT_SPACES["flux1"])
    pixels = decode_latents(tokens, space="flux1", packed=True, height=64, width=96, checkpoint=decoders["flux1"])
    assert pixels.shape == (1, 3, 256, 384)
    assert torch.equal(pixels, decoders["flux1"].decode(latent))


def test_tokens_without_a_size_are_refused(decoders):
    with pytest.raises(LatentError, match="height="):
        decode_latents(torch.randn(1, 24, 64), space="flux1", packed=True, checkpoint=decoders["flux1"])
    with pytest.raises(LatentError, match=r"packed=False means \[b, 16, h, w\]"):
        decode_latents(torch.randn(1, 24, 64), space="flux1", checkpoint=decoders["flux1"])


def test_kleins_raw_latent_is_normalized_by_its_vae(tmp_path):
    decoder = Decoder.load(write_checkpoint(tmp_path / "small.safetensors"), device="cpu", dtype="float32")
    vae = tiny_vae("flux2")
    raw, latent = raw_latent(vae, "flux2")
    ours = decode_latents(raw, space="flux2", vae=vae, checkpoint=decoder)
    torch.testing.assert_close(ours, decoder.decode(latent), atol=1e-3, rtol=0)
    with pytest.raises(UsageError, match="raw"):
        decode_latents(raw, space="flux2", checkpoint=decoder)


CALL = {"prompt": "a cat", "height": 64, "width": 96, "num_inference_steps": 2, "output_type": "np"}
BACKBONES = ("flux", "flux2", "flux2-klein-4b", "sd3", "sdxl", "qwenimage", "zimage")


def paint(pipe, **more):
    """A call as the pipeline's user would write it."""
    return pipe(**CALL, generator=torch.Generator().manual_seed(0), **more).images


@pytest.mark.parametrize("name", BACKBONES)
def test_every_pipeline_returns_pictures_four_times_larger(name, checkpoints):
    pipe = tiny_pipeline(name)
    space = find_backbone(name).space
    native = paint(pipe)
    pipe.vae = PidVAE.load(checkpoints[space], vae=pipe.vae, dtype="float32", steps=1)
    pictures = paint(pipe)
    assert native.shape == (1, 64, 96, 3)
    assert pictures.shape == (1, 256, 384, 3)
    assert (pictures == paint(pipe)).all()
    pipe.vae.seed = 1
    assert (pictures != paint(pipe)).any()
    pipe.vae = pipe.vae.wrapped
    assert (paint(pipe) == native).all()


def test_a_photograph_in_the_vae_slot_of_flux2_comes_out_painted_by_the_shipped_decoder():
    pipe = tiny_pipeline("flux2")
    pixels = read_picture(ASSETS / "astronaut.jpg")[:, :, 64:192, 160:288]
    latent = Codec.load("flux2-lite", device="cpu").encode(pixels)
    raw = denormalize_with(latent, pipe.vae, LATENT_SPACES["flux2"])
    pipe.vae = PidVAE.load("flux2-tiny", vae=pipe.vae, steps=1)
    (painted,) = pipe.vae.decode(raw, return_dict=False)
    assert painted.shape == (1, 3, 512, 512)
    assert psnr(F.avg_pool2d(painted, 4), pixels) > 18


@pytest.mark.parametrize("first", ["offload", "painter"])
def test_a_pipeline_that_offloads_paints_the_same(first, checkpoints):
    plain, pipe = tiny_pipeline("sd3"), tiny_pipeline("sd3")
    plain.vae = PidVAE.load(checkpoints["sd3"], vae=plain.vae, dtype="float32", steps=1)
    expected = paint(plain, num_images_per_prompt=2)
    if first == "offload":
        pipe.enable_model_cpu_offload(device="cpu")
    pipe.vae = PidVAE.load(checkpoints["sd3"], vae=pipe.vae, dtype="float32", steps=1)
    if first == "painter":
        pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):  # the hooks are removed and set again after every call
        assert (paint(pipe, num_images_per_prompt=2) == expected).all()
    assert not hasattr(pipe.vae.wrapped, "_hf_hook")


def test_captions_reach_a_decoder_that_reads_them_and_may_change_between_calls(tmp_path):
    path = write_space_checkpoint(tmp_path / "reads.safetensors", "sd3", caption_width=12)
    words = torch.randn(2, 1, 6, 12, generator=torch.Generator().manual_seed(0))
    painter = PidVAE.load(path, vae=tiny_vae("sd3"), caption=words[0], dtype="float32", steps=1)
    raw, _ = raw_latent(painter.wrapped, "sd3")
    first = painter.decode(raw).sample
    painter.caption = words[1]
    assert (painter.decode(raw).sample - first).abs().max() > 5e-4  # so small a network hardly reads
    painter.caption = words[0]
    assert torch.equal(painter.decode(raw).sample, first)


def test_a_caption_that_cannot_be_embedded_is_said_before_the_pipeline_runs(tmp_path):
    path = write_space_checkpoint(tmp_path / "reads.safetensors", "sd3", caption_width=12)
    with pytest.raises(DownloadError, match="latpix caption"):
        PidVAE.load(path, vae=tiny_vae("sd3"), caption="a cat")

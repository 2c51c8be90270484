"""`encode`, `upscale` and `verify` for every latent space, with tiny encoders in their folders."""

from pathlib import Path

import pytest
import torch
from small_decoder import write_picture, write_space_checkpoint
from tiny_raes import write_encoder, write_rae_files
from tiny_vaes import BUILD, tiny_vae

from latpix import read_latent, read_picture
from latpix.backbones.encode import load_codec
from latpix.backbones.vae import Vae
from latpix.files.picture_files import read_metadata
from latpix.latents.spaces import find_space

RAES = ("dinov2", "siglip")
EXACT = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Per space a checkpoint, and the options that name its encoder; RAEs of one layer, but of their real widths."""
    folder = tmp_path_factory.mktemp("parts")
    named = {}
    for space in BUILD:
        tiny_vae(space).save_pretrained(folder / space / "vae")
        named[space] = ("--vae", folder / space)
    for space in RAES:
        model = write_encoder(folder / space / "encoder", find_space(space))
        named[space] = ("--model", model, "--vae", write_rae_files(folder / space, find_space(space), decoder=False))
    checkpoints = {
        s: write_space_checkpoint(folder / f"{s}.safetensors", s, scale=1 if s in RAES else 4) for s in named
    }
    return {space: (checkpoints[space], options) for space, options in named.items()}


@pytest.mark.parametrize("space", [*BUILD, *RAES])
def test_a_picture_is_encoded_to_every_space(latpix, parts, space):
    picture = write_picture(Path("a.png"), height=36, width=50)
    options = parts[space][1]
    answer = latpix("encode", picture, "-o", "out", "--space", space, *options, *EXACT, "--json")
    assert answer.code == 0, answer.err
    latent = read_latent("out/a.safetensors")
    names = {name.removeprefix("--"): value for name, value in zip(options[::2], options[1::2], strict=True)}
    codec = load_codec(space, **names, device="cpu", dtype="float32")
    assert torch.equal(latent.tensor, codec.encode(read_picture(picture)))
    native = (36, 50) if codec.native_side is None else (codec.native_side,) * 2
    assert (latent.space, latent.native_height, latent.native_width) == (space, *native)
    assert (answer.lines[0]["height"], answer.lines[0]["width"]) == native


@pytest.mark.parametrize("space", [*BUILD, *RAES])
def test_a_picture_is_enlarged_in_the_space_of_the_checkpoint_and_comes_out_again(latpix, parts, space):
    checkpoint, options = parts[space]
    picture = write_picture(Path("a.png"), height=36, width=50)
    words = ("upscale", picture, "-o", "out", "--checkpoint", checkpoint, "--steps", 1, *options, *EXACT, "--json")
    height, width = {"dinov2": (512, 512), "siglip": (256, 256)}.get(space, (144, 200))
    preview = latpix(*words, "--dry-run").lines[0]
    assert not Path("out").exists()
    answer = latpix(*words)
    assert answer.code == 0, answer.err
    for row in (preview, *answer.lines):
        assert (row["height"], row["width"]) == (height, width)
    assert read_picture("out/a.png").shape == (1, 3, height, width)
    assert ("squares only" in answer.err) == (space in RAES)
    story = read_metadata("out/a.png")
    assert len(story["encoder_sha256"]) == 64
    assert story["encoder_tiled"] is False
    again = latpix("verify", "out/a.png", "--checkpoint", checkpoint, *options, "--device", "cpu", "--json")
    assert (again.code, again.lines[0]["same_bits"]) == (0, True), again


def test_encoding_and_decoding_make_the_picture_that_upscaling_makes(latpix, parts):
    checkpoint, options = parts["sd3"]
    picture = write_picture(Path("a.png"))
    paint = ("--checkpoint", checkpoint, "--seed", 3, *EXACT)
    assert latpix("upscale", picture, "-o", "one.png", *paint, *options).code == 0
    assert latpix("encode", picture, "-o", "a.safetensors", "--space", "sd3", *options, *EXACT).code == 0
    assert latpix("decode", "a.safetensors", "-o", "two.png", *paint).code == 0
    assert torch.equal(read_picture("one.png"), read_picture("two.png"))


def test_a_square_picture_is_stretched_without_a_word(latpix, parts):
    picture = write_picture(Path("a.png"), height=40, width=40)
    answer = latpix("encode", picture, "-o", "out", "--space", "siglip", *parts["siglip"][1])
    assert answer.code == 0
    assert answer.err == ""


def test_what_was_encoded_in_tiles_is_remade_in_tiles(latpix, parts, monkeypatch):
    monkeypatch.setattr("latpix.fitting.resident_bytes", lambda: 0)  # what the tests themselves hold is no matter here
    checkpoint, options = parts["flux1"]
    picture = write_picture(Path("a.png"), height=96, width=96)  # the tiny VAE's tiles are of 64 pixels
    words = ("--checkpoint", checkpoint, *options, "--device", "cpu")
    paint = ("--steps", 1, "--dtype", "float32", "--tile", 8)
    encoder = Vae.of(tiny_vae("flux1"), "flux1")
    assert encoder.peak_bytes(96, 96) > 500 * 2**20
    answer = latpix("upscale", picture, "-o", "out", *words, *paint, "--memory-limit", "500MB")
    assert answer.code == 0, answer.err
    assert read_metadata("out/a.png")["encoder_tiled"] is True
    again = latpix("verify", "out/a.png", *words, "--json")
    assert again.lines[0]["same_bits"] is True, again


def test_another_encoder_than_the_pictures_is_told(latpix, parts):
    checkpoint, options = parts["sdxl"]
    picture = write_picture(Path("a.png"))
    latpix("upscale", picture, "-o", "out", "--checkpoint", checkpoint, "--steps", 1, *options, *EXACT)
    tiny_vae("sdxl", seed=1).save_pretrained("other")
    again = latpix("verify", "out/a.png", "--checkpoint", checkpoint, "--vae", "other")
    assert again.code == 1
    assert "the encoder has other weights" in again.out


def test_an_encoder_of_another_space_is_refused_before_anything_is_made(refused, parts):
    picture = write_picture(Path("a.png"))
    message = refused("upscale", picture, "-o", "out", "--checkpoint", parts["sd3"][0], *parts["flux1"][1])
    assert 'space "flux1"' in message
    assert 'space "sd3"' in message


def test_a_checkpoint_that_is_not_here_is_said_before_its_encoder_is_looked_for(refused):
    picture = write_picture(Path("a.png"))
    assert "latpix checkpoints fetch flux1-2k" in refused("upscale", picture, "-o", "out", "--checkpoint", "flux1-2k")

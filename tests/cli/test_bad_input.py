"""Every bad input gets one sentence and the right exit code, and nothing is left behind."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from full_disk import files_of_at_most
from PIL import Image
from small_decoder import write_latent, write_picture

from latpix import read_latent


def png(*, width=32, height=32):
    """A PNG that says its size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def encoded(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def frames(kind):
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    return encoded(images[0], kind, save_all=True, append_images=images[1:])


PHOTO = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), "PNG")
BAD_PICTURES = {
    "text": (b"this is a letter, not a picture", "is not a picture"),
    "zero bytes": (b"", "is empty"),
    "truncated": (PHOTO[: len(PHOTO) // 2], "damaged or truncated"),
    "header only": (PHOTO[:40], "damaged or truncated"),
    "bomb": (png(width=60_000, height=60_000), "above the budget"),
    "animated png": (frames("PNG"), "holds 2 frames"),
    "animated webp": (frames("WEBP"), "holds 2 frames"),
    "gif": (frames("GIF"), "is not a picture that latpix reads"),
    "float tiff": (encoded(Image.new("F", (32, 32)), "TIFF"), "mode F"),
    "thin": (encoded(Image.new("RGB", (64, 15)), "PNG"), "at least 16"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_is_refused_in_a_sentence(refused, small, tmp_path, name):
    content, sentence = BAD_PICTURES[name]
    (tmp_path / "bad.png").write_bytes(content)
    message = refused("upscale", "bad.png", "-o", "out.png", "--checkpoint", small, out="out.png")
    assert message.startswith("PictureError: ")
    assert sentence in message
    assert message.count("\n") == 1


UNUSUAL = {
    "cmyk.jpg": encoded(Image.new("CMYK", (32, 32), (0, 80, 80, 0)), "JPEG"),
    "grey16.png": encoded(Image.fromarray(np.full((32, 32), 40_000, np.uint16)), "PNG"),
    "palette.png": encoded(Image.new("RGB", (32, 32), "teal").quantize(4), "PNG"),
    "alpha.png": encoded(Image.new("RGBA", (32, 32), (255, 0, 0, 128)), "PNG"),
    "grey.png": encoded(Image.new("L", (32, 32), 7), "PNG"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_pictures_are_read(latpix, tmp_path, name):
    (tmp_path / name).write_bytes(UNUSUAL[name])
    assert latpix("encode", name, "-o", "out.safetensors").code == 0
    assert read_latent("out.safetensors").tensor.shape == (1, 128, 2, 2)


def normals(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


BAD_LATENTS = {
    "channels": (normals(1, 16, 4, 4), "16 channels is what"),
    "raw": (normals(1, 32, 4, 4), "32 channels is what raw"),
    "rank": (normals(128, 4, 4), "has 3 dimensions"),
    "nan": (np.where(normals(1, 128, 4, 4) > 3, np.nan, 0.5).astype(np.float32), "NaN or infinite"),
    "spread": (10 * normals(1, 128, 4, 4), "a standard deviation of 10"),
    "empty": (normals(0, 128, 4, 4), "is empty"),
    "integers": (np.ones((1, 128, 4, 4), np.int64), "holds int64 values"),
}


@pytest.mark.parametrize("name", BAD_LATENTS)
def test_a_bad_latent_is_refused_in_a_sentence(refused, small, tmp_path, name):
    content, sentence = BAD_LATENTS[name]
    np.save(tmp_path / "bad.npy", content)
    words = ("decode", "bad.npy", "-o", "out.png", "--space", "flux2", "--checkpoint", small)
    message = refused(*words, out="out.png")
    assert message.startswith("LatentError: ")
    assert sentence in message


class Trap:
    def __reduce__(self):
        return (exec, ("open('trapped', 'w').close()",))


@pytest.mark.parametrize("name", ["bad.pt", "bad.npy", "bad.npz"])
def test_code_in_a_latent_file_is_refused_and_not_run(refused, tmp_path, name):
    if name.endswith("pt"):
        torch.save({"samples": Trap()}, tmp_path / name)
    elif name.endswith("npy"):
        np.save(tmp_path / name, np.array(Trap(), dtype=object), allow_pickle=True)
    else:
        np.savez(tmp_path / name, latent=np.array(Trap(), dtype=object), allow_pickle=True)
    message = refused("decode", name, "-o", "out.png", "--space", "flux2", out="out.png")
    assert message.startswith("LatentError: ")
    assert not (tmp_path / "trapped").exists()


def test_a_pickle_renamed_to_a_checkpoint_is_refused_and_not_run(refused, tmp_path):
    write_latent(tmp_path / "a.safetensors")
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Trap()))
    assert "CheckpointError" in refused("decode", "a.safetensors", "-o", "out.png", "--checkpoint", "bad.pth")
    assert not (tmp_path / "trapped").exists()


def test_a_latent_without_a_space_is_asked_for_it(refused, tmp_path):
    np.save(tmp_path / "a.npy", normals(1, 128, 4, 4))
    assert "--space flux2" in refused("decode", "a.npy", "-o", "out.png")


def test_a_latent_of_another_space_is_told_which_checkpoints_read_it(refused, tmp_path):
    np.save(tmp_path / "a.npy", normals(1, 16, 4, 4))
    message = refused("decode", "a.npy", "-o", "out.png", "--space", "sd3")
    assert "sd3-2k" in message
    assert "sd3-2kto4k" in message


BAD_OPTIONS = {
    "sigma outside": (("--latent-sigma", "1.5"), 2, "1.5 is not a noise level"),
    "sigma negative": (("--latent-sigma=-0.1",), 2, "-0.1 is not a noise level"),
    "sigma not a number": (("--latent-sigma", "nan"), 2, "nan is not a noise level"),
    "sigma no list": (("--latent-sigma", "0;0.2"), 2, "is not a list of numbers"),
    "sigma above training": (("--latent-sigma", "0.95"), 1, "was trained up to 0.8"),
    "steps": (("--steps", "5"), 1, "decodes in 1 to 4 steps"),
    "no steps": (("--steps", "0"), 1, "decodes in 1 to 4 steps"),
    "memory": (("--memory-limit", "10MB"), 1, "is too small for a latent"),
    "memory size": (("--memory-limit", "much"), 2, '"much" is not a memory size'),
    "tile": (("--tile", "4"), 1, "at least 8 latent cells"),
    "tile word": (("--tile", "some"), 2, "none of auto, off"),
    "size": (("--size", "100"), 2, "is not a size"),
    "scale": (("--scale", "0.1"), 1, "scale is 0.1"),
    "both": (("--scale", "2", "--size", "64x64"), 1, "give one of them"),
    "device": (("--device", "abacus"), 1, "This machine has"),
    "dtype": (("--dtype", "int8"), 2, "'int8' is not one of"),
    "batch": (("--batch", "0"), 2, "0 is not in the range"),
    "format": (("--format", "gif"), 2, "'gif' is not one of"),
    "option": (("--colour", "red"), 2, "No such option"),
    "checkpoint": (("--checkpoint", "flux2-tinny"), 1, "Did you mean flux2-tiny"),
    "not fetched": (("--checkpoint", "flux2-2k"), 1, "latpix checkpoints fetch flux2-2k"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_refused_in_a_sentence(refused, small, tmp_path, name):
    options, code, sentence = BAD_OPTIONS[name]
    write_latent(tmp_path / "a.safetensors")
    message = refused("decode", "a.safetensors", "-o", "out", "--checkpoint", small, *options, code=code)
    assert sentence in message


def test_a_bad_option_ends_a_batch_once_and_not_for_every_input(refused, small, tmp_path):
    for name in ("a", "b", "c"):
        write_latent(tmp_path / f"{name}.safetensors")
    message = refused("decode", ".", "-o", "out", "--checkpoint", small, "--steps", "9", code=1)
    assert message.count("OptionError") == 1


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("upscale", "nowhere", "-o", "out"), 2, 'the folder "nowhere" does not exist'),
        (("upscale", "empty", "-o", "out"), 2, "holds no picture"),
        (("upscale", "*.webp", "-o", "out"), 2, "matches no picture"),
        (("upscale", "-o", "out"), 2, "no picture was given"),
        (("upscale", "a.png"), 2, "Missing option '-o'"),
        (("upscale", "gone.png", "-o", "out"), 1, '"gone.png" does not exist'),
        (("upscale", "a.png", "-o", "out.gif"), 1, "ends in .gif"),
        (("upscale", "a.png", "-o", "deep/out.png"), 1, 'make "deep" first'),
        (("upscale", "a.png", "-o", "a.png"), 1, "one of the inputs"),
        (("upscale", "a.png", "-o", "there"), 1, '"there/a.png" exists already'),
        (("upscale", "a.png", "-o", "a.png/out"), 1, "is a file"),
        (("upscale", "a.png", "--manifest", "jobs.jsonl", "-o", "out"), 2, "give one of them"),
        (("upscale", "--manifest", "gone.jsonl", "-o", "out"), 2, "does not exist"),
        (("encode", "a.png", "-o", "out.png"), 1, "ends in .png"),
        (("encode", "a.png", "-o", "out", "--space", "sd3"), 1, "did not come from the hub"),
        (("encode", "a.png", "-o", "out", "--space", "sd3", "--vae", "gone.pth"), 1, '"gone.pth" does not exist'),
        (("encode", "a.png", "-o", "out", "--space", "sd3", "--vae", "flux2-lite"), 1, 'not to "sd3"'),
        (("encode", "a.png", "-o", "out", "--space", "flux9"), 1, 'no latent space is called "flux9"'),
        (("upscale", "a.png", "-o", "out", "--vae", "a.png"), 1, '"a.png" is no VAE'),
        (("verify", "gone.png"), 2, "does not exist"),
        (("verify", "a.png"), 1, "does not say how it was made"),
        (("doctor", "--goldens", "gone"), 2, 'the golden folder "gone" does not exist'),
        (("doctor", "--goldens", "empty"), 2, "holds no golden set"),
        (("checkpoints", "show", "flux2-tinny"), 1, "Did you mean flux2-tiny"),
        (("checkpoints", "check", "a.png"), 1, "is not a weight file"),
        (("paint",), 2, "No such command"),
    ],
)
def test_a_wrong_name_is_refused_in_a_sentence(latpix, tmp_path, words, code, sentence):
    write_picture(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/a.png").touch()
    (tmp_path / "jobs.jsonl").write_text('{"image": "a.png"}')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    answer = latpix(*words)
    assert answer.code == code
    assert sentence in answer.err
    assert "Traceback" not in answer.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_full_disk_is_said_and_leaves_nothing(refused, small, tmp_path):
    write_latent(tmp_path / "a.safetensors")
    with files_of_at_most(1000):
        message = refused(
            "decode", "a.safetensors", "-o", "out.png", "--checkpoint", small, "--steps", 1, out="out.png"
        )
    assert message.startswith("OutputError: the disk is full")


def test_a_traceback_is_shown_when_asked_for(latpix, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    for words in (("upscale", "bad.png", "-o", "out"), ("upscale", "nowhere", "-o", "out")):
        assert "Traceback" in latpix(*words, "-vv").err

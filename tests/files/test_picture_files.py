"""Picture files: rounding, stories, refusals."""

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from latpix.errors import OutputError, PictureError
from latpix.files.picture_files import (
    PICTURE_SUFFIXES,
    PIXEL_BUDGET,
    picture_info,
    read_metadata,
    read_picture,
    save_picture,
)

LOSSLESS = [suffix for suffix in PICTURE_SUFFIXES if suffix not in (".jpg", ".jpeg")]
STORY = {"checkpoint": "flux2-tiny", "seed": 7, "latent_sigma": 0.25, "caption": 'Katze 🐈 "ä" 中', "tiles": None}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def levels(pixels):
    return ((pixels + 1) * 127.5).round().to(torch.uint8)


def png_of(width, height, *chunks):
    """The bytes of a PNG that claims a size and carries hardly anything."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        *(chunk(*one) for one in chunks),
        chunk(b"IDAT", zlib.compress(bytes(9))),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_every_level_comes_back_exactly(tmp_path, suffix):
    pixels = torch.arange(256.0).div(127.5).sub(1).expand(1, 3, 4, 256)
    save_picture(pixels, tmp_path / f"a{suffix}")
    torch.testing.assert_close(read_picture(tmp_path / f"a{suffix}"), pixels, rtol=0, atol=1e-6)


@given(st.floats(-2, 2, width=32))
def test_levels_are_rounded_to_the_nearest_and_clamped(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("rounding") / "a.png"
    save_picture(torch.full((3, 1, 1), value), path)
    written = np.asarray(Image.open(path))[0, 0, 0]
    assert abs(written - (min(max(value, -1), 1) + 1) * 127.5) <= 0.5 + 1e-5


def test_writing_what_was_read_changes_nothing(tmp_path):
    save_picture(noise(9, 13), tmp_path / "a.png")
    save_picture(read_picture(tmp_path / "a.png"), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_jpeg_keeps_the_resolution_of_colours(tmp_path):
    pixels = torch.zeros(1, 3, 16, 16)
    pixels[:, 0, :, ::2], pixels[:, 2, :, 1::2] = 0.5, 0.5  # red and blue columns, one pixel wide
    save_picture(pixels, tmp_path / "a.jpg")
    assert (read_picture(tmp_path / "a.jpg") - pixels).abs().max() < 0.08


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_how_a_picture_was_made_travels_with_it_in_every_format(tmp_path, suffix):
    save_picture(noise(5, 7), tmp_path / f"a{suffix}", metadata=STORY, icc_profile=SRGB)
    assert read_metadata(tmp_path / f"a{suffix}") == STORY
    info = picture_info(tmp_path / f"a{suffix}")
    assert (info.height, info.width, info.icc_profile) == (5, 7, SRGB)


def test_the_story_in_a_png_is_text_that_anyone_can_read(tmp_path):
    save_picture(noise(5, 7), tmp_path / "a.png", metadata=STORY)
    assert json.loads(Image.open(tmp_path / "a.png").text["latpix"]) == STORY
    assert "Katze 🐈".encode() in (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_a_picture_without_our_story_says_so(tmp_path, suffix):
    save_picture(noise(5, 7), tmp_path / f"a{suffix}")
    with pytest.raises(PictureError, match="does not say how it was made"):
        read_metadata(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("description", ["a cat", "[1, 2]", '{"other": 1}', "null"])
def test_a_stranger_s_description_is_not_taken_for_our_story(tmp_path, description):
    exif = Image.Exif()
    exif[0x010E] = description
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(PictureError, match="does not say how it was made"):
        read_metadata(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_read_upright(tmp_path, suffix, orientation):
    upright = torch.zeros(1, 3, 16, 32)
    upright[:, 0, :8, :8], upright[:, 1, :8, 24:] = 1, 1  # red at the top left, green at the top right
    turns = {  # how a camera held so stores it: the inverse of what EXIF 2.3, section 4.6.4, tells the reader to do
        1: lambda x: x,
        2: lambda x: x.flip(3),
        3: lambda x: x.flip(2, 3),
        4: lambda x: x.flip(2),
        5: lambda x: x.transpose(2, 3),
        6: lambda x: x.rot90(1, (2, 3)),
        7: lambda x: x.transpose(2, 3).flip(2, 3),
        8: lambda x: x.rot90(-1, (2, 3)),
    }
    stored = turns[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(levels(stored)[0].permute(1, 2, 0).contiguous().numpy())
    picture.save(tmp_path / f"a{suffix}", exif=exif, **({} if suffix in LOSSLESS[1:] else {"quality": 95}))
    back = read_picture(tmp_path / f"a{suffix}")
    assert back.shape == upright.shape
    assert (back - upright).abs().mean() < 0.1
    info = picture_info(tmp_path / f"a{suffix}")
    assert (info.height, info.width) == (16, 32)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_with_broken_exif_is_still_a_picture(tmp_path, suffix):
    Image.new("RGB", (16, 8), "white").save(tmp_path / f"a{suffix}", exif=b"Exif\0\0" + b"MM\xdb*" + bytes(30))
    assert (read_picture(tmp_path / f"a{suffix}") > 0.95).all()
    assert picture_info(tmp_path / f"a{suffix}").height == 8
    with pytest.raises(PictureError, match="does not say how it was made"):
        read_metadata(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_half_a_picture_is_refused(tmp_path, suffix):
    save_picture(noise(64, 64), tmp_path / "whole.png")
    save_picture(noise(64, 64), tmp_path / f"a{suffix}")
    data = (tmp_path / f"a{suffix}").read_bytes()
    for part in (len(data) // 2, 40):
        (tmp_path / f"b{suffix}").write_bytes(data[:part])
        with pytest.raises(PictureError, match="damaged or truncated"):
            read_picture(tmp_path / f"b{suffix}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"", r"is empty \(0 bytes\)"),
        ("a.png", b"hello, this is not a picture", "not a picture that latpix reads"),
        ("a.webp", b"RIFF\0\0\0\0WAVEfmt ", "not a picture that latpix reads"),
        ("a.gif", b"GIF89a\1\0\1\0\0\0\0;", r"not a picture that latpix reads \(PNG, JPEG, WebP, TIFF\); convert it"),
        ("a.jpg", b"\xff\xd8\xff" + bytes(100), "damaged or truncated"),
    ],
)
def test_what_is_not_a_picture_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for read in (read_picture, picture_info, read_metadata):
        with pytest.raises(PictureError, match=message):
            read(tmp_path / name)


def test_a_missing_picture_and_a_folder_are_refused(tmp_path):
    with pytest.raises(PictureError, match="does not exist"):
        read_picture(tmp_path / "no.png")
    with pytest.raises(PictureError, match="is a folder, not a picture"):
        read_picture(tmp_path)


def test_the_suffix_of_an_input_does_not_matter(tmp_path):
    save_picture(noise(5, 7), tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpeg")
    assert picture_info(tmp_path / "a.jpeg").format == "PNG"
    assert read_picture(tmp_path / "a.jpeg").shape == (1, 3, 5, 7)


def test_a_pixel_bomb_is_refused_from_its_header_with_the_budget_in_the_message(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_of(60_000, 60_000))
    with pytest.raises(PictureError, match=r"60000x60000 pixels \(3,600,000,000\), above the budget of 150,000,000"):
        read_picture(tmp_path / "bomb.png")
    with pytest.raises(PictureError, match="budget of 100;"):
        picture_info(tmp_path / "bomb.png", pixel_budget=100)


def test_how_a_huge_picture_was_made_can_still_be_read(tmp_path):
    (tmp_path / "huge.png").write_bytes(png_of(60_000, 60_000, (b"iTXt", b'latpix\0\0\0\0\0{"seed": 7}')))
    assert read_metadata(tmp_path / "huge.png") == {"seed": 7}


def test_a_header_is_read_without_the_pixels_behind_it(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of(300, 200))  # its pixels end after one
    info = picture_info(tmp_path / "a.png")
    assert (info.height, info.width) == (200, 300)
    with pytest.raises(PictureError, match="damaged or truncated"):
        read_picture(tmp_path / "a.png")


def test_a_bomb_in_webp_s_header_is_refused_before_its_canvas_is_made(tmp_path):
    canvas = struct.pack("<I", 0)[:4] + struct.pack("<I", 60_000 - 1)[:3] * 2
    chunk = b"VP8X" + struct.pack("<I", 10) + canvas
    (tmp_path / "bomb.webp").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)
    with pytest.raises(PictureError, match="too large"):
        read_picture(tmp_path / "bomb.webp")


def test_the_budget_is_what_may_pass_not_what_is_refused(tmp_path):
    save_picture(noise(5, 7), tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", pixel_budget=35).shape == (1, 3, 5, 7)
    with pytest.raises(PictureError, match=r"7x5 pixels \(35\), above the budget of 34"):
        read_picture(tmp_path / "a.png", pixel_budget=34)
    assert PIXEL_BUDGET >= 15_360 * 8_640


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_an_animated_picture_is_refused(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match=r"holds 3 frames; latpix reads still pictures"):
        read_picture(tmp_path / f"a{suffix}")


def test_of_a_camera_s_multi_picture_file_the_main_picture_is_read(tmp_path):
    main, preview = Image.new("RGB", (16, 8), "red"), Image.new("RGB", (8, 4), "blue")
    main.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    pixels = read_picture(tmp_path / "a.jpg")
    assert pixels.shape == (1, 3, 8, 16)
    assert pixels[0, 0].min() > 0.95


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), r"\[2, 3, 4, 4\] are not one picture"),
        (torch.zeros(4, 4, 3), r"expected \[3, H, W\]"),
        (torch.zeros(3, 4), "not one picture"),
        (torch.zeros(3, 0, 4), "not one picture"),
        (torch.full((3, 2, 2), torch.nan), "12 of 12 pixel values are NaN"),
    ],
)
def test_pixels_that_are_not_one_picture_are_refused(tmp_path, pixels, message):
    with pytest.raises(PictureError, match=message):
        save_picture(pixels, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_an_output_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    save_picture(noise(5, 7), tmp_path / "a.png")
    for name, message in [("a.png", "exists already"), ("a.bmp", "expected one of .png, .jpg"), ("no/a.png", "folder")]:
        with pytest.raises(OutputError, match=message):
            save_picture(noise(5, 7), tmp_path / name)
    save_picture(noise(5, 9), tmp_path / "a.png", overwrite=True)
    assert picture_info(tmp_path / "a.png").width == 9
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_format_s_own_limit_is_told_in_a_sentence(tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written as WEBP: .*PNG has no such limit"):
        save_picture(torch.zeros(3, 1, 17_000), tmp_path / "a.webp")
    with pytest.raises(OutputError, match="cannot be written as JPEG"):
        save_picture(torch.zeros(3, 1, 1), tmp_path / "a.jpg", metadata={"caption": "x" * 70_000})
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_carries_gradients_or_rests_in_bfloat16_is_written(tmp_path):
    save_picture(torch.ones(3, 2, 2, dtype=torch.bfloat16, requires_grad=True), tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png") == 1).all()

"""Whatever depth and colour mode a file has, red, green and blue come out."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from latpix.errors import PictureError
from latpix.files.picture_files import picture_info, read_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


def colour_at(path, row=0, column=0):
    """One pixel, in levels from 0 to 255."""
    return [round(value, 2) for value in ((read_picture(path)[0, :, row, column] + 1) * 127.5).tolist()]


def made_up_profile(colours, lightness):
    """An ICC profile whose table (mft1) has two points a channel, with the given L of each and no colour."""
    channels = {b"CMYK": 4, b"GRAY": 1}[colours]
    identity = struct.pack(">9i", *(65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    nodes = np.full((2**channels, 3), 128, dtype=np.uint8)  # Lab in bytes: L * 255 / 100, a + 128, b + 128
    nodes[:, 0] = np.round(np.array(lightness) * 2.55)
    ramp = bytes(range(256))
    table = (
        b"mft1\0\0\0\0" + struct.pack(">BBBx", channels, 3, 2) + identity + ramp * channels + nodes.tobytes() + ramp * 3
    )
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    entries = [(b"A2B0", table), (b"wtpt", white)]
    offset, directory, body = 128 + 4 + 12 * len(entries), struct.pack(">I", len(entries)), b""
    for name, data in entries:
        data += bytes(-len(data) % 4)
        directory += struct.pack(">4sII", name, offset + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s12s4s", offset + len(body), b"none", 0x02400000, b"prtr", colours, b"Lab ", b"", b"acsp"
    )
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + directory + body


def test_sixteen_bit_grey_keeps_its_precision(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 257, 65535]], dtype=np.uint16))
    for name in ("a.png", "a.tif"):
        pixels = read_picture(saved(tmp_path / name, picture))
        expected = torch.tensor([0, 1, 257, 65535.0]) / 65535 * 2 - 1
        torch.testing.assert_close(pixels[0], expected.expand(3, 1, 4), rtol=0, atol=1e-6)


def test_sixteen_bit_colour_is_read_by_its_high_bytes(tmp_path):
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + struct.pack(">3H", 0x80FF, 0x0000, 0xFFFF)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    assert colour_at(tmp_path / "a.png") == [0x80, 0, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bitmaps_grey_and_palette_become_rgb(tmp_path, mode):
    picture = Image.new("RGB", (4, 4), "white").convert(mode)
    for suffix in (".png", ".tif"):
        assert colour_at(saved(tmp_path / f"{mode}{suffix}", picture)) == [255, 255, 255]


def test_a_palette_gives_its_colours(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    saved(tmp_path / "a.png", picture)
    assert (colour_at(tmp_path / "a.png"), colour_at(tmp_path / "a.png", column=1)) == ([10, 20, 30], [200, 100, 50])


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (0, 0, 0, 0), [255, 255, 255]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (0, 100, 200, 51), [204, 224, 244]),
        ("LA", (0, 51), [204, 204, 204]),
    ],
)
def test_transparency_is_laid_over_white(tmp_path, mode, colour, expected):
    for suffix in (".png", ".tif", *([".webp"] if mode == "RGBA" else [])):
        path = saved(
            tmp_path / f"a{suffix}",
            Image.new(mode, (2, 2), colour),
            **({"lossless": True} if suffix == ".webp" else {}),
        )
        assert colour_at(path) == expected, suffix


@pytest.mark.parametrize(("mode", "colour"), [("L", 9), ("RGB", (9, 9, 9)), ("P", 9)])
def test_the_transparent_colour_of_a_png_becomes_white(tmp_path, mode, colour):
    picture = Image.new(mode, (2, 1), colour)
    if mode == "P":
        picture.putpalette(bytes(3 * 10))
    picture.putpixel((1, 0), 0 if mode != "RGB" else (0, 0, 0))
    saved(tmp_path / "a.png", picture, transparency=colour)
    assert colour_at(tmp_path / "a.png") == [255, 255, 255]
    assert colour_at(tmp_path / "a.png", column=1) == [0, 0, 0]


def test_cmyk_without_a_profile_follows_the_plain_formula(tmp_path):
    for suffix, tolerance in ((".tif", 1), (".jpg", 4)):
        path = saved(tmp_path / f"a{suffix}", Image.new("CMYK", (8, 8), (51, 0, 102, 0)))
        assert colour_at(path) == pytest.approx([204, 255, 153], abs=tolerance)


def test_cmyk_with_a_profile_goes_through_it_to_srgb_and_leaves_the_profile_behind(tmp_path):
    lightness = [100, *[0] * 7, 50, *[0] * 7]  # white paper; full cyan, alone, is a middle grey; all else is black
    profile = made_up_profile(b"CMYK", lightness)
    for suffix in (".tif", ".jpg"):
        path = saved(tmp_path / f"a{suffix}", Image.new("CMYK", (8, 8), (255, 0, 0, 0)), icc_profile=profile)
        assert colour_at(path) == pytest.approx([119, 119, 119], abs=2)  # L 50 in sRGB; the formula says [0, 255, 255]
        assert picture_info(path).icc_profile is None


def test_a_grey_profile_is_applied_and_left_behind(tmp_path):
    profile = made_up_profile(b"GRAY", lightness=[0, 100])  # the level is the lightness: 128 is L 50
    path = saved(tmp_path / "a.png", Image.new("L", (2, 2), 128), icc_profile=profile)
    assert colour_at(path) == pytest.approx([119, 119, 119], abs=2)
    assert picture_info(path).icc_profile is None


def test_an_rgb_profile_of_a_grey_picture_describes_its_three_channels(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("L", (2, 2), 128), icc_profile=SRGB)
    assert colour_at(path) == [128, 128, 128]
    assert picture_info(path).icc_profile == SRGB


@pytest.mark.parametrize("profile", [b"x", b"\0" * 16 + b"CMYK" + b"\0" * 200, SRGB])
def test_a_broken_or_foreign_profile_is_as_good_as_none(tmp_path, profile):
    path = saved(tmp_path / "a.tif", Image.new("CMYK", (8, 8), (51, 0, 102, 0)), icc_profile=profile)
    assert colour_at(path) == pytest.approx([204, 255, 153], abs=1)
    assert picture_info(path).icc_profile is None


def test_an_rgb_profile_is_reported_and_the_values_are_left_alone(tmp_path):
    for suffix in (".png", ".tif"):
        path = saved(tmp_path / f"a{suffix}", Image.new("RGB", (2, 2), (10, 20, 30)), icc_profile=SRGB)
        assert picture_info(path).icc_profile == SRGB
        assert colour_at(path) == [10, 20, 30]


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_values_without_a_known_meaning_are_refused(tmp_path, mode):
    with pytest.raises(PictureError, match=f"values of mode {mode}, which does not say what white is"):
        read_picture(saved(tmp_path / "a.tif", Image.new(mode, (2, 2))))

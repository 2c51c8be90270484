"""Which pictures count as the same."""

import io
from functools import cache

import pytest
import torch
from PIL import Image

from latpix.data.likeness import Look, Seen, look_at
from latpix.data.made_up import made_up
from latpix.data.pictures import decode


@cache
def picture(number=0):
    return Image.fromarray(made_up(0, number, height=192, width=256).permute(1, 2, 0).numpy())


def look(image, **saved):
    data = io.BytesIO()
    image.save(data, **(saved or {"format": "PNG"}))
    return look_at(decode(data.getvalue(), "it"))


@pytest.mark.parametrize("number", range(4))
def test_saving_again_and_another_size_keep_the_look(number):
    image = picture(number)
    for again in (
        look(image, format="JPEG", quality=50),
        look(image.resize((128, 96), Image.Resampling.LANCZOS)),
        look(image.resize((512, 384), Image.Resampling.BICUBIC), format="WEBP", quality=70),
    ):
        assert look(image).is_like(again)


@pytest.mark.parametrize("number", range(4))
def test_another_crop_mirror_or_colour_is_another_picture(number):
    image = picture(number)
    red = Image.merge("RGB", [image.split()[0].point(lambda level: level // 2), *image.split()[1:]])
    for other in (
        image.crop((24, 18, 256, 192)),
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        image.resize((256, 160)),
        red,
    ):
        assert not look(image).is_like(look(other))


def test_no_two_made_up_pictures_are_alike():
    seen = Seen()
    for number in range(6):
        one = look(picture(number))
        assert seen.find(one) is None
        seen.add(one, str(number))
    assert seen.find(look(picture(3), format="JPEG", quality=60)) == "3"


def test_flat_pictures_are_told_by_their_colour():
    seen = Seen()
    seen.add(look_at(torch.full((3, 64, 64), 100, dtype=torch.uint8)), "grey")
    assert seen.find(look_at(torch.full((3, 96, 96), 102, dtype=torch.uint8))) == "grey"
    assert seen.find(look_at(torch.full((3, 64, 64), 140, dtype=torch.uint8))) is None


def test_a_look_survives_json():
    one = look(picture())
    assert Look.from_json(one.to_json()) == one

"""Data of the tiny recipes: a sample is a function of its number, and base pictures are made of whole latents."""

import pytest
import torch
from small_assets import write_assets

from latpix.backbones.codec import Codec
from latpix.checkpoints.registry import find
from latpix.data.pictures import reduced
from latpix.errors import UsageError
from latpix.network.base_decoder import BaseDecoder
from latpix.training.latent_noising import noise_by
from latpix.training.pairs import SCALE, crop
from latpix.training.tiny_pairs import Eyes, TinyPairs, corners, count_crops, sizes, squares


@pytest.fixture(scope="module")
def codec():
    return Codec.load("flux2-lite", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def data(codec):
    return TinyPairs(None, codec, size=128, seed=3)


def test_a_sample_depends_on_its_number_not_on_who_else_is_drawn(data):
    all_four, one = data.draw(7, range(4)), data.draw(7, [2])
    assert all_four.names[2] == one.names[0]
    assert torch.equal(all_four.pairs.pixels[2], one.pairs.pixels[0])
    assert torch.equal(all_four.pairs.latent[2], one.pairs.latent[0])
    assert data.draw(8, [2]).names != one.names
    assert "made up" in one.names[0]


def test_the_source_names_only_what_latents_came_from(data, codec, tmp_path):
    assert data.source == "latents of flux2-lite; made-up pictures"
    write_assets(tmp_path)
    only_taef2 = TinyPairs(tmp_path, codec, size=64, seed=0, square=1, lite_share=0.0)
    assert only_taef2.source.startswith("latents of TAEF2 (MIT); photographs: ")


def test_pixels_native_picture_and_latent_of_a_crop_lie_on_each_other(data, codec):
    pairs = data.draw(0, range(4)).pairs
    assert pairs.pixels.shape == (4, 3, 128, 128)
    assert pairs.latent.shape == (4, 128, 8, 8)
    small = reduced(pairs.pixels, SCALE)
    aligned = (pairs.native - small).square().mean()
    assert aligned < 0.1 * (pairs.native.roll(4, 3) - small).square().mean()


def test_the_base_picture_of_a_crop_is_the_whole_one_s_and_knows_of_its_noise(data):
    torch.manual_seed(0)
    base = BaseDecoder(find("flux2-tiny").network).requires_grad_(False)
    pairs = data.draw(1, range(2)).pairs
    sigma = torch.tensor([0.0, 0.5])
    latent = noise_by("flow", pairs.latent, torch.randn(pairs.latent.shape), sigma)
    eyes = Eyes(base, pairs, "float32")
    inside, picture = eyes.look(latent, sigma)
    assert torch.equal(inside, crop(latent, pairs.corner, 2, 1))
    assert torch.equal(picture, crop(base(latent, sigma), pairs.corner, 2, 64))
    assert eyes.look(latent, sigma)[1] is picture  # the next network sees the same
    assert picture.dtype == torch.float32
    with_low = Eyes(base, pairs, "bfloat16").look(latent, sigma)[1]
    assert not torch.equal(with_low, picture)


def test_large_photographs_are_used_at_half_size_and_small_ones_are_left_out():
    assert sizes(600, 700, "lomiri") == [False]
    assert sizes(1100, 2000, "lomiri") == [True]
    assert sizes(1100, 2000, "clic2025") == [False, True]
    assert sizes(400, 2000, "clic2025") == []


def test_squares_fit_a_picture_evenly():
    assert corners(512, 512) == [0]
    assert corners(700, 512) == [94]
    assert corners(1365, 512) == [0, 426, 853]
    picture = torch.arange(3 * 520 * 1040).remainder(256).to(torch.uint8).view(3, 520, 1040)
    found = list(squares(picture, 8))
    assert [(top, left) for top, left, _ in found] == [(4, 0), (4, 528)]
    assert torch.equal(found[1][2], picture[:, 4:516, 528:])


def test_a_size_that_no_crop_can_have_is_refused(codec):
    for size in (0, 32, 100, 1024):
        with pytest.raises(UsageError, match=f"size={size}"):
            TinyPairs(None, codec, size=size, seed=0)
        with pytest.raises(UsageError, match=f"size={size}: expected a multiple of 64 up to 512"):
            count_crops(None, size)


def test_photographs_are_paired_counted_and_named(tmp_path, codec):
    write_assets(tmp_path, "photos/cid22/a.png", "photos/clic2025/b.png")
    data = TinyPairs(tmp_path, codec, size=256, seed=0)
    photographs = ["a.png from 0,0", "a.png from 0,0 mirrored", "b.png from 0,0", "b.png from 0,0 mirrored"]
    assert data.names[:4] == photographs
    assert {name.split()[0] for name in data.names[4:]} == {"made", "flat"}
    flat = [name.startswith("flat") for name in data.names]
    assert data.chances.sum() == pytest.approx(1)
    assert data.chances[flat].sum() == pytest.approx(0.05)
    assert count_crops(tmp_path, 256) == 4 * len(data.names)
    assert "1 of cid22" in data.source
    assert "latents of flux2-lite and TAEF2 (MIT);" in data.source
    kinds = {name.rsplit("(", 1)[1] for name in data.draw(0, range(12)).names}
    assert kinds == {"taef2)", "lite)"}

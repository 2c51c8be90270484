"""Data of the tiny recipes: a sample is a function of its number, and base pictures know of their surroundings."""

import pytest
import torch
from small_assets import write_assets

from latpix.backbones.codec import Codec
from latpix.checkpoints.registry import find
from latpix.data.pictures import reduced
from latpix.errors import UsageError
from latpix.network.base_decoder import BaseDecoder, overview
from latpix.training.latent_noising import noise_by
from latpix.training.pairs import MARGIN, SCALE
from latpix.training.tiny_pairs import Eyes, TinyPairs, count_crops, noised_overviews, versions


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
    assert torch.equal(all_four.pairs.surroundings[2], one.pairs.surroundings[0])
    assert data.draw(8, [2]).names != one.names
    assert "made up" in one.names[0]


def test_pixels_native_picture_and_latent_of_a_crop_lie_on_each_other(data, codec):
    pairs = data.draw(0, range(4)).pairs
    assert pairs.pixels.shape == (4, 3, 128, 128)
    assert pairs.latent.shape == (4, 128, 2, 2)
    small = reduced(pairs.pixels, SCALE)
    aligned = (pairs.native - small).square().mean()
    assert aligned < 0.1 * (pairs.native.roll(4, 3) - small).square().mean()


def test_the_base_picture_of_a_crop_knows_of_its_surroundings_and_noise(data):
    torch.manual_seed(0)
    base = BaseDecoder(find("flux2-tiny").network).requires_grad_(False)
    pairs = data.draw(1, range(2)).pairs
    sigma = torch.tensor([0.0, 0.5])
    latent = noise_by("flow", pairs.surroundings, torch.randn(pairs.surroundings.shape), sigma)
    eyes = Eyes(base, pairs, "float32")
    crop, picture = eyes.look(latent, sigma)
    assert torch.equal(crop, latent[..., MARGIN:-MARGIN, MARGIN:-MARGIN])
    edge = MARGIN * 64
    whole = base(latent, sigma, noised_overviews(pairs.seen, sigma))
    assert torch.equal(picture, whole[..., edge:-edge, edge:-edge])
    assert eyes.look(latent, sigma)[1] is picture  # the next network sees the same
    assert picture.dtype == torch.float32
    with_low = Eyes(base, pairs, "bfloat16").look(latent, sigma)[1]
    assert not torch.equal(with_low, picture)


def test_overviews_of_noised_latents_are_foretold_one_by_one():
    generator = torch.Generator().manual_seed(0)
    latent = 0.5 + 0.8 * torch.randn(2, 128, 40, 40, generator=generator)
    sigma = torch.tensor([0.2, 0.6])
    noisy = noise_by("flow", latent, torch.randn(latent.shape, generator=generator), sigma)
    foretold = noised_overviews(overview(latent, 2), sigma)
    torch.testing.assert_close(foretold, overview(noisy, 2), atol=0.03, rtol=0)


def test_large_photographs_are_used_at_half_size_and_small_ones_are_left_out():
    assert versions(600, 700, "lomiri") == [(9, 10, False)]
    assert versions(1100, 2000, "lomiri") == [(8, 15, True)]
    assert versions(1100, 2000, "clic2025") == [(17, 31, False), (8, 15, True)]
    assert versions(400, 2000, "clic2025") == []


def test_a_size_that_no_crop_can_have_is_refused(codec):
    for size in (0, 32, 100, 1024):
        with pytest.raises(UsageError, match=f"size={size}"):
            TinyPairs(None, codec, size=size, seed=0)
        with pytest.raises(UsageError, match=f"size={size}: expected a multiple of 64 up to 512"):
            count_crops(None, size)


def test_photographs_are_paired_counted_and_named(tmp_path, codec):
    write_assets(tmp_path, "photos/cid22/a.png", "photos/clic2025/b.png")
    data = TinyPairs(tmp_path, codec, size=256, seed=0)
    assert data.names == ["a.png", "a.png mirrored", "b.png", "b.png mirrored"]
    assert count_crops(tmp_path, 256) == 2 * 2 * 4
    assert "1 of cid22" in data.source
    kinds = {name.rsplit("(", 1)[1] for name in data.draw(0, range(12)).names}
    assert kinds == {"taef2)", "lite)"}

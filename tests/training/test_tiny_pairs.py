"""Data of the tiny recipes: a sample is a function of its number, and a noised latent brings its own base picture."""

import pytest
import torch
from made_pictures import dead_leaves
from PIL import Image

from latpix.backbones.codec import Codec
from latpix.backbones.lite import overview
from latpix.backbones.taef2 import Taef2
from latpix.errors import UsageError
from latpix.training.latent_noising import noise_by
from latpix.training.pairs import MARGIN, reduce
from latpix.training.photographs import to_levels
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


def test_pixels_base_and_latent_of_a_crop_lie_on_each_other(data, codec):
    pairs = data.draw(0, range(4)).pairs
    assert pairs.pixels.shape == (4, 3, 128, 128)
    assert pairs.latent.shape == (4, 128, 2, 2)
    reduced = reduce(pairs.pixels)
    aligned = (pairs.base - reduced).square().mean()
    assert aligned < 0.5 * (pairs.base.roll(4, 3) - reduced).square().mean()


def test_the_base_of_a_noised_latent_is_its_decode_and_that_of_a_clean_one_is_kept(data, codec):
    pairs = data.draw(1, range(2)).pairs
    sigma = torch.tensor([0.0, 0.5])
    latent = noise_by("flow", pairs.surroundings, torch.randn(pairs.surroundings.shape), sigma)
    eyes = Eyes(codec, pairs)
    crop, base = eyes.look(latent, sigma)
    assert torch.equal(crop, latent[..., MARGIN:-MARGIN, MARGIN:-MARGIN])
    assert torch.equal(base[0], pairs.base[0])
    edge = MARGIN * 16
    decoded = codec.decode(latent[1:], seen=noised_overviews(pairs.seen[1:], sigma[1:]))
    torch.testing.assert_close(base[1:], decoded[..., edge:-edge, edge:-edge], rtol=0, atol=1e-5)
    assert eyes.look(latent, sigma)[1] is base  # the next network sees the same


def test_overviews_of_noised_latents_are_foretold_one_by_one():
    generator = torch.Generator().manual_seed(0)
    latent = 0.5 + 0.8 * torch.randn(2, 128, 40, 40, generator=generator)
    sigma = torch.tensor([0.2, 0.6])
    noisy = noise_by("flow", latent, torch.randn(latent.shape, generator=generator), sigma)
    torch.testing.assert_close(noised_overviews(overview(latent), sigma), overview(noisy), atol=0.03, rtol=0)


def test_large_photographs_are_used_at_half_size_and_small_ones_are_left_out():
    assert versions(600, 700, "lomiri") == [(9, 10, False)]
    assert versions(1100, 2000, "lomiri") == [(8, 15, True)]
    assert versions(1100, 2000, "clic2025") == [(17, 31, False), (8, 15, True)]
    assert versions(400, 2000, "clic2025") == []


def test_a_size_that_no_crop_can_have_is_refused(codec):
    for size in (100, 1024):
        with pytest.raises(UsageError, match=f"size={size}"):
            TinyPairs(None, codec, size=size, seed=0)


def test_photographs_are_paired_counted_and_named(tmp_path, codec):
    torch.manual_seed(0)
    taef2 = Taef2()
    (tmp_path / "taef2").mkdir()
    torch.save(taef2.encoder.state_dict(), tmp_path / "taef2/taef2_encoder.pth")
    torch.save(taef2.decoder.state_dict(), tmp_path / "taef2/taef2_decoder.pth")
    for k, name in enumerate(("photos/cid22/a.png", "photos/clic2025/b.png")):
        (tmp_path / name).parent.mkdir(parents=True)
        levels = to_levels(dead_leaves(512, 520, seed=k, count=40)[0])
        Image.fromarray(levels.permute(1, 2, 0).numpy()).save(tmp_path / name)
    data = TinyPairs(tmp_path, codec, size=256, seed=0)
    assert data.names == ["a.png", "a.png mirrored", "b.png", "b.png mirrored"]
    assert count_crops(tmp_path, 256) == 2 * 2 * 4
    assert "1 of cid22" in data.source
    kinds = {name.rsplit("(", 1)[1] for name in data.draw(0, range(12)).names}
    assert kinds == {"taef2)", "lite)"}

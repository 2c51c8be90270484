import pytest
import torch
from made_pictures import dead_leaves

from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import Taef2
from latpix.network.base_decoder import overview
from latpix.training.pairs import CELL, MARGIN, SCALE, cut, make_pair
from latpix.training.photographs import reduce, to_levels, to_pixels


@pytest.fixture(scope="module")
def taef2():
    torch.manual_seed(0)
    return Taef2().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def codec():
    return Codec.load("flux2-lite", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def picture():
    return to_levels(dead_leaves(512, 640)[0])


@pytest.fixture(scope="module")
def pair(picture, taef2, codec):
    return make_pair(picture, taef2, codec, side=4, hints=True)


def test_a_pair_holds_both_latents_and_what_each_stands_for(pair, picture, taef2, codec):
    assert pair.latents.shape == (2, 128, 8, 10)
    assert pair.natives.shape == (2, 3, 128, 160)
    small = to_pixels(reduce(picture, SCALE))[None]
    torch.testing.assert_close(pair.latents[1].float(), codec.encode(small)[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(pair.natives[1].float(), small[0], atol=1e-3, rtol=0)
    decoded = taef2.decode(pair.latents[:1].float())[0]
    torch.testing.assert_close(pair.natives[0].float(), decoded, atol=0.02, rtol=0)  # bfloat16 inside
    assert len(pair.chances) == (8 - 3) * (10 - 3)


def test_without_taef2_both_latents_are_ours(picture, codec):
    pair = make_pair(picture, None, codec, side=4)
    assert torch.equal(pair.latents[0], pair.latents[1])
    assert torch.equal(pair.natives[0], pair.natives[1])
    assert pair.hints == ()


@pytest.mark.parametrize("kind", [0, 1])
def test_a_crop_holds_the_same_place_of_latent_native_picture_and_pixels(pair, kind):
    place = 2 * pair.columns + 3  # two cells down, three to the right
    around, seen, native, pixels, hinted, *hints = cut(pair, place, kind, 4)
    assert torch.equal(around, pair.latents[kind, :, 2 - MARGIN : 6 + MARGIN, 3 - MARGIN : 7 + MARGIN].float())
    assert torch.equal(native, pair.natives[kind, :, 2 * CELL : 6 * CELL, 3 * CELL : 7 * CELL].float())
    side = CELL * SCALE
    assert torch.equal(pixels, to_pixels(pair.picture[:, 2 * side : 6 * side, 3 * side : 7 * side]))
    assert hinted == (kind == 0)  # TAEF2's decoder says nothing of our latents
    for level, hint in enumerate(hints):
        cell = 2 << level  # places per side of a latent cell
        assert torch.equal(hint, hinted * pair.hints[level][:, 2 * cell : 6 * cell, 3 * cell : 7 * cell].float())
    assert torch.equal(seen, overview(pair.latents[kind][None].float(), 2)[0])


def test_at_a_picture_s_border_the_latent_goes_on(pair):
    around = cut(pair, 0, 0, 4)[0]
    assert torch.equal(around[:, 0], around[:, MARGIN])
    assert torch.equal(around[:, :, 0], around[:, :, MARGIN])


def test_hints_are_what_taef2_makes_its_picture_of(pair, taef2):
    assert [hint.shape for hint in pair.hints] == [(64, 16, 20), (64, 32, 40), (64, 64, 80)]
    picture, levels = taef2.decode_levels(pair.latents[:1].float())
    assert torch.equal(picture, taef2.decode(pair.latents[:1].float()))
    finished = (taef2.decoder[16:](levels[-1]) * 2 - 1).clamp(-1, 1)
    torch.testing.assert_close(finished, picture, rtol=0, atol=1e-5)
    for hint, level in zip(pair.hints, levels, strict=True):
        torch.testing.assert_close(hint.float(), level[0], atol=0.05 * float(level.abs().max()), rtol=0)

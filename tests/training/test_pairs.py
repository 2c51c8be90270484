import pytest
import torch
from made_pictures import dead_leaves

from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import Taef2
from latpix.training.pairs import CELL, SCALE, crop, cut, make_pair, stack
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
    return to_levels(dead_leaves(512, 512)[0])


@pytest.fixture(scope="module")
def pair(picture, taef2, codec):
    return make_pair(picture, taef2, codec, side=4, hint=1)


def test_a_pair_holds_both_latents_and_what_each_stands_for(pair, picture, taef2, codec):
    assert pair.latents.shape == (2, 128, 8, 8)
    assert pair.natives.shape == (2, 3, 128, 128)
    small = to_pixels(reduce(picture, SCALE))[None]
    torch.testing.assert_close(pair.latents[1].float(), codec.encode(small)[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(pair.natives[1].float(), small[0], atol=1e-3, rtol=0)
    decoded = taef2.decode(pair.latents[:1].float())[0]
    torch.testing.assert_close(pair.natives[0].float(), decoded, atol=0.02, rtol=0)  # bfloat16 inside
    assert len(pair.chances) == (8 - 3) * (8 - 3)


def test_without_taef2_both_latents_are_ours(picture, codec):
    pair = make_pair(picture, None, codec, side=4)
    assert torch.equal(pair.latents[0], pair.latents[1])
    assert torch.equal(pair.natives[0], pair.natives[1])
    assert pair.hint is None


@pytest.mark.parametrize("kind", [0, 1])
def test_a_crop_holds_the_same_place_of_native_picture_and_pixels_and_the_whole_latent(pair, kind):
    place = 2 * pair.columns + 3  # two cells down, three to the right
    cropped = cut(pair, place, kind, 4)
    assert torch.equal(cropped.latent[0], pair.latents[kind].float())
    assert cropped.corner.tolist() == [[2, 3]]
    assert torch.equal(cropped.native[0], pair.natives[kind, :, 2 * CELL : 6 * CELL, 3 * CELL : 7 * CELL].float())
    side = CELL * SCALE
    assert torch.equal(cropped.pixels[0], to_pixels(pair.picture[:, 2 * side : 6 * side, 3 * side : 7 * side]))
    assert torch.equal(cropped.hint[0], pair.hint.float())


def test_each_sample_is_cropped_at_its_own_corner():
    whole = torch.arange(2 * 6 * 6.0).view(2, 1, 6, 6)
    crops = crop(whole, torch.tensor([[0, 1], [2, 0]]), 1, 2)
    assert torch.equal(crops[0], whole[0, :, 0:2, 2:4])
    assert torch.equal(crops[1], whole[1, :, 4:6, 0:2])


def test_crops_stack_to_a_batch(pair):
    crops = [cut(pair, place, kind, 4) for place, kind in ((0, 0), (7, 1))]
    batch = stack(crops)
    assert torch.equal(batch.pixels[1], crops[1].pixels[0])
    assert batch.corner.tolist() == [[0, 0], [1, 2]]
    assert batch.hint.shape == (2, 64, 32, 32)


def test_a_hint_is_what_taef2_makes_its_picture_of(pair, picture, taef2, codec):
    decoded, levels = taef2.decode_levels(pair.latents[:1].float())
    assert torch.equal(decoded, taef2.decode(pair.latents[:1].float()))
    finished = (taef2.decoder[16:](levels[-1]) * 2 - 1).clamp(-1, 1)
    torch.testing.assert_close(finished, decoded, rtol=0, atol=1e-5)
    hints = [make_pair(picture, taef2, codec, side=4, hint=level).hint for level in range(3)]
    assert [hint.shape for hint in hints] == [(64, 16, 16), (64, 32, 32), (64, 64, 64)]
    for hint, level in zip(hints, levels, strict=True):
        torch.testing.assert_close(hint.float(), level[0], atol=0.05 * float(level.abs().max()), rtol=0)

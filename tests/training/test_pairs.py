import numpy as np
import pytest
import torch
from made_pictures import dead_leaves

from latpix.backbones.codec import Codec
from latpix.backbones.lite import overview
from latpix.backbones.taef2 import Taef2
from latpix.training.pairs import CELL, MARGIN, SCALE, PairStore, make_pair, reduce
from latpix.training.photographs import to_levels, to_pixels


@pytest.fixture(scope="module")
def tools():
    torch.manual_seed(0)
    return Taef2().eval(), Codec.load("flux2-lite", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def picture():
    return to_levels(dead_leaves(512, 640)[0])


def test_a_pair_holds_both_latents_of_the_reduced_picture_and_their_decodes(tools, picture):
    taef2, codec = tools
    pair = make_pair(picture, taef2, codec, side=4)
    assert pair.latents.shape == (2, 128, 8, 10)
    assert pair.bases.shape == (2, 3, 128, 160)
    small = reduce(to_pixels(picture)[None])
    torch.testing.assert_close(pair.latents[1].float(), codec.encode(small)[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(pair.bases[1].float(), codec.decode(codec.encode(small))[0], atol=2e-3, rtol=2e-3)
    assert len(pair.chances) == (8 - 3) * (10 - 3)


def test_crops_of_latent_base_and_pixels_lie_on_each_other(tools, picture):
    store = PairStore([picture], *tools, side=4)
    batch = store.draw(np.random.default_rng(1), 6)
    assert batch.latent.shape == (6, 128, 4, 4)
    assert batch.surroundings.shape == (6, 128, 4 + 2 * MARGIN, 4 + 2 * MARGIN)
    assert batch.pixels.shape == (6, 3, 4 * CELL * SCALE, 4 * CELL * SCALE)
    # flux2-lite was trained to give the picture back, so a crop elsewhere would be far off.
    near = (reduce(batch.pixels) - batch.base).square().mean((1, 2, 3))
    far = (reduce(batch.pixels) - batch.base.roll(1, 0)).square().mean((1, 2, 3))
    assert (near < far).float().mean() > 0.5


def test_a_picture_and_its_mirror_stand_in_the_store_and_small_ones_do_not(tools, picture):
    store = PairStore([picture, picture[:, :300]], *tools, side=4)
    assert len(store.pairs) == 2
    assert torch.equal(store.pairs[0].picture.flip(-1), store.pairs[1].picture)


def test_what_is_seen_is_the_overview_of_the_whole_latent(tools, picture):
    store = PairStore([picture], *tools, side=8)
    batch = store.draw(np.random.default_rng(0), 4)
    wholes = torch.stack([overview(latent[None].float())[0] for pair in store.pairs for latent in pair.latents])
    assert torch.cdist(batch.seen, wholes).min(1).values.max() < 1e-3

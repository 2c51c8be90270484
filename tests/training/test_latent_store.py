"""The store of pictures and latents: crops lie on their latents, and a broken-off run finds the same store again."""

import numpy as np
import pytest
import torch
from PIL import Image

from latpix.backbones.lite import LiteEncoder, overview
from latpix.backbones.taef2 import Taef2
from latpix.training.latent_store import LatentStore
from latpix.training.photographs import Photograph, to_pixels


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return _store(tmp_path_factory.mktemp("photographs"))


def _store(folder) -> LatentStore:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    listed = []
    for number in range(3):
        picture = Image.fromarray(generator.integers(0, 255, (48 + 16 * number, 80, 3), dtype=np.uint8))
        picture.save(folder / f"{number}.png")
        listed.append(Photograph(path=folder / f"{number}.png", source="x", license="y"))
    return LatentStore(listed, Taef2().requires_grad_(False), LiteEncoder(), side=2, seed=3)


def _filled(store: LatentStore, calls: int) -> LatentStore:
    while store.encoded < calls:
        store.encode_next()
    return store


def test_a_crop_of_the_latent_lies_on_the_crop_of_the_picture(store):
    crops = _filled(store, 3).draw(6, step=0, margin=4)
    for pixels, latent in zip(crops.pixels, crops.latent, strict=True):
        assert any(_found_together(entry, pixels, latent) for entry in store.entries.values())


def _found_together(entry, pixels, latent) -> bool:
    rows, columns = entry.latent.shape[1] - 1, entry.latent.shape[2] - 1
    return any(
        torch.equal(to_pixels(entry.levels[:, 16 * i : 16 * i + 32, 16 * j : 16 * j + 32]), pixels)
        and torch.equal(entry.latent[:, i : i + 2, j : j + 2].float(), latent)
        for i in range(rows)
        for j in range(columns)
    )


def test_the_margin_is_left_out_except_where_the_picture_ends(store):
    crops = _filled(store, 3).draw(16, step=1, margin=4)
    sides = {tuple(int(n) for n in inside.sum(dim=(1, 2)) ** 0.5) for inside in crops.inside[:, :, 8:24, 8:24]}
    assert sides == {(16,)}
    assert (crops.inside.mean(dim=(1, 2, 3)) < 1).all()
    assert crops.inside.mean(dim=(1, 2, 3)).min() >= (24 / 32) ** 2


def test_each_crop_comes_with_the_overviews_of_its_whole_latents(store):
    crops = _filled(store, 3).draw(6, step=2, margin=4)
    known = [overview(entry.latent[None].float())[0] for entry in store.entries.values()]
    for seen in crops.seen:
        assert min((seen - one).abs().max() for one in known) < 1e-3  # the store keeps latents in float16


def test_looking_again_follows_our_encoder_and_not_taef2(tmp_path):
    store = _filled(_store(tmp_path), 3)
    before = {key: entry.seen for key, entry in store.entries.items()}
    torch.nn.init.constant_(store.ours.leave.bias, 2.0)
    store.look_again()
    for key, entry in store.entries.items():
        assert torch.equal(entry.seen[0], before[key][0])
        assert (entry.seen[1][:32] - before[key][1][:32]).abs().min() > 1


def test_a_step_draws_the_same_crops_whenever_it_is_asked(store):
    _filled(store, 3)
    assert torch.equal(store.draw(4, step=7, margin=4).pixels, store.draw(4, step=7, margin=4).pixels)
    assert not torch.equal(store.draw(4, step=7, margin=4).pixels, store.draw(4, step=8, margin=4).pixels)


def test_a_resumed_run_finds_the_same_store(tmp_path):
    unbroken = _filled(_store(tmp_path), 5)
    resumed = _store(tmp_path)
    resumed.fast_forward(unbroken.encoded, unbroken.encoded_pixels)
    assert resumed.entries.keys() == unbroken.entries.keys()
    for key, entry in unbroken.entries.items():
        assert torch.equal(resumed.entries[key].levels, entry.levels)
        assert torch.equal(resumed.entries[key].latent, entry.latent)
    assert resumed.encoded_pixels == unbroken.encoded_pixels


def test_the_second_round_shows_pictures_from_another_place(tmp_path):
    store = _filled(_store(tmp_path), 3)
    before = {key: entry.levels for key, entry in store.entries.items()}
    _filled(store, 6)
    assert any(not torch.equal(before[key], entry.levels) for key, entry in store.entries.items())


def test_channel_variance_is_that_of_all_cells(store):
    _filled(store, 3)
    cells = torch.cat([entry.latent.float().flatten(1) for entry in store.entries.values()], dim=1)
    torch.testing.assert_close(store.channel_variance().flatten(), cells.var(dim=1))

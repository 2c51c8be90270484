"""One picture in tiles against the same picture in one piece."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small_decoder import NETWORK
from small_networks import SMALL_V1_5, close, small_network

from latpix import Decoder, bands, one_decode
from latpix.checkpoints.registry import STUDENT, find
from latpix.evaluation.metrics.seam import seam_ratio
from latpix.network.pieces import Pieces
from latpix.one_decode import OneDecode
from latpix.tiling import Tile, cut_tiles

CELL = 64
TIMES = torch.tensor([0.999, 0.5, 0.0])


def quiet(*_):
    """Report nothing."""


def small_one(height=9, width=11, *, times=TIMES, **changes):
    """A decode by a small network of flux2-tiny's form, whose every weight is drawn."""
    config = replace(NETWORK, **changes)
    row = replace(find("flux2-tiny"), network=config, sampling=replace(STUDENT, prediction="x0"))
    latent = 0.5 * torch.randn(1, 128, height, width, generator=torch.Generator().manual_seed(3))
    return OneDecode(network=small_network(config), row=row, latent=latent, latent_sigma=0.2, seed=1, times=times)


def test_a_tile_as_large_as_the_picture_paints_what_one_piece_does(tmp_path):
    """To rounding: matrix products see other strides. (``Decoder`` takes the one piece, bit for bit.)"""
    one, reports, whole_reports = small_one(2, 3), [], []
    whole = one.whole(lambda i, n, x0: whole_reports.append((i, n, x0)))
    for folder in (None, tmp_path):
        reports.clear()
        painted = one.tiled(8, lambda i, n, x0: reports.append((i, n, x0.clone())), folder).whole()
        close(painted, whole, 1e-5)
        assert [report[:2] for report in reports] == [report[:2] for report in whole_reports]
        for a, b in zip(reports, whole_reports, strict=True):
            close(a[2], b[2], 1e-5)


def test_tiles_in_files_are_those_in_memory(tmp_path, monkeypatch):
    """The base picture is painted in blocks there, which see just as far as the base decoder does."""
    monkeypatch.setattr(one_decode, "BLOCK", 3)
    monkeypatch.setattr(bands, "BAND", 50)
    one = small_one(base_blocks=(2, 1, 2, 1))
    base, projected = one._prepare(None)
    in_files, also_projected = one._prepare(tmp_path)
    close(in_files.whole(), base.whole(), 1e-5)
    close(also_projected.whole(), projected.whole(), 1e-5)
    close(one.tiled(8, quiet, tmp_path).whole(), one.tiled(8, quiet).whole(), 1e-4)


def test_a_tile_of_a_network_with_windows_paints_what_the_whole_picture_does_away_from_its_edges():
    """One block, one window: what a tile's edge cuts is at most one window of 4 cells away."""
    one = small_one(8, 16, times=torch.tensor([0.7, 0.0]), latent_depth=0)
    whole, tiled = one.whole(quiet), one.tiled(10, quiet).whole()
    left, right = cut_tiles(8, 16, 10)
    assert (left.left, right.left) == (0, 6)
    sure = [slice(0, 4 * CELL), slice(12 * CELL, 16 * CELL)]
    for columns in sure:
        close(tiled[..., columns], whole[..., columns], 1e-5)
    assert (tiled - whole).abs().max() > 1e-3  # in between a window was cut


def test_tiles_share_the_latent_features_of_the_whole_picture():
    """Group norms see the whole picture: one bright cell far away changes every tile's features, as in one piece."""
    one = small_one(8, 16, times=torch.tensor([0.7, 0.0]), base_blocks=(0, 0, 0, 0))
    far = one.latent.clone()
    far[..., 15] += 5
    changed = replace(one, latent=far)
    near = (..., slice(0, 4 * CELL))
    assert (changed.tiled(10, quiet).whole()[near] - one.tiled(10, quiet).whole()[near]).abs().max() > 1e-4


def test_tiles_whose_gates_make_their_features_from_tokens_paint_the_same():
    one = small_one(8, 16)
    kept, made = (
        replace(one, pieces=Pieces(tokens=100, patches=100, keep_features=keep)).tiled(10, quiet).whole()
        for keep in (True, False)
    )
    close(made, kept, 1e-5)
    close(kept, one.tiled(10, quiet).whole(), 1e-4)


def test_each_patch_has_its_own_sigma_and_equal_ones_are_one_for_all():
    one = small_one(8, 8)
    even = replace(one, sigma_map=torch.full((1, 32, 32), 0.2))
    assert torch.equal(even.whole(quiet), one.whole(quiet))
    half = torch.full((1, 32, 32), 0.2)
    half[..., 16:] = 0.8
    in_pieces = replace(one, sigma_map=half, pieces=Pieces(tokens=100)).whole(quiet)
    close(in_pieces, replace(one, sigma_map=half).whole(quiet), 1e-5)
    halved, noisy = replace(one, sigma_map=half).whole(quiet), replace(one, sigma_map=half.flip(2)).whole(quiet)
    assert not torch.equal(halved, noisy)
    tiled = replace(one, sigma_map=half, latent=one.latent).tiled(8, quiet).whole()
    close(tiled, halved, 1e-5)


def worded(**changes):
    """A decode of v1.5's form, guided, and how often some of its layers run."""
    config = replace(SMALL_V1_5, latent_channels=16, latent_downsample=8, patch_size=16)
    row = replace(find("flux1-2kto4k-v1.5-teacher"), network=config)
    generator = torch.Generator().manual_seed(3)
    latent, *captions = (torch.randn(shape, generator=generator) for shape in ((1, 16, 12, 8), (1, 5, 12), (1, 3, 12)))
    one = OneDecode(
        network=small_network(config), row=row, latent=latent, latent_sigma=0.2, captions=captions, seed=1, times=TIMES
    )
    network, ran = one.network, Counter()
    watched = {
        "stack": [network.latent_projection.latent_stack],
        "heads": network.latent_projection.heads,
        "caption": [network.caption_embedding],
        "time": [stream.modulation for block in network.patch_blocks for stream in block.streams],
        "calls": [network],
    }
    for name, modules in watched.items():
        for module in modules:
            module.register_forward_hook(lambda *_, name=name: ran.update([name]))
    return one, ran


def test_guidance_and_steps_share_the_latents_features_and_what_time_says():
    one, ran = worded()
    one.whole(quiet)
    config = one.row.network
    assert ran == {"stack": 1, "heads": config.latent_outputs, "caption": 2, "time": 2 * config.depth, "calls": 4}


def test_tiles_share_the_captions_and_what_time_says():
    one, ran = worded()
    tiled = one.tiled(8, quiet)
    config, tiles = one.row.network, len(cut_tiles(12, 8, 8))
    assert ran == {
        "stack": 1, "heads": 2 * tiles * config.latent_outputs, "caption": 2, "time": 2 * config.depth,
        "calls": 4 * tiles,
    }  # fmt: skip
    assert tiles == 2
    assert tiled.whole().isfinite().all()


def test_guidance_is_that_of_two_decoders_told_apart():
    one, _ = worded()
    x_t, t = one._noise(0, Tile(0, 0, *one.size)), torch.tensor([0.5])
    given = {"height": one.size[0], "width": one.size[1], "latent": one.latent, "latent_sigma": one._sigma}
    captioned, null = (
        one.network(x_t, 1000 * t, one.network.condition(**given, caption=caption)) for caption in one.captions
    )
    told = one._told()
    condition = one.network.condition(**given, tokens=told.tokens, times=told.times)
    scale = one.row.sampling.guidance_scale
    close(one._guided(condition, told)(x_t, t), null + scale * (captioned - null), 1e-5)
    assert scale > 1
    assert (captioned - null).abs().max() > 1e-3


@pytest.fixture(scope="module")
def tiny():
    return Decoder.load("flux2-tiny", device="cpu", dtype="float32")


def sky(cells):
    """The shipped codec's latent of a photograph's like: a soft sky over a textured ground."""
    from made_pictures import dead_leaves

    from latpix import Codec

    side = 16 * cells
    down = torch.linspace(0, 1, side).view(1, 1, -1, 1)
    picture = torch.cat([0.1 + 0.5 * down, 0.3 + 0.4 * down, 0.8 + 0.1 * down], dim=1).expand(1, 3, side, side).clone()
    picture[..., side // 2 :, :] = dead_leaves(side - side // 2, side)
    return Codec.load("flux2-lite", device="cpu", dtype="float32").encode(picture)


def flat(cells):
    """Of flat grey."""
    from latpix import Codec

    return Codec.load("flux2-lite", device="cpu", dtype="float32").encode(torch.zeros(1, 3, 16 * cells, 16 * cells))


@pytest.mark.parametrize("subject", [sky, flat])
def test_along_the_edges_of_tiles_the_gradient_is_that_of_the_whole_decode_within_three_percent(tiny, subject):
    cells, side = 12, 8
    tiles = cut_tiles(cells, cells, side)
    edges = {CELL * edge for tile in tiles for edge in (tile.top, tile.top + side)} - {0, CELL * cells}
    assert len(tiles) == 4
    latent = subject(cells)
    whole, tiled = (tiny.decode(latent, steps=1, tile=tile) for tile in ("off", side))
    ratio = seam_ratio(tiled, edges, edges) / seam_ratio(whole, edges, edges)
    assert (ratio - 1).abs().max() < 0.03

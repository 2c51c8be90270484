from itertools import pairwise

import pytest
import torch

from latpix.tiling import OVERLAP, Tile, cut_tiles, tiled

CELL = 4


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 8), (9, 23, 8), (64, 40, 16), (17, 8, 32), (12, 12, 11)])
def test_tiles_cover_every_cell_and_share_the_overlap(height, width, side):
    seen = torch.zeros(height, width)
    tiles = cut_tiles(height, width, side)
    for tile in tiles:
        assert tile.top >= 0
        assert tile.left >= 0
        tile.crop(seen[None, None])[0, 0].add_(1)
    assert seen.min() >= 1
    tops, lefts = sorted({tile.top for tile in tiles}), sorted({tile.left for tile in tiles})
    for starts, length in ((tops, min(side, height)), (lefts, min(side, width))):
        assert all(a + length - b >= OVERLAP for a, b in pairwise(starts))


def test_one_tile_is_the_whole_prediction_itself():
    def predict(x_t, t):
        return x_t * 2

    assert tiled([predict], cut_tiles(8, 8, 8), CELL) is predict


def test_tiles_that_agree_give_what_they_agree_on():
    x_t = torch.randn(1, 3, 20 * CELL, 13 * CELL)
    tiles = cut_tiles(20, 13, 8)
    whole = tiled([lambda x, t: x * 3 + t.view(-1, 1, 1, 1)] * len(tiles), tiles, CELL)
    torch.testing.assert_close(whole(x_t, torch.tensor([0.5])), x_t * 3 + 0.5)


def test_tiles_that_differ_are_blended_without_a_step():
    tiles = cut_tiles(8, 14, 8)
    assert len(tiles) == 2
    left, right = (lambda value: lambda x, t: torch.full_like(x, value))(0.0), lambda x, t: torch.ones_like(x)
    blend = tiled([left, right], tiles, CELL)(torch.zeros(1, 3, 8 * CELL, 14 * CELL), torch.ones(1))
    row = blend[0, 0, 0]
    assert row[0] == 0
    assert row[-1] == 1
    steps = row.diff()
    assert steps.min() >= 0
    assert steps.max() <= 1.01 / (OVERLAP * CELL)


def test_a_crop_is_a_view_at_the_cells_scale():
    picture = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(Tile(1, 2, 2, 1).crop(picture, 2), picture[..., 2:6, 4:6])

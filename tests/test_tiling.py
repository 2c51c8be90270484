from itertools import pairwise

import pytest
import torch

from latpix import tiling
from latpix.canvas import Canvas
from latpix.evaluation.metrics.seam import seam_ratio
from latpix.sampling.samplers import sample, step_multistep, step_ode, step_renoise
from latpix.sampling.schedules import solver_times
from latpix.tiling import Tile, Weights, cut_pieces, cut_tiles, overlap_of, sample_in_tiles

CELL = 4
SIZES = [(8, 8, 8), (9, 23, 8), (64, 40, 16), (17, 8, 32), (12, 12, 11), (9, 9, 8)]


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
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
        assert all(a + length - b >= overlap_of(side) for a, b in pairwise(starts))


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_the_weights_of_all_tiles_add_up_to_one_at_every_pixel(height, width, side):
    tiles = cut_tiles(height, width, side)
    weights, total = Weights(tiles, CELL), torch.zeros(height * CELL, width * CELL)
    for tile in tiles:
        part = tile.times(CELL)
        total[part.rows, part.columns] += weights.of(part)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_weights_rise_and_fall_without_a_step_or_a_kink():
    """A raised cosine: flat where it begins and ends, never steeper than pi / 2 over the overlap."""
    tiles = cut_tiles(8, 14, 8)
    assert len(tiles) == 2
    row = Weights(tiles, CELL).of(tiles[1].times(CELL))[0]
    steps, shared = row.diff(), 2 * CELL
    assert steps.min() >= 0
    assert steps.max() <= 1.01 * torch.pi / 2 / shared
    assert row[0] < 0.1 * steps.max()
    assert (row[shared:] == 1).all()
    bends = torch.cat([row.new_zeros(1), steps]).diff().abs()
    assert bends.max() < 1.5 * (torch.pi / shared) ** 2 / 2


def test_pieces_cover_every_pixel_once(monkeypatch):
    monkeypatch.setattr(tiling, "PIECE", 5)
    seen = torch.zeros(12, 7)
    for piece in cut_pieces(12, 7):
        seen[piece.rows, piece.columns] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("step", [step_renoise, step_ode, step_multistep])
@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("prediction", ["velocity", "x0"])
def test_tiles_that_agree_paint_what_the_whole_picture_does(step, in_files, prediction, tmp_path, monkeypatch):
    """A network that sees single pixels, and where they are, is the same in tiles; in any pieces, in memory or not."""
    monkeypatch.setattr(tiling, "PIECE", 17)
    height, width, times = 20 * CELL, 13 * CELL, solver_times(4, 3.0)
    field = torch.randn(5, 1, 3, height, width, generator=torch.Generator().manual_seed(0))
    places = torch.linspace(-1, 1, width).expand(1, 3, height, width)
    tiles = cut_tiles(20, 13, 8)
    reports, whole_reports = [], []

    def network(x_t, t, place):
        return 0.3 * x_t + place * t.view(-1, 1, 1, 1)

    painted = sample_in_tiles(
        step,
        lambda tile: lambda x_t, t: network(x_t, t, tile.crop(places, CELL)),
        lambda draw, part: field[draw][..., part.rows, part.columns],
        times,
        tiles,
        CELL,
        lambda: Canvas(height, width, folder=tmp_path if in_files else None),
        prediction=prediction,
        on_step=lambda i, n, x0: reports.append((i, n, x0.clone())),
    )
    whole = sample(
        step,
        lambda x_t, t: network(x_t, t, places),
        lambda draw: field[draw],
        times,
        prediction=prediction,
        on_step=lambda i, n, x0: whole_reports.append((i, n, x0)),
    )
    torch.testing.assert_close(painted.whole(), whole, rtol=0, atol=2e-5)
    assert [report[:2] for report in reports] == [report[:2] for report in whole_reports]
    for (_, _, tiled_x0), (_, _, x0) in zip(reports, whole_reports, strict=True):
        torch.testing.assert_close(tiled_x0, x0, rtol=0, atol=2e-5)


def test_tiles_that_differ_start_every_step_from_one_state():
    """What two tiles see of a shared pixel is the same number, though they paint it differently."""
    tiles, times, seen = cut_tiles(8, 14, 8), torch.tensor([0.9, 0.5, 0.0]), []
    shared = slice(tiles[1].left * CELL, 8 * CELL)

    def bind(tile):
        def paint(x_t, _t):
            part = x_t[..., shared] if tile.left == 0 else x_t[..., : 8 * CELL - tiles[1].left * CELL]
            seen.append(part.clone())
            return torch.full_like(x_t, float(tile.left))

        return paint

    sample_in_tiles(
        step_renoise,
        bind,
        lambda draw, part: torch.full((1, 3, part.height, part.width), float(draw)),
        times,
        tiles,
        CELL,
        lambda: Canvas(8 * CELL, 14 * CELL),
        prediction="x0",
        on_step=lambda *_: None,
    )
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert seen[2].std() > 0.1  # blended of what differs


def test_tiles_of_different_brightness_leave_no_seam():
    """Each tile is brighter or darker by a third; across its edges the texture steps as it does without."""
    cell, tiles = 32, cut_tiles(20, 20, 8)
    texture = 0.1 * torch.randn(1, 3, 640, 640, generator=torch.Generator().manual_seed(0))
    brightness = [0.3 * (-1) ** k for k in range(len(tiles))]
    painted = sample_in_tiles(
        step_renoise,
        lambda tile: lambda x_t, _t: tile.crop(texture, cell) + brightness[tiles.index(tile)],
        lambda _draw, part: torch.zeros(1, 3, part.height, part.width),
        torch.tensor([1.0, 0.0]),
        tiles,
        cell,
        lambda: Canvas(640, 640),
        prediction="x0",
        on_step=lambda *_: None,
    ).whole()
    edges = {cell * edge for tile in tiles for edge in (tile.top, tile.top + 8)} - {0, 640}
    assert (painted - texture).std() > 0.1
    ratio = seam_ratio(painted, edges, edges) / seam_ratio(texture, edges, edges)
    assert (ratio - 1).abs().max() < 0.03


def test_a_crop_is_a_view_at_the_cells_scale():
    picture = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(Tile(1, 2, 2, 1).crop(picture, 2), picture[..., 2:6, 4:6])


def test_a_tile_grows_as_far_as_the_picture_reaches():
    assert Tile(1, 4, 2, 3).grown(2, 8, 8) == Tile(0, 2, 5, 6)

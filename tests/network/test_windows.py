"""Attention in windows: cut, padding, positions, and how far a patch is seen."""

from dataclasses import replace

import pytest
import torch
from small_networks import SMALL_TINY, call, close, small_inputs, small_network

from latpix.network import attention
from latpix.network.attention import cut_windows, make_scopes

SHALLOW = replace(SMALL_TINY, depth=1, pixel_depth=1, latent_depth=0)


@pytest.mark.parametrize(("rows", "columns", "side", "shift"), [(4, 4, 2, 0), (4, 4, 2, 1), (5, 3, 3, 1), (1, 9, 4, 2)])
def test_every_patch_comes_back_from_its_window(rows, columns, side, shift):
    windows = cut_windows(rows, columns, side, shift=shift)
    patches = torch.randn(2, rows * columns, 3)
    assert torch.equal(windows.merge(windows.split(patches), 2), patches)


def test_windows_of_an_odd_block_start_half_a_window_above_and_left():
    windows = cut_windows(3, 3, 2, shift=1)
    assert windows.index.where(windows.inside, -1).tolist() == [
        [-1, -1, -1, 0], [-1, -1, 1, 2], [-1, 3, -1, 6], [4, 5, 7, 8],
    ]  # fmt: skip


@pytest.mark.parametrize(("grid", "shift"), [((4, 6), 0), ((4, 6), 1), ((5, 6), 0), ((1, 1), 0), ((2, 2), 0)])
def test_a_mask_is_there_when_a_window_reaches_over_the_border_and_only_then(grid, shift):
    windows = cut_windows(*grid, 2, shift=shift)
    assert windows.padded is not bool(windows.inside.all())
    assert (windows.mask(1) is not None) is windows.padded


@pytest.mark.parametrize("side", [2, 3])
def test_one_window_as_large_as_the_grid_is_whole_attention(side):
    windowed = replace(SHALLOW, attention_window=side, rope_reference=(16, 32))
    network, given = small_network(windowed), small_inputs(windowed, grid=(side, side))
    whole = small_network(replace(windowed, attention_window=None))
    close(call(network, given), call(whole, given))


def attend(scope, q, k, v):
    everywhere = slice(0, q.shape[1])
    return scope.attend(scope.turn(q, everywhere), scope.turn(k, everywhere), v)


@pytest.mark.parametrize("grid", [(4, 4), (5, 7), (1, 1)])
def test_windows_in_groups_are_the_windows_at_once(grid, monkeypatch):
    monkeypatch.setattr(attention, "GROUP", 3)
    q, k, v = torch.randn(3, 2, grid[0] * grid[1], 2, 8).unbind(0)
    for scope in make_scopes(*grid, 8, reference=None, window=2):
        at_once = attend(scope, q, k, v)
        with torch.no_grad():
            assert torch.equal(attend(scope, q, k, v), at_once)


def test_a_window_is_placed_like_a_whole_picture_of_its_size():
    """Four windows of 2x2 patches compute what four pictures of 2x2 patches would."""
    q, k, v = torch.randn(3, 1, 16, 2, 8).unbind(0)
    scope, _ = make_scopes(4, 4, 8, reference=(2, 4), window=2)
    alone, _ = make_scopes(2, 2, 8, reference=(2, 4), window=None)
    corner = torch.tensor([10, 11, 14, 15])  # the last window's patches
    close(attend(scope, q, k, v)[:, corner], attend(alone, q[:, corner], k[:, corner], v[:, corner]))


def test_padding_is_never_looked_at():
    q, k, v = torch.randn(3, 1, 9, 2, 8).unbind(0)
    _, odd = make_scopes(3, 3, 8, reference=None, window=2)
    attended = attend(odd, q, k, v)
    assert torch.allclose(attended[:, 0], v[:, 0].flatten(1))  # a corner patch, alone in its window, sees itself


def test_parts_that_lie_alike_in_their_windows_share_a_scope():
    first, moved, other = (
        make_scopes(4, 4, 8, reference=None, window=4, origin=origin) for origin in [(1, 2), (5, 14), (2, 2)]
    )
    assert moved[1] is first[1]
    assert not torch.equal(other[1].windows.place, first[1].windows.place)


@pytest.mark.parametrize(("depth", "reach"), [(1, 2), (2, 4)])
def test_a_patch_is_seen_exactly_as_far_as_the_windows_reach(depth, reach):
    """The first patch's window holds 2x2 patches; an odd block's carry it to a third, the next to a fourth."""
    config = replace(SHALLOW, depth=depth)
    network, given = small_network(config), small_inputs(config, grid=(6, 6), batch=1)
    changed = {**given, "x_t": given["x_t"].clone()}
    changed["x_t"][..., :8, :8] += 1
    difference = (call(network, changed) - call(network, given)).abs().amax(dim=(0, 1))
    seen = difference.unflatten(1, (6, 8)).unflatten(0, (6, 8)).amax(dim=(1, 3)) > 0  # [6, 6] patches
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[:reach, :reach] = True
    assert torch.equal(seen, expected)

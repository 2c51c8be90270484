"""Rotary tables, waves and patches against what their definitions say at points that can be worked out by hand."""

import math

import pytest
import torch

from latpix.network.layers import timestep_waves
from latpix.network.patches import from_patches, to_patches
from latpix.network.rope import Rotation, grid_rotation, rotate, sequence_rotation


def angles(rotation):
    return torch.atan2(rotation.sin, rotation.cos)


def test_positions_span_sixteen_on_both_axes_columns_in_even_pairs():
    rotation = grid_rotation(3, 5, 8)  # frequencies 1 and 10000^(-1/2), columns and rows in turn
    turned = angles(rotation).view(3, 5, 4)
    expected = [((16 * 3 / 4) + math.pi) % (2 * math.pi) - math.pi, 8 - 2 * math.pi, 0.12, 0.08]
    torch.testing.assert_close(turned[1, 3], torch.tensor(expected), rtol=0, atol=1e-5)


def test_a_single_row_stands_at_position_zero():
    rotation = grid_rotation(1, 4, 8, reference=(4, 4))
    assert not angles(rotation)[:, 1::2].any()
    assert angles(rotation)[1:, 0::2].all()


@pytest.mark.parametrize("grid", [(4, 6), (9, 2)])
def test_the_adaptive_table_is_the_plain_one_at_its_reference(grid):
    plain, adaptive = grid_rotation(*grid, 16), grid_rotation(*grid, 16, reference=grid)
    assert torch.equal(plain.cos, adaptive.cos)
    assert torch.equal(plain.sin, adaptive.sin)


def test_each_axis_adapts_by_itself():
    plain, adaptive = grid_rotation(4, 6, 16), grid_rotation(4, 6, 16, reference=(2, 6))
    assert torch.equal(plain.cos[:, 0::2], adaptive.cos[:, 0::2])
    assert not torch.equal(plain.cos[:, 1::2], adaptive.cos[:, 1::2])


def test_a_larger_grid_turns_its_slow_pairs_slower():
    """theta grows to 10000 * 2^(8/6) for twice the rows, so pair 3 of 4 of the axis turns by theta^(-12/16)."""
    rotation = grid_rotation(8, 8, 16, reference=(4, 4))
    last = angles(rotation).view(8, 8, 8)[7, 0, 7]
    assert float(last) == pytest.approx(16 * (10000 * 2 ** (8 / 6)) ** -0.75, rel=1e-5)


def test_caption_positions_count_from_zero():
    assert not angles(sequence_rotation(3, 8))[0].any()
    torch.testing.assert_close(angles(sequence_rotation(3, 8, theta=16.0))[2], torch.tensor([2.0, 1.0, 0.5, 0.25]))


def test_rotation_turns_adjacent_channels_and_keeps_their_length():
    quarter = Rotation(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    x = torch.tensor([3.0, 4.0, 5.0, 6.0]).view(1, 1, 1, 4)
    assert rotate(x, quarter).flatten().tolist() == [-4.0, 3.0, 5.0, 6.0]


def test_attention_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 8).unbind(0)
    rotation = sequence_rotation(9, 8)
    q, k = (rotate(x.expand(1, 9, 1, 8), rotation)[0, :, 0] for x in (q, k))
    scores = q @ k.T
    torch.testing.assert_close(scores[:-1, :-1], scores[1:, 1:], rtol=1e-4, atol=1e-4)


def test_waves_of_a_timestep_have_cosines_first_and_a_longest_period_constant_of_ten():
    waves = timestep_waves(torch.tensor([0.0, 3.0]))
    assert waves[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert float(waves[1, 64]) == pytest.approx(math.cos(3 / math.sqrt(10)), abs=1e-6)
    assert float(waves[1, 128]) == pytest.approx(math.sin(3), abs=1e-6)


def test_patches_are_row_major_and_channels_of_a_patch_stay_together():
    picture = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    patches = to_patches(picture, 2)  # [1, 6, 2, 4]
    assert patches[0, 4].tolist() == [[14.0, 15.0, 20.0, 21.0], [38.0, 39.0, 44.0, 45.0]]


def test_patches_go_back_where_they_came_from():
    picture = torch.randn(2, 3, 8, 12)
    assert torch.equal(from_patches(to_patches(picture, 4).transpose(2, 3), 2, 3), picture)

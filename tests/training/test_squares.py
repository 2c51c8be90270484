"""Squares of photographs: a sample is a function of its number, all of a step are of one side, flat ones are rare."""

import re

import numpy as np
import pytest
import torch
from made_pictures import dead_leaves
from PIL import Image

from latpix.errors import UsageError
from latpix.training.photographs import Photograph, to_levels, to_pixels
from latpix.training.squares import GROUPS, Squares, count_squares


def photograph(path, levels):
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(path)
    return Photograph(path=path, source="x", license="y")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    leaves = to_levels(dead_leaves(208, 304, count=120)[0])
    flat = torch.full((3, 112, 112), 90, dtype=torch.uint8)
    return [photograph(folder / "leaves.png", leaves), photograph(folder / "flat.png", flat)]


@pytest.fixture(scope="module")
def data(listed):
    return Squares(listed, size=96, seed=3)


def test_a_sample_depends_on_its_number_not_on_who_else_is_drawn(data):
    three, one = data.draw(7, range(3)), data.draw(7, [2])
    assert torch.equal(three.pixels[2 * one.group :], one.pixels)
    assert three.names[2 * one.group :] == one.names
    assert data.draw(8, [2]).names != one.names


def test_no_two_draws_of_a_run_begin_alike(data, monkeypatch):
    begun, make = [], np.random.default_rng

    def noted(numbers):
        begun.append(make(numbers).bit_generator.state["state"]["state"])
        return make(numbers)

    monkeypatch.setattr(np.random, "default_rng", noted)
    monkeypatch.setattr(data, "seed", 1)
    for step in range(4):
        data.draw(step, range(4))
    assert len(set(begun)) == len(begun) == 4 * (1 + 4)


def test_every_step_has_one_side_and_all_sides_have_their_turns(data):
    seen = {}
    for step in range(12):
        batch = data.draw(step, range(2))
        seen[batch.pixels.shape[-1]] = batch.group
        assert len(batch.pixels) == len(batch.names) == 2 * batch.group
    assert seen == {32 * third: count for third, count in GROUPS.items()}


def test_a_square_lies_where_its_name_says_mirrored_or_not(data):
    found = 0
    for step in range(8):
        batch = data.draw(step, range(4))
        length = batch.pixels.shape[-1]
        for square, name in zip(batch.pixels, batch.names, strict=True):
            left, top, side = map(int, re.search(r"at (\d+),(\d+), (\d+) pixels", name).groups())
            if side == length:
                levels = data.pictures[data.names.index(name.split(" at ")[0])]
                there = to_pixels(levels[:, top : top + side, left : left + side])
                assert torch.equal(square, there) or torch.equal(square, there.flip(-1))
                found += 1
    assert found > 8


def test_flat_places_are_drawn_less_often(data):
    names = [name for step in range(30) for name in data.draw(step, range(2)).names]
    flat = sum(name.startswith("flat.png") for name in names) / len(names)
    assert 0 < flat < 0.4  # it would be about a half


@pytest.mark.parametrize(("size", "message"), [(100, "a multiple of 96"), (288, "largest square is one of 208")])
def test_a_size_that_no_square_can_have_is_refused(listed, size, message):
    with pytest.raises(UsageError, match=message):
        Squares(listed, size=size, seed=0)


def test_squares_that_share_no_pixel_are_counted_at_every_reduction(listed):
    assert count_squares(listed, 96) == 2 * 3 + 1 * 1 + 1  # full size, half of the first, the flat one
